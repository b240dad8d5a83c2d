"""seqio's mixtures `spot_glue`, `spot_nli`, ..., `spot_all` (`tasks.papers.proportions`)."""

import functools
from collections.abc import Mapping

import seqio

from tasks.papers.proportions import MAXIMUM, mixtures
from tasks.papers.registering import add_mixture


def _rate(task: seqio.Task, *, sizes: Mapping[str, int]) -> float:
    return float(min(sizes[task.name], MAXIMUM))


def register() -> None:
    """Register the mixtures; their tasks must be registered."""
    for mixture, sizes in mixtures().items():
        add_mixture(mixture, list(sizes), functools.partial(_rate, sizes=sizes))
