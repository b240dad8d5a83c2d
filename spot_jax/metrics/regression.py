"""Metrics of scores written as text (STS-B, CxC); see `spot_jax.metrics`."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.metrics.pairs import check

# What a text that is no number counts as, in T5's code too; STS-B's scores run from 0 to 5.
_NO_NUMBER = -1.0


def pearson_corrcoef(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Compute Pearson's correlation of numbers or their texts (STS-B); 0 for a constant list."""
    value = _correlation("pearsonr", targets, predictions)
    return {"pearson_corrcoef": value}


def spearman_corrcoef(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Compute the rank correlation of numbers or their texts (STS-B); 0 for a constant list."""
    value = _correlation("spearmanr", targets, predictions)
    return {"spearman_corrcoef": value}


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _correlation(name: str, targets: Sequence[Any], predictions: Sequence[Any]) -> float:
    import scipy.stats

    check(targets, predictions)
    gold = [_number(target) for target in targets]
    if None in gold:
        raise SpotError(
            f"expected numbers as targets of a correlation, found {targets[gold.index(None)]!r}; "
            "choose another metric for this task"
        )
    read = [_number(prediction) for prediction in predictions]
    numbers = [_NO_NUMBER if number is None else number for number in read]
    if len(set(gold)) < 2 or len(set(numbers)) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant lists
        value = float(getattr(scipy.stats, name)(gold, numbers).statistic)
    return 100.0 * value if math.isfinite(value) else 0.0
