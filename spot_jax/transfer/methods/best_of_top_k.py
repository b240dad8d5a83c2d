"""Best of top-k (Vu et al. 2022, section 3.3): tune from each of the k most similar prompts.

The paper takes the best of the k results; which split that is judged on: `splits`.
"""

from spot_jax.transfer.methods.base import Start, Work


def starts(work: Work) -> list[Start]:
    """One start for each retrieved prompt."""
    return [Start(one.task, one.file, one.id) for one in work.retrieved]
