"""Relative performance in each setting, by dimension, by number of training tasks, by seed."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from spot_jax.studies.subspace.jobs import DIFF_IST, SAME_IST, SETTINGS, TEST_IST
from spot_jax.studies.subspace.relative import means, relative_performance
from spot_jax.studies.subspace.results import FOUND, METHODS, RANDOM, IntrinsicResults, Score

MAJORITY = "majority"
ALL = "all held-out tasks"


@dataclasses.dataclass(frozen=True)
class Group:
    """What a relative performance is of; see `results.Score`.

    Attributes:
        setting: one of `cells.SETTINGS`.
        category: of the tasks; `ALL` for held-out tasks of all categories, where there are several.
        subspace: "found", "random", a reference method, or "majority".
        dimension: d; 0 where there is no subspace.
        tasks: that the subspace was found from.
        draw: which subset of the training tasks; -1 for all.
    """

    setting: str
    category: str
    subspace: str = FOUND
    dimension: int = 0
    tasks: int = 0
    draw: int = -1


@dataclasses.dataclass(frozen=True)
class Row:
    """E_rel of a group.

    Attributes:
        group: what it is of.
        against: the reference method.
        mean: over seeds, as a share; each seed's is against the reference's mean over its seeds.
        sd: over seeds (n - 1); NaN for one.
        seeds: their number; 0 where nothing is random.
        tasks: that it is over.
        left_out: tasks whose reference is 0.
    """

    group: Group
    against: str
    mean: float
    sd: float
    seeds: int
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]


def relative_rows(results: IntrinsicResults) -> list[Row]:
    """E_rel of every group against every reference, where all of its tasks have the reference."""
    made = []
    references = {method: reference(results, method) for method in METHODS}
    for group, by_seed in _groups(results):
        for against, known in references.items():
            if all(task in known for scores in by_seed.values() for task in scores):
                made.append(_row(group, against, by_seed, known))
    return made


def over_random(results: IntrinsicResults) -> dict[int, tuple[float, float]]:
    """What a found subspace adds to a random one on held-out tasks, by dimension.

    Returns:
        d: (mean, sd) over seeds of the mean over tasks of the difference in points, where all
        training tasks went into the subspace and both have the same tasks.
    """
    scores: dict[tuple[int, int], dict[str, dict[str, float]]] = defaultdict(dict)
    for one in results.scores:
        if one.setting == TEST_IST and one.draw < 0:
            scores[one.dimension, one.seed].setdefault(one.subspace, {})[one.task] = one.test
    gains: dict[int, list[float]] = defaultdict(list)
    for (d, _), of in sorted(scores.items()):
        found, drawn = of.get(FOUND, {}), of.get(RANDOM, {})
        if found and found.keys() == drawn.keys():
            gains[d].append(statistics.fmean(found[task] - drawn[task] for task in found))
    return {d: (statistics.fmean(values), spread(values)) for d, values in gains.items()}


def reference(results: IntrinsicResults, method: str) -> dict[str, float]:
    """Each task's mean score, tuned without a subspace."""
    return means([(r.task, r.test) for r in results.references if r.method == method])


def spread(values: Sequence[float]) -> float:
    """Standard deviation (n - 1); NaN for one value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def task_sets(results: IntrinsicResults) -> list[tuple[str, str, tuple[str, ...]]]:
    """(setting, category, tasks) of what is tuned in subspaces."""
    found = [(SAME_IST, "train", results.train_tasks)]
    if results.other_tasks:
        found.append((DIFF_IST, "train", tuple(results.other_tasks.values())))
    return found + [(TEST_IST, name, tasks) for name, tasks in _categories(results).items()]


def _categories(results: IntrinsicResults) -> dict[str, tuple[str, ...]]:
    found = dict(results.test_tasks)
    if len(found) > 1:
        found[ALL] = tuple(task for tasks in results.test_tasks.values() for task in tasks)
    return found


def _groups(results: IntrinsicResults) -> Iterator[tuple[Group, dict[int, dict[str, float]]]]:
    """Groups with their scores by seed and task."""
    scores: dict[Group, list[Score]] = defaultdict(list)
    several = len(results.test_tasks) > 1
    for one in results.scores:
        for category in (
            (one.category, ALL) if several and one.category != "train" else (one.category,)
        ):
            group = Group(one.setting, category, one.subspace, one.dimension, one.tasks, one.draw)
            scores[group].append(one)
    order = sorted(scores, key=lambda g: (SETTINGS.index(g.setting), g.subspace, g.draw))
    for group in order:
        by_seed: dict[int, list[tuple[str, float]]] = defaultdict(list)
        for one in scores[group]:
            by_seed[one.seed].append((one.task, one.test))
        yield group, {seed: means(pairs) for seed, pairs in by_seed.items()}
    yield from _without_subspace(results)


def _without_subspace(
    results: IntrinsicResults,
) -> Iterator[tuple[Group, dict[int, dict[str, float]]]]:
    """The references themselves and the commonest label, on the same tasks."""
    for setting, category, tasks in task_sets(results):
        if all(task in results.majority for task in tasks):
            known = {task: results.majority[task] for task in tasks}
            yield Group(setting, category, MAJORITY), {-1: known}
        for method in METHODS:
            by_seed: dict[int, dict[str, float]] = defaultdict(dict)
            for one in results.references:
                if one.method == method and one.task in tasks:
                    by_seed[one.seed][one.task] = one.test
            whole = {seed: found for seed, found in by_seed.items() if len(found) == len(tasks)}
            if whole:
                yield Group(setting, category, method), whole


def _row(
    group: Group,
    against: str,
    by_seed: Mapping[int, Mapping[str, float]],
    known: Mapping[str, float],
) -> Row:
    found = [relative_performance(scores, known) for scores in by_seed.values()]
    values = [one.value for one in found if not math.isnan(one.value)]
    mean = math.fsum(values) / len(values) if values else math.nan
    seeds = 0 if group.subspace == MAJORITY else len(found)
    return Row(group, against, mean, spread(values), seeds, found[0].tasks, found[0].left_out)


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """A task's mean scores and their spread over seeds.

    Attributes:
        task: the task.
        setting: of the prompts that were tuned in a subspace.
        category: of the task.
        references: (mean, sd) by method.
        majority: None for a task without labels.
        subspaces: (mean, sd) by ("found" or "random", d), of all training tasks.
    """

    task: str
    setting: str
    category: str
    references: Mapping[str, tuple[float, float]]
    majority: float | None
    subspaces: Mapping[tuple[str, int], tuple[float, float]]


def task_scores(results: IntrinsicResults) -> list[TaskScores]:
    """Scores by task, tuned in subspaces and without."""
    made = []
    sets = [one for one in task_sets(results) if one[1] != ALL]
    for setting, category, tasks in sets:
        for task in tasks:
            references: dict[str, list[float]] = defaultdict(list)
            for one in results.references:
                if one.task == task:
                    references[one.method].append(one.test)
            subspaces: dict[tuple[str, int], list[float]] = defaultdict(list)
            for score in results.scores:
                if (score.task, score.setting, score.draw) == (task, setting, -1):
                    subspaces[score.subspace, score.dimension].append(score.test)
            made.append(
                TaskScores(
                    task,
                    setting,
                    category,
                    {m: (statistics.fmean(v), spread(v)) for m, v in references.items()},
                    results.majority.get(task),
                    {k: (statistics.fmean(v), spread(v)) for k, v in sorted(subspaces.items())},
                )
            )
    return made
