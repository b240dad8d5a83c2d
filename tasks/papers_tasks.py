"""Registers the papers' tasks and mixtures with seqio; touches no file and no network.

`spot` imports this when a name is none of the tasks that ship, so no module need be named.
"""

from tasks.papers import (  # noqa: F401
    common_sense,
    crossfit,
    files,
    generation,
    glue,
    inference,
    lama,
    mixtures,
    pretraining,
    ptuning,
    questions,
    sentiment,
    super_glue,
)

# They mix what the others have registered.
mixtures.register()
