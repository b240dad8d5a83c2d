"""What the cells come to: means over tasks, the share of a distance, a change with its interval."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from bench.methods.results import Cell, MethodResults
from spot_jax.studies.bootstrap import Estimate, estimate


def mean(results: MethodResults, method: str, tasks: Sequence[str]) -> tuple[float, float] | None:
    """Return mean accuracy over tasks, and its standard deviation over seeds; None if a cell lacks.

    The deviation is that of the mean over tasks, seed by seed; NaN where there are no seeds.
    """
    cells = _cells(results, method, tasks)
    if cells is None:
        return None
    each = [statistics.fmean(values) for values in zip(*_by_seed(cells), strict=True)]
    spread = statistics.stdev(each) if len(each) > 1 else math.nan
    return statistics.fmean(cell.mean for cell in cells), spread


def closed(
    results: MethodResults, tasks: Sequence[str], method: str = "prompt_tuning"
) -> float | None:
    """Return the share of the distance from the commonest label to model tuning that a method
    closes.

    Of the means over `tasks`; NaN where model tuning is not above the commonest label.
    """
    pairs = [mean(results, name, tasks) for name in ("majority", method, "model_tuning")]
    if None in pairs:
        return None
    low, value, high = (pair[0] for pair in pairs if pair is not None)
    return (value - low) / (high - low) if high > low else math.nan


def change(
    results: MethodResults, method: str, against: str, tasks: Sequence[str]
) -> Estimate | None:
    """Return mean change of a method against another, with the interval over tasks and seeds."""
    cells = _cells(results, method, tasks), _cells(results, against, tasks)
    if cells[0] is None or cells[1] is None:
        return None
    first, second = (np.array(_by_seed(each)) for each in cells if each is not None)
    return estimate(first - second)


def _cells(results: MethodResults, method: str, tasks: Sequence[str]) -> list[Cell] | None:
    cells = [results.get(task, method) for task in tasks]
    return None if None in cells or not cells else [cell for cell in cells if cell is not None]


def _by_seed(cells: Sequence[Cell]) -> list[list[float]]:
    """Return each task's accuracies by seed; without chance one number serves for every seed."""
    count = max(len(cell.accuracies) for cell in cells)
    return [list(cell.accuracies) * (count if len(cell.accuracies) == 1 else 1) for cell in cells]
