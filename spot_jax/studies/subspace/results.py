"""What a study of subspaces found; see `spot_jax.studies.engine.results`.

Scores are those of the tasks' metrics, 0 to 100 for most.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.studies.engine.results import Results
from spot_jax.studies.subspace.jobs import SETTINGS

FOUND, RANDOM, FASTFOOD = "found", "random", "fastfood"
PROMPT_TUNING, MODEL_TUNING = "prompt_tuning", "model_tuning"
METHODS = (PROMPT_TUNING, MODEL_TUNING)


@dataclasses.dataclass(frozen=True)
class Score:
    """One prompt of a subspace on its task's test split.

    Attributes:
        setting: setting of the prompt, one of `jobs.SETTINGS`.
        task: name of the task, with its sample where that is not the first.
        category: category of the task: "train", or the held-out task's.
        test: score on the split that no choice was made on.
        dimension: number d of dimensions.
        subspace: kind of subspace: "found", "random", or "fastfood" for one of all weights.
        tasks: number of training tasks that the subspace was found from; 0 for random ones.
        draw: index of the subset of the training tasks; -1 for all of them.
        seed: seed of the run, and of the prompts that the subspace was found from.
        validation: score on the split by which its checkpoint was chosen; None without a choice.
        step: number of updates of that checkpoint.
    """

    setting: str
    task: str
    category: str
    test: float
    dimension: int
    subspace: str = FOUND
    tasks: int = 0
    draw: int = -1
    seed: int = 0
    validation: float | None = None
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A task tuned without a subspace.

    Attributes:
        task: name of the task, with its sample where that is not the first.
        method: name of the method, "prompt_tuning" or "model_tuning".
        test: score on the split that no choice was made on.
        seed: seed of the run.
        validation: validation score at the scored step.
        step: scored step: the best by validation; the last of a model without evaluation.
    """

    task: str
    method: str
    test: float
    seed: int = 0
    validation: float | None = None
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class VectorSimilarity:
    """How alike tasks are by their vectors in one subspace.

    Attributes:
        tasks: names of the tasks.
        cosines: cosine of the vectors of each two, mean over seeds.
    """

    tasks: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubspaceResults(Results):
    """A study of subspaces.

    Attributes:
        train_tasks: tasks whose prompts the subspaces were found from.
        test_tasks: held-out tasks by category.
        scores: scores of prompts in subspaces; those of jobs that are not done are left out.
        references: scores without a subspace.
        dimensions: numbers d of dimensions of the subspaces.
        other_tasks: names of the same task with other data, by training task.
        subsets: subsets of the training tasks; `Score.draw` counts them.
        trained: number of numbers that are trained, by what ("prompt_tuning", "subspace 5").
        settings: settings of the study.
        vectors: similarity of held-out tasks by their vectors in found subspaces, by dimension:
            names of the tasks, and the mean over seeds of the cosine of each two.
    """

    command = "spot intrinsic ist"

    train_tasks: tuple[str, ...]
    test_tasks: Mapping[str, tuple[str, ...]]
    scores: tuple[Score, ...]
    references: tuple[Reference, ...]
    dimensions: tuple[int, ...] = ()
    other_tasks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    subsets: tuple[tuple[str, ...], ...] = ()
    trained: Mapping[str, int] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vectors: Mapping[str, VectorSimilarity] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `SpotError` where parts contradict each other."""
        tasks = {*self.train_tasks, *self.other_tasks.values()}
        tasks |= {task for names in self.test_tasks.values() for task in names}
        for what, rows in (("scores", self.scores), ("references", self.references)):
            for row in rows:
                if row.task not in tasks:
                    raise SpotError(f"{what}: {row.task!r} is not among the study's tasks")
        for score in self.scores:
            if score.setting not in SETTINGS:
                raise SpotError(f"scores: {score.setting!r} is none of {', '.join(SETTINGS)}")
