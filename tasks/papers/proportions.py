"""SPoT's mixtures as numbers, which need neither seqio nor data (Vu et al. 2022, appendix B).

Rates are example-proportional with an artificial limit: a task of n training examples comes in
proportion to min(n, 2^19) (section 2.1.3). The numbers are the catalogue's, so that a mixture is
built where no data is.
"""

from tasks.papers.catalogue import CATALOGUE

MAXIMUM = 2**19
PREFIX = "spot_"


def mixtures() -> dict[str, dict[str, int]]:
    """Return each mixture's tasks with their numbers of training examples."""
    mixed: dict[str, dict[str, int]] = {}
    for item in CATALOGUE:
        for family in item.families:
            examples = item.training_examples
            assert examples, f"{item.name} is mixed, so the catalogue must have its size"
            mixed.setdefault(PREFIX + family, {})[item.name] = examples
    return mixed


def rates(mixture: str, maximum: float = MAXIMUM) -> dict[str, float]:
    """Return the rates of a mixture's tasks, which sum to one."""
    capped = {name: min(size, maximum) for name, size in mixtures()[mixture].items()}
    total = sum(capped.values())
    return {name: size / total for name, size in capped.items()}
