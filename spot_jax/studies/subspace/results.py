"""What a study of subspaces found, as one file: `results.json`, from which the report comes.

The dataclasses here are the file's format; see `spot_jax.studies.engine.records`. Scores are those
of the tasks' metrics, 0 to 100 for most.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.studies.engine.records import read_record, write_record
from spot_jax.studies.subspace.jobs import SETTINGS

FORMAT = 1
FILE = "results.json"
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


@dataclasses.dataclass(frozen=True)
class IntrinsicResults:
    """A study of subspaces.

    Attributes:
        title: for the head of the report.
        train_tasks: whose prompts the subspaces were found from.
        test_tasks: held-out tasks by category.
        scores: see `Score`; cells that are missing (a study half-way) are left out.
        references: see `Reference`.
        dimensions: d of the subspaces.
        seeds: of the prompts.
        other_tasks: by training task, the same one with other data.
        subsets: of the training tasks; `Score.draw` counts them.
        majority: the score of always answering the most common label, by task.
        trained: numbers that are trained, by what ("prompt_tuning", "subspace 5").
        backbone: its name and fingerprint.
        metric: what a score is, in words.
        split: of `Score.test`, in words.
        settings: of the study.
        commands: those that made the study, in order.
        machine: where it ran, by name of the fact.
        notes: what a reader must know about these data, a sentence each.
    """

    title: str
    train_tasks: tuple[str, ...]
    test_tasks: Mapping[str, tuple[str, ...]]
    scores: tuple[Score, ...]
    references: tuple[Reference, ...]
    dimensions: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    other_tasks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    subsets: tuple[tuple[str, ...], ...] = ()
    majority: Mapping[str, float] = dataclasses.field(default_factory=dict)
    trained: Mapping[str, int] = dataclasses.field(default_factory=dict)
    backbone: str = ""
    metric: str = "score"
    split: str = "test"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    commands: tuple[str, ...] = ()
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        """`SpotError` where parts contradict each other."""
        known = {*self.train_tasks, *self.other_tasks.values()}
        known |= {task for tasks in self.test_tasks.values() for task in tasks}
        for what, rows in (("scores", self.scores), ("references", self.references)):
            for row in rows:
                if row.task not in known:
                    raise SpotError(f"{what}: {row.task!r} is not among the study's tasks")
        for score in self.scores:
            if score.setting not in SETTINGS:
                raise SpotError(f"scores: {score.setting!r} is none of {', '.join(SETTINGS)}")


def results_path(where: str | os.PathLike[str]) -> epath.Path:
    """`results.json` of a study's directory, or the file itself where a .json is given."""
    path = epath.Path(where)
    return path if path.suffix == ".json" else path / FILE


def write_results(results: IntrinsicResults, where: str | os.PathLike[str]) -> epath.Path:
    """Writes the file in one move, into a directory or as a .json; returns its path."""
    return write_record(results, results_path(where), FORMAT)


def read_results(where: str | os.PathLike[str]) -> IntrinsicResults:
    """Reads what `write_results` wrote; `SpotError` for anything else."""
    return read_record(IntrinsicResults, results_path(where), FORMAT, "spot intrinsic ist")
