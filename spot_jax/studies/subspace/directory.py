"""A study's directory: what is in it, what is done, and whether a plan belongs to it.

study.json                settings and commands
cells/CELL/result.json    what a cell came to; it is done when this is there
cells/CELL/run/           its run (`spot_jax.training.run_directory`)
cells/CELL/made/          prompts that no run wrote: reconstructed, or taken from a library
cells/CELL/place          where the study was when the cell was begun
cells/CELL/claim          locked by the process that works on it
results.json              what the cells that are done came to
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from spot_jax.files import read_versioned, write_json
from spot_jax.studies.engine.file_lock import claim
from spot_jax.studies.engine.queue import CellDirectory
from spot_jax.studies.subspace.jobs import MODEL, PROMPTS, SUBSPACE, Cell, Tasks, cells_of
from spot_jax.studies.subspace.plan import IntrinsicPlan
from spot_jax.studies.transfer.directory import check_settings
from spot_jax.training.run_directory import run_path

FORMAT = 1
MODEL_WORK = 3.0
"""A step of the whole model against one of prompts, roughly: for the time that is left only."""


@dataclasses.dataclass(frozen=True)
class Made:
    """One prompt of a finished cell.

    Attributes:
        test: its score on the test split.
        file: relative to the study's directory; "" for a tuned model.
        validation: its score where it was chosen; None without a choice.
        step: of its checkpoint; None for prompts that no run wrote.
        metrics: all of the test split's.
        majority: the score for always answering the test split's most common label.
    """

    test: float
    file: str = ""
    validation: float | None = None
    step: int | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    majority: float | None = None


@dataclasses.dataclass(frozen=True)
class CellResult:
    """What a cell came to.

    Attributes:
        cell: its name.
        made: in the order of the cell's parts.
        seconds: that the start which finished it took.
        subspace: the subspace's file, of those that find one.
        trained: numbers that were trained.
    """

    cell: str
    made: tuple[Made, ...]
    seconds: float = 0.0
    subspace: str = ""
    trained: int = 0


@dataclasses.dataclass(frozen=True)
class IntrinsicStudy(CellDirectory[Cell, CellResult]):
    """A study's directory with its plan, checked against each other.

    Attributes:
        path: absolute.
        plan: as it is now.
        tasks: of the plan.
        cells: of the plan, those that others need first.
        commands: that made the study so far.
    """

    path: Path
    plan: IntrinsicPlan
    tasks: Tasks
    cells: tuple[Cell, ...]
    commands: tuple[str, ...] = ()
    verb: ClassVar[str] = "spot intrinsic ist"
    version: ClassVar[int] = FORMAT

    def read(self, fields: dict[str, Any]) -> CellResult:
        """See `CellDirectory`."""
        return CellResult(made=tuple(Made(**one) for one in fields.pop("made")), **fields)

    def needed(self, name: str) -> CellResult:
        """What a cell came to that is done because others wait for it."""
        found = self.result(name)
        if found is None:
            raise AssertionError(f"{name} is needed and not done")
        return found

    def work(self, cell: Cell) -> float:
        """Rows of text that a cell goes through, trained on or scored."""
        plan = self.plan
        scored = len(cell.parts) * (plan.test_examples or 1000)
        if cell.kind == SUBSPACE:
            lanes = len(cell.tasks) * plan.prompts_per_task
            return scored + plan.msf.steps * plan.msf.batch_size * lanes
        stage, factor = plan.ist, 1.0
        if cell.kind == PROMPTS:
            stage = plan.prompt
        elif cell.kind == MODEL and plan.model is not None:
            stage, factor = plan.model, MODEL_WORK
        return scored + factor * stage.steps * stage.batch_size * len(cell.parts)


def open_intrinsic(
    plan: IntrinsicPlan, tasks: Tasks, command: str = "", *, look: bool = False
) -> IntrinsicStudy:
    """The directory of a plan, begun or gone on with.

    Args:
        plan: what to do.
        tasks: `tasks_of` it.
        command: kept among the study's commands.
        look: write nothing.

    Raises:
        SpotError: a directory that cannot be written, or holds another study.
    """
    if look:
        path = Path(plan.directory).expanduser().resolve()
        return _study(path, plan, tasks, _joined(path / "study.json", plan, command))
    path = run_path(plan.directory).resolve()
    with claim(path / ".lock", wait=True):
        record = _joined(path / "study.json", plan, command)
        write_json(path / "study.json", record)
    return _study(path, plan, tasks, record)


def _study(
    path: Path, plan: IntrinsicPlan, tasks: Tasks, record: Mapping[str, Any]
) -> IntrinsicStudy:
    return IntrinsicStudy(path, plan, tasks, cells_of(plan, tasks), tuple(record["commands"]))


def _joined(path: Path, plan: IntrinsicPlan, command: str) -> dict[str, Any]:
    """What study.json will say: what it says, checked and with what the plan adds."""
    settings = json.loads(json.dumps(plan.settings()))

    def read(found: dict[str, Any]) -> dict[str, Any]:
        check_settings(path.parent, found["settings"], settings)
        return {"format": FORMAT, **found, "commands": list(found["commands"])}

    otherwise = "restore it, or choose another STUDY_DIR"
    record = read_versioned(path, FORMAT, read, otherwise)
    if record is None:
        record = {"format": FORMAT, "settings": settings, "commands": []}
    if command and command not in record["commands"]:
        record["commands"].append(command)
    return record
