"""SPoT's mixtures of source tasks: `spot_glue`, ..., `spot_all` (Vu et al. 2022, appendix B).

Rates are example-proportional with an artificial limit: a task of n training examples comes in
proportion to min(n, 2^19) (section 2.1.3). The numbers are the catalogue's, so that a mixture is
built where no data is.
"""

import functools
from collections.abc import Mapping

import seqio

from tasks.papers.catalogue import CATALOGUE
from tasks.papers.registering import add_mixture

MAXIMUM = 2**19
PREFIX = "spot_"


def families() -> dict[str, dict[str, int]]:
    """Return each mixture's tasks with their numbers of training examples."""
    found: dict[str, dict[str, int]] = {}
    for item in CATALOGUE:
        for family in item.families:
            examples = item.training_examples
            assert examples, f"{item.name} is mixed, so the catalogue must have its size"
            found.setdefault(PREFIX + family, {})[item.name] = examples
    return found


def rates(mixture: str, maximum: float = MAXIMUM) -> dict[str, float]:
    """Return the rates of a mixture's tasks, which sum to one."""
    capped = {name: min(size, maximum) for name, size in families()[mixture].items()}
    total = sum(capped.values())
    return {name: size / total for name, size in capped.items()}


def _rate(task: seqio.Task, *, sizes: Mapping[str, int]) -> float:
    return float(min(sizes[task.name], MAXIMUM))


def register() -> None:
    """Register the mixtures of the tasks that are registered."""
    for mixture, sizes in families().items():
        add_mixture(mixture, list(sizes), functools.partial(_rate, sizes=sizes))
