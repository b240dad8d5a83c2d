"""Relative performance E_rel: how much of a reference's performance a method recovers.

    E_rel = mean over tasks of (performance of IPT / performance of the reference)

The reference is full prompt tuning (E_rel^PT) or model tuning (E_rel^FT) on the same tasks. Of a
backbone that does well without a prompt E_rel is high whatever one does, so the gain stands beside:

    E_gain = mean over tasks of (IPT - no prompt) / mean over tasks of (reference - no prompt)

It is a ratio of means, since the gain of a single task may be nought.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from spot_jax.errors import SpotError


@dataclasses.dataclass(frozen=True)
class Relative:
    """E_rel over a set of tasks.

    Attributes:
        value: mean ratio, 1 for the reference's own performance; NaN without a ratio.
        tasks: tasks that it is over.
        left_out: tasks whose reference is 0 (or below): they have no ratio.
    """

    value: float
    tasks: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def relative_performance(
    performance: Mapping[str, float], reference: Mapping[str, float]
) -> Relative:
    """Return E_rel of a method, as a share (0.87 for 87%).

    A task whose reference is 0 has no ratio: it is left out of the mean, and named.

    Args:
        performance: score of each task, of any metric, on the scale of the reference's.
        reference: score of each of these tasks, and perhaps of more.

    Raises:
        SpotError: a task without a reference.
    """
    ratios, left_out = {}, []
    for task, value in performance.items():
        if task not in reference:
            raise SpotError(
                f"{task} has no reference to be compared with, which are {', '.join(reference)}; "
                "tune it without a subspace too"
            )
        if reference[task] > 0:
            ratios[task] = value / reference[task]
        else:
            left_out.append(task)
    mean = math.fsum(ratios.values()) / len(ratios) if ratios else math.nan
    return Relative(mean, tuple(ratios), tuple(left_out))


def relative_gain(
    performance: Mapping[str, float],
    reference: Mapping[str, float],
    no_prompt: Mapping[str, float],
) -> float:
    """Return E_gain of a method, as a share; NaN where the reference gains nothing.

    Args:
        performance: score of each task.
        reference: score of each of these tasks, and perhaps of more.
        no_prompt: score of the bare backbone on each.

    Raises:
        SpotError: a task without a score to compare with.
    """
    for task in performance:
        if task not in reference or task not in no_prompt:
            raise SpotError(
                f"{task} has no reference or no score without a prompt to be compared with; do the "
                "study's other jobs first"
            )
    gain = math.fsum(value - no_prompt[task] for task, value in performance.items())
    whole = math.fsum(reference[task] - no_prompt[task] for task in performance)
    return gain / whole if whole > 0 else math.nan


def means(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the mean score of each task of (task, score) pairs, in the order of their first."""
    by_task: dict[str, list[float]] = {}
    for task, value in scores:
        by_task.setdefault(task, []).append(value)
    return {task: statistics.fmean(values) for task, values in by_task.items()}
