"""Temperature scaling (Guo et al. 2017): probabilities that are as often right as they say."""

from collections.abc import Sequence

import numpy as np

from spot_jax.errors import SpotError
from spot_jax.inference.prediction import Prediction

LEAST, GREATEST = 0.05, 20.0
FEWEST = 10


def temperature_of(predictions: Sequence[Prediction], targets: Sequence[str]) -> float:
    """Return the temperature at which the targets are the most likely.

    Args:
        predictions: predictions with probabilities, of temperature 1.
        targets: label that each should have been.

    Raises:
        SpotError: no probabilities, fewer than ten examples, or a target that is none of the
            labels.
    """
    if len(predictions) != len(targets) or len(targets) < FEWEST:
        raise SpotError(
            f"expected a target for each of at least {FEWEST} predictions to calibrate on, found "
            f"{len(targets)} for {len(predictions)}; give more examples"
        )
    logs, gold = [], []
    for prediction, target in zip(predictions, targets, strict=True):
        labels = list(prediction.probabilities)
        if target not in labels:
            raise SpotError(
                f"expected targets among the labels {', '.join(labels) or '(none)'}, found "
                f"{target!r}; calibrate a prompt that chooses among labels, on its own task"
            )
        logs.append(np.log(np.maximum(list(prediction.probabilities.values()), 1e-300)))
        gold.append(labels.index(target))
    from scipy.optimize import minimize_scalar  # late: a second that few predictors need

    scores, rows = np.array(logs), np.arange(len(gold))

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, gold]))

    bounds = np.log(LEAST), np.log(GREATEST)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def calibration_error(
    predictions: Sequence[Prediction], targets: Sequence[str], bins: int = 10
) -> float:
    """Return the expected calibration error, 0 to 1: confidence less accuracy over equal bins."""
    confidence = np.array([prediction.probability for prediction in predictions], np.float64)
    right = np.array([p == t for p, t in zip(predictions, targets, strict=True)])
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[which == b].mean() - right[which == b].mean()) * (which == b).mean()
        for b in range(bins)
        if (which == b).any()
    ]
    return float(sum(gaps))
