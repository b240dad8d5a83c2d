"""No transfer: the target's prompt begins as prompt tuning's do. What the others compare with."""

from spot_jax.transfer.methods.base import Start, Work


def starts(work: Work) -> list[Start]:
    """One start, of no prompt."""
    return [Start("scratch")]
