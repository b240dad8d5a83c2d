"""A split that predictions are scored on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from spot_jax.data.examples import Examples
from spot_jax.metrics import Metric, OutputMetric


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """The examples of a split and what predictions on them are compared with.

    Attributes:
        examples: token ids, in order.
        targets: target of each example as the metrics compare it.
        metrics: metrics of (targets, predicted texts), or of all that a model returns.
        choices: answers to choose among, of each example; empty where they do not differ from
            example to example.
    """

    examples: Examples
    targets: list[Any]
    metrics: Sequence[Metric | OutputMetric]
    choices: list[tuple[str, ...]] = dataclasses.field(default_factory=list, kw_only=True)
