"""Values of metrics: numbers, which checkpoints are chosen by, and others, which are logged."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from spot_jax.errors import SpotError


def number(value: Any) -> float | None:
    """Return a number, or an array of one number, as a float; None for anything else.

    A text is no number even where it reads like one.
    """
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str | bytes) or value is None:
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return float(array.item()) if array.size == 1 and array.dtype.kind in "biuf" else None


def split_numbers(values: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the numbers among a metric's values, as floats, and the other values."""
    numbers = {name: number(value) for name, value in values.items()}
    others = {name: value for name, value in values.items() if numbers[name] is None}
    return {name: value for name, value in numbers.items() if value is not None}, others


def not_numbers(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of the metrics that are NaN or infinite."""
    return [name for name, value in metrics.items() if not math.isfinite(value)]


def mean_of_metrics(metrics: Mapping[str, float]) -> float:
    """Return the mean of a dataset's metrics, by which checkpoints are chosen (Lester 2021, §3).

    It is NaN where one of them is: a mean over fewer could not be compared with that of another
    checkpoint.
    """
    if not metrics:
        raise SpotError(
            "expected at least one metric to choose a checkpoint by, found none; "
            "give the task a metric function that returns a number"
        )
    return float(np.mean(list(metrics.values())))
