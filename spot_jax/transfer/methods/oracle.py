"""The oracle (Vu et al. 2022, section 3.3): tune from every prompt there is, so no retrieval errs.

It is best of top-k with k the whole library, and its choice too is made on validation: where the
paper's oracle is the best score there is, ours is the best that could have been chosen.
"""

from spot_jax.transfer.methods.base import Start, Work
from spot_jax.transfer.methods.best_of_top_k import starts as best_of


def starts(work: Work) -> list[Start]:
    """One start for each prompt of the library that has not seen the target."""
    return best_of(work)
