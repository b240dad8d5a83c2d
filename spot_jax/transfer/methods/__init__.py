"""The ways to begin a target's prompt: what `spot transfer --method` names.

Each module says from which prompts a target is tuned, as a list of starts. All that follows is
the same for all of them: every start is tuned, the best on validation is chosen.
"""

from spot_jax.errors import SpotError
from spot_jax.transfer.methods import (
    best_of_top_k,
    multitask_mixture,
    oracle,
    scratch,
    weighted_average,
)
from spot_jax.transfer.methods.base import TransferMethod

METHODS: dict[str, TransferMethod] = {
    "scratch": TransferMethod(scratch.starts, retrieves=False, uses_top_k=False),
    "best_of_top_k": TransferMethod(best_of_top_k.starts),
    "weighted_average": TransferMethod(weighted_average.starts),
    "multitask_mixture": TransferMethod(multitask_mixture.starts),
    "oracle": TransferMethod(oracle.starts, uses_top_k=False),
}


def method_of(name: str) -> TransferMethod:
    """The method of a name; `SpotError` with all names if there is none."""
    if name not in METHODS:
        raise SpotError(f"there is no transfer method {name!r}, but {', '.join(METHODS)}")
    return METHODS[name]
