"""Bootstrap intervals, which say how much a mean would move with other tasks and other seeds."""

import dataclasses
import warnings

import numpy as np
from jaxtyping import Float

SAMPLES = 2000
LEVEL = 95.0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over targets and seeds; NaN where it is not defined.

    Attributes:
        mean: mean over seeds of the mean over targets.
        sd: standard deviation over seeds of the mean over targets (n - 1); NaN with one seed.
        low, high: bootstrap interval of the mean, 95%, over targets and seeds.
    """

    mean: float
    sd: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def estimate(
    values: Float[np.ndarray, "targets seeds"], *, samples: int = SAMPLES, seed: int = 0
) -> Estimate:
    """Return mean, standard deviation over seeds, and interval of a table of targets x seeds.

    The bootstrap draws targets with replacement and, within each drawn target, seeds: tasks differ
    more than seeds do. NaN cells are left out of every mean. The same seed draws the same targets,
    so intervals of two methods over one study are comparable.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).any():
        return Estimate(float("nan"))
    by_seed = _mean(values, 0)
    defined = by_seed[np.isfinite(by_seed)]
    drawn = resampled_means(values, samples=samples, seed=seed)
    low, high = interval(drawn) if len(values) > 1 else (float("nan"), float("nan"))
    spread = float(np.std(defined, ddof=1)) if len(defined) > 1 else float("nan")
    return Estimate(float(defined.mean()), spread, low, high)


def resampled_means(
    values: Float[np.ndarray, "targets seeds"], *, samples: int, seed: int
) -> Float[np.ndarray, " samples"]:
    """Return means of `samples` bootstrap draws."""
    targets, seeds = values.shape
    random = np.random.default_rng(seed)
    rows = random.integers(targets, size=(samples, targets))
    columns = random.integers(seeds, size=(samples, targets, seeds))
    return _mean(values[rows[:, :, None], columns], (1, 2))


def interval(drawn: Float[np.ndarray, " samples"]) -> tuple[float, float]:
    """Return the middle 95% of draws; NaN if none is defined."""
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return float("nan"), float("nan")
    edge = (100 - LEVEL) / 2
    low, high = np.percentile(defined, [edge, 100 - edge])
    return float(low), float(high)


def correlation_interval(
    x: Float[np.ndarray, " points"],
    y: Float[np.ndarray, " points"],
    groups: list[str],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval of Pearson's r by drawing groups (source tasks) with replacement.

    Prompts of one source task are not independent points: the p of a correlation takes them for
    such, this interval does not. NaN below five groups, where draws repeat too few.
    """
    names = sorted(set(groups))
    if len(names) < 5:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    counts = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    weights = counts[:, [names.index(g) for g in groups]].astype(np.float64)
    weights /= weights.sum(1, keepdims=True)
    dx = x[None] - (weights @ x)[:, None]
    dy = y[None] - (weights @ y)[:, None]
    product = (weights * dx * dy).sum(1)
    scale = np.sqrt((weights * dx**2).sum(1) * (weights * dy**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(np.where(scale > 1e-12, product / scale, np.nan))


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of slices that are all NaN
        return np.nanmean(values, axis)
