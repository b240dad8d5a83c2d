"""Registers the papers' tasks and mixtures with seqio; touches no file and no network.

`spot` imports this when a name is none of the tasks that ship, so no module need be named.
"""

from spot_jax.data import size_checks
from tasks.papers import (  # noqa: F401
    common_sense,
    crossfit,
    fewglue,
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
    sizes,
    super_glue,
)

size_checks.register(sizes.difference)
# They mix what the others have registered.
mixtures.register()
