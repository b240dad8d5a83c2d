"""What a study of subspaces found; see `spot_jax.studies.engine.results`.

Scores are those of the tasks' metrics, 0 to 100 for most.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.studies.engine.results import Results
from spot_jax.studies.subspace.jobs import SETTINGS

FOUND, RANDOM = "found", "random"
PROMPT_TUNING, MODEL_TUNING = "prompt_tuning", "model_tuning"
METHODS = (PROMPT_TUNING, MODEL_TUNING)


@dataclasses.dataclass(frozen=True)
class Score:
    """One prompt of a subspace on its task's test split.

    Attributes:
        setting: one of `cells.SETTINGS`.
        task: the task, with its sample where that is not the first.
        category: "train", or the held-out task's.
        test: on the split that no choice was made on.
        dimension: d.
        subspace: "found" or "random".
        tasks: training tasks that the subspace was found from; 0 for random ones.
        draw: which subset of the training tasks; -1 for all of them.
        seed: of the run, and of the prompts that the subspace was found from.
        validation: on the split by which its checkpoint was chosen; None without a choice.
        step: of that checkpoint.
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
        task: the task, with its sample where that is not the first.
        method: "prompt_tuning" or "model_tuning".
        test: on the split that no choice was made on.
        seed: of the run.
        validation: at the scored step.
        step: the best by validation of a prompt's, the last of a model's.
    """

    task: str
    method: str
    test: float
    seed: int = 0
    validation: float | None = None
    step: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubspaceResults(Results):
    """A study of subspaces.

    Attributes:
        train_tasks: tasks whose prompts the subspaces were found from.
        test_tasks: held-out tasks by category.
        scores: see `Score`; those of jobs that are not done are left out.
        references: see `Reference`.
        dimensions: numbers d of dimensions of the subspaces.
        other_tasks: the same task with other data, by training task.
        subsets: subsets of the training tasks; `Score.draw` counts them.
        trained: number of numbers that are trained, by what ("prompt_tuning", "subspace 5").
        settings: settings of the study.
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
