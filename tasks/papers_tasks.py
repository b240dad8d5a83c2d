"""Registers the papers' tasks and mixtures with seqio; touches no file and no network.

`spot` imports this when a name is none of the tasks that ship, so no module need be named.
"""

from tasks.papers import crossfit, files, lama

for _family in (files, crossfit, lama):
    _family.register()
