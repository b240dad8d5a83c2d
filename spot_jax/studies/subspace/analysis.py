"""Relative performance in each setting, by dimension, by number of training tasks, by seed."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.subspace.jobs import (
    DIFF_IST,
    SAME_IST,
    SETTINGS,
    TEST_IST,
    TEST_SECOND,
)
from spot_jax.studies.subspace.relative import means, relative_gain, relative_performance
from spot_jax.studies.subspace.results import (
    FOUND,
    METHODS,
    PROMPT_TUNING,
    RANDOM,
    Score,
    SubspaceResults,
)

MAJORITY = "majority"
ALL = "all held-out tasks"


@dataclasses.dataclass(frozen=True)
class Group:
    """What a relative performance is of; see `results.Score`.

    Attributes:
        setting: setting of the prompts, one of `jobs.SETTINGS`.
        category: category of the tasks; `ALL` for held-out tasks of all, where there are several.
        subspace: kind of subspace: "found", "random", "fastfood", a reference method, "majority"
            or "no_prompt".
        dimension: number d of dimensions; 0 without a subspace.
        tasks: number of tasks that the subspace was found from.
        draw: index of the subset of the training tasks; -1 for all.
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
        group: group of prompts that it is of.
        against: name of the reference method.
        mean: mean over seeds, as a share; each seed's is against the reference's mean over its own.
        sd: standard deviation over seeds (n - 1); NaN for a single seed.
        seeds: number of seeds; 0 where nothing is random.
        tasks: tasks that it is over.
        left_out: tasks whose reference is 0.
        gain: mean of E_gain over seeds, as a share; NaN without a score without a prompt.
        gain_sd: standard deviation of E_gain over seeds (n - 1); NaN for a single seed.
    """

    group: Group
    against: str
    mean: float
    sd: float
    seeds: int
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    gain: float = math.nan
    gain_sd: float = math.nan


def relative_rows(results: SubspaceResults) -> list[Row]:
    """Return E_rel of every group against every reference that all of its tasks have."""
    rows = []
    references = {method: reference(results, method) for method in METHODS}
    for group, by_seed in _groups(results):
        for against, scores in references.items():
            if all(task in scores for seed in by_seed.values() for task in seed):
                rows.append(_row(group, against, by_seed, scores, results.no_prompt))
    return rows


def over_random(results: SubspaceResults) -> dict[int, tuple[float, float]]:
    """Return what a found subspace adds to a random one on held-out tasks, by dimension.

    Returns:
        d: (mean, sd) over seeds of the mean over tasks of the difference in points, where all
        training tasks went into the subspace and both have the same tasks.
    """
    scores: dict[tuple[int, int], dict[str, dict[str, float]]] = defaultdict(dict)
    for score in results.scores:
        if score.setting == TEST_IST and score.draw < 0:
            scores[score.dimension, score.seed].setdefault(score.subspace, {})[score.task] = (
                score.test
            )
    gains: dict[int, list[float]] = defaultdict(list)
    for (d, _), of in sorted(scores.items()):
        tuned, drawn = of.get(FOUND, {}), of.get(RANDOM, {})
        if tuned and tuned.keys() == drawn.keys():
            gains[d].append(statistics.fmean(tuned[task] - drawn[task] for task in tuned))
    return {d: (statistics.fmean(values), spread(values)) for d, values in gains.items()}


@dataclasses.dataclass(frozen=True)
class Stability:
    """A held-out task's prompts over seeds, from scratch and from its prompt in a subspace.

    Attributes:
        task: name of the task.
        scratch: mean and standard deviation (n - 1) of prompt tuning.
        second: the same of prompt tuning that begins from the subspace, by dimension.
    """

    task: str
    scratch: tuple[float, float]
    second: Mapping[int, tuple[float, float]]


def stability(results: SubspaceResults) -> list[Stability]:
    """Return how scores of held-out tasks vary over seeds (the paper's stage two)."""
    scores: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score in results.scores:
        if score.setting == TEST_SECOND:
            scores[score.task][score.dimension].append(score.test)
    rows = []
    for task, by_dimension in scores.items():
        alone = [r.test for r in results.references if (r.task, r.method) == (task, PROMPT_TUNING)]
        if alone:
            second = {
                d: (statistics.fmean(values), spread(values))
                for d, values in sorted(by_dimension.items())
            }
            rows.append(Stability(task, (statistics.fmean(alone), spread(alone)), second))
    return rows


def reference(results: SubspaceResults, method: str) -> dict[str, float]:
    """Return each task's mean score, tuned without a subspace."""
    return means([(r.task, r.test) for r in results.references if r.method == method])


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation (n - 1); NaN for one value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def task_sets(results: SubspaceResults) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (setting, category, tasks) of what is tuned in subspaces."""
    sets = [(SAME_IST, "train", results.train_tasks)]
    if results.other_tasks:
        sets.append((DIFF_IST, "train", tuple(results.other_tasks.values())))
    return sets + [(TEST_IST, name, tasks) for name, tasks in _categories(results).items()]


def _categories(results: SubspaceResults) -> dict[str, tuple[str, ...]]:
    categories = dict(results.test_tasks)
    if len(categories) > 1:
        categories[ALL] = tuple(task for tasks in results.test_tasks.values() for task in tasks)
    return categories


def _groups(results: SubspaceResults) -> Iterator[tuple[Group, dict[int, dict[str, float]]]]:
    """Return groups with their scores by seed and task."""
    scores: dict[Group, list[Score]] = defaultdict(list)
    several = len(results.test_tasks) > 1
    for score in results.scores:
        for category in (
            (score.category, ALL) if several and score.category != "train" else (score.category,)
        ):
            group = Group(
                score.setting, category, score.subspace, score.dimension, score.tasks, score.draw
            )
            scores[group].append(score)
    order = sorted(scores, key=lambda g: (SETTINGS.index(g.setting), g.subspace, g.draw))
    for group in order:
        by_seed: dict[int, list[tuple[str, float]]] = defaultdict(list)
        for score in scores[group]:
            by_seed[score.seed].append((score.task, score.test))
        yield group, {seed: means(pairs) for seed, pairs in by_seed.items()}
    yield from _without_subspace(results)


def _without_subspace(
    results: SubspaceResults,
) -> Iterator[tuple[Group, dict[int, dict[str, float]]]]:
    """Return the commonest label, the bare backbone and the references, on the same tasks."""
    for setting, category, tasks in task_sets(results):
        for name, scores in ((MAJORITY, results.majority), (NO_PROMPT, results.no_prompt)):
            if all(task in scores for task in tasks):
                yield Group(setting, category, name), {-1: {task: scores[task] for task in tasks}}
        for method in METHODS:
            by_seed: dict[int, dict[str, float]] = defaultdict(dict)
            for reference_ in results.references:
                if reference_.method == method and reference_.task in tasks:
                    by_seed[reference_.seed][reference_.task] = reference_.test
            whole = {seed: scored for seed, scored in by_seed.items() if len(scored) == len(tasks)}
            if whole:
                yield Group(setting, category, method), whole


def _row(
    group: Group,
    against: str,
    by_seed: Mapping[int, Mapping[str, float]],
    scores: Mapping[str, float],
    no_prompt: Mapping[str, float],
) -> Row:
    relatives = [relative_performance(performance, scores) for performance in by_seed.values()]
    values = [relative.value for relative in relatives if not math.isnan(relative.value)]
    gains: list[float] = []
    if all(task in no_prompt for performance in by_seed.values() for task in performance):
        gains = [relative_gain(p, scores, no_prompt) for p in by_seed.values()]
        gains = [gain for gain in gains if not math.isnan(gain)]
    return Row(
        group,
        against,
        statistics.fmean(values) if values else math.nan,
        spread(values),
        0 if group.subspace in (MAJORITY, NO_PROMPT) else len(relatives),
        relatives[0].tasks,
        relatives[0].left_out,
        statistics.fmean(gains) if gains else math.nan,
        spread(gains),
    )


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """A task's mean scores and their spread over seeds.

    Attributes:
        task: name of the task.
        setting: setting of the prompts that were tuned in a subspace.
        category: category of the task.
        references: (mean, sd) by method.
        majority: score of the commonest label; None for a task without labels.
        no_prompt: score of the bare backbone; None where it is unknown.
        subspaces: (mean, sd) by ("found" or "random", d), of all training tasks.
    """

    task: str
    setting: str
    category: str
    references: Mapping[str, tuple[float, float]]
    majority: float | None
    no_prompt: float | None
    subspaces: Mapping[tuple[str, int], tuple[float, float]]


def task_scores(results: SubspaceResults) -> list[TaskScores]:
    """Return scores by task, tuned in subspaces and without."""
    rows = []
    sets = [item for item in task_sets(results) if item[1] != ALL]
    for setting, category, tasks in sets:
        for task in tasks:
            references: dict[str, list[float]] = defaultdict(list)
            for item in results.references:
                if item.task == task:
                    references[item.method].append(item.test)
            subspaces: dict[tuple[str, int], list[float]] = defaultdict(list)
            for score in results.scores:
                if (score.task, score.setting, score.draw) == (task, setting, -1):
                    subspaces[score.subspace, score.dimension].append(score.test)
            rows.append(
                TaskScores(
                    task,
                    setting,
                    category,
                    {m: (statistics.fmean(v), spread(v)) for m, v in references.items()},
                    results.majority.get(task),
                    results.no_prompt.get(task),
                    {k: (statistics.fmean(v), spread(v)) for k, v in sorted(subspaces.items())},
                )
            )
    return rows
