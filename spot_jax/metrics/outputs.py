"""What a model returns for a split, as metrics of texts, of scores and of both take it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of a model, one an example and in the examples' order.

    Attributes:
        texts: predictions, decoded or chosen among the labels.
        scores: log-likelihood of each example's target, [n]; None where the method has none.
        aux: further values of each prediction by name, [n] each; "scores" is its log-likelihood.
            None where they were not asked for.
    """

    texts: Sequence[str]
    scores: np.ndarray | None = None
    aux: Mapping[str, np.ndarray] | None = None


@runtime_checkable
class OutputMetric(Protocol):
    """A metric that takes more than (targets, predicted texts)."""

    @property
    def needs_aux(self) -> bool:
        """Whether it takes `Outputs.aux`."""
        ...

    def of_outputs(self, targets: Sequence[Any], outputs: Outputs) -> Mapping[str, Any]:
        """Return values by name; raise `SpotError` for outputs that lack what it needs."""
        ...
