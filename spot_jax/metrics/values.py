"""What metrics return, and the one number that checkpoints are chosen by."""

from collections.abc import Mapping

import numpy as np

from spot_jax.errors import SpotError


def mean_of_metrics(metrics: Mapping[str, float]) -> float:
    """Return the mean of a dataset's metrics, by which checkpoints are chosen (Lester 2021, §3)."""
    if not metrics:
        raise SpotError(
            "expected at least one metric to choose a checkpoint by, found none; "
            "give the task a metric function"
        )
    return float(np.mean(list(metrics.values())))
