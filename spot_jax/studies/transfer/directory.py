"""A study's directory: what is in it, what is done, and whether a plan belongs to it.

study.json                  settings, the grids it has had, what mixtures consist of, commands
cells/CELL/result.json      what a cell came to; it is done when this is there
cells/CELL/run/             its run (`spot_jax.training.run_directory`)
cells/CELL/mixture/         the run before it that tuned on mixtures
cells/CELL/init/            averaged prompts that the run begins from
cells/CELL/place            where the study was when the cell was begun
cells/CELL/claim            locked by the process that works on it
library/                    the source prompts, with their task embeddings
results.json                what the study came to, once all cells are done
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from spot_jax.errors import SpotError
from spot_jax.files import read_versioned, write_json
from spot_jax.studies.engine.file_lock import claim
from spot_jax.studies.engine.queue import CellDirectory
from spot_jax.studies.transfer.jobs import Cell, Generation, cells_of
from spot_jax.studies.transfer.plan import Grid, StudyPlan
from spot_jax.training.run_directory import run_path

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class CellPrompt:
    """One prompt of a finished cell; paths are relative to the study's directory.

    Attributes:
        seed: of its run.
        source: the source task it began from, for a transfer.
        k: of an average or a mixture.
        file: its best checkpoint by validation.
        embedding: the prompt at the embedding step, of sources and scratch runs.
        id: in the library, of sources.
        step: of `file`.
        validation: its score there.
        test: its score on the test split, of targets.
        metrics: all of the test split's.
        steps: at which it was evaluated.
        curve: its validation score at each.
        chosen: what an average or a mixture was made of: id, task, seed and similarity of each.
    """

    seed: int
    source: str | None = None
    k: int | None = None
    file: str = ""
    embedding: str | None = None
    id: str = ""
    step: int | None = None
    validation: float | None = None
    test: float | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: tuple[int, ...] = ()
    curve: tuple[float, ...] = ()
    chosen: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class CellResult:
    """What a cell came to.

    Attributes:
        cell: its name.
        prompts: in the order of the cell's parts.
        seconds: that it took, all starts together as far as is known.
        majority: the target's score for always answering its most common label.
        test_examples: that were scored.
        truncated_inputs: examples whose text was cut, of `examples` trained on.
        examples: trained on.
    """

    cell: str
    prompts: tuple[CellPrompt, ...]
    seconds: float = 0.0
    majority: float | None = None
    test_examples: int | None = None
    truncated_inputs: int = 0
    examples: int = 0


@dataclasses.dataclass(frozen=True)
class Study(CellDirectory[Cell, CellResult]):
    """A study's directory with its plan, checked against each other.

    Attributes:
        path: absolute.
        plan: as it is now.
        cells: of the plan, those that others need first.
        constituents: the tasks that sources and targets consist of.
        commands: that made the study so far.
    """

    path: Path
    plan: StudyPlan
    cells: tuple[Cell, ...]
    constituents: Mapping[str, tuple[str, ...]]
    commands: tuple[str, ...] = ()
    version: ClassVar[int] = FORMAT

    def read(self, fields: dict[str, Any]) -> CellResult:
        """See `CellDirectory`."""
        prompts = tuple(_prompt(one) for one in fields.pop("prompts"))
        return CellResult(prompts=prompts, **fields)

    def work(self, cell: Cell) -> float:
        """See `Cell.work`."""
        return cell.work(self.plan)


def _prompt(fields: dict[str, Any]) -> CellPrompt:
    tuples = {name: tuple(fields[name]) for name in ("steps", "curve", "chosen")}
    return CellPrompt(**{**fields, **tuples})


def open_study(
    plan: StudyPlan,
    constituents: Callable[[str], Sequence[str]],
    command: str = "",
    *,
    look: bool = False,
) -> Study:
    """The directory of a plan: begun, gone on with, or grown.

    Args:
        plan: what to do.
        constituents: the tasks that a task or mixture consists of; asked once a name and study.
        command: kept among the study's commands.
        look: write nothing.

    Raises:
        SpotError: a directory that cannot be written, or holds another study.
    """
    if look:
        path = Path(plan.directory).expanduser().resolve()
        return _study(path, plan, _joined(path / "study.json", plan, constituents, command))
    path = run_path(plan.directory).resolve()
    with claim(path / ".lock", wait=True):
        record = _joined(path / "study.json", plan, constituents, command)
        study = _study(path, plan, record)
        write_json(path / "study.json", record)
    return study


def _study(path: Path, plan: StudyPlan, record: Mapping[str, Any]) -> Study:
    history = [_generation(one) for one in record["grids"]]
    constituents = {name: tuple(tasks) for name, tasks in record["constituents"].items()}
    cells = tuple(cells_of(history, constituents))
    return Study(path, plan, cells, constituents, tuple(record["commands"]))


def _joined(
    path: Path, plan: StudyPlan, constituents: Callable[[str], Sequence[str]], command: str
) -> dict[str, Any]:
    """What study.json will say: what it says, checked and with what the plan adds."""
    settings = json.loads(json.dumps(plan.settings()))
    record = _read(path)
    if record is None:
        record = {
            "format": FORMAT,
            "settings": {},
            "grids": [],
            "constituents": {},
            "commands": [],
        }
    else:
        check_settings(path.parent, record["settings"], settings)
        _check_growth(path.parent, _generation(record["grids"][-1]).grid, plan.grid)
    record["settings"] |= settings
    if not record["grids"] or _generation(record["grids"][-1]).grid != plan.grid:
        grid = json.loads(json.dumps(dataclasses.asdict(plan.grid)))
        record["grids"].append({**grid, "prompts_at_once": plan.prompts_at_once})
    for name in (*plan.sources, *plan.targets):
        if name not in record["constituents"]:
            record["constituents"][name] = list(constituents(name))
    if command and command not in record["commands"]:
        record["commands"].append(command)
    return record


def _generation(fields: Mapping[str, Any]) -> Generation:
    grid = {f.name: tuple(fields[f.name]) for f in dataclasses.fields(Grid)}
    return Generation(Grid(**grid), fields["prompts_at_once"])


def _read(path: Path) -> dict[str, Any] | None:
    def read(record: dict[str, Any]) -> dict[str, Any]:
        [_generation(one) for one in record["grids"]]
        needed = {key: record[key] for key in ("settings", "constituents", "commands")}
        return {"format": FORMAT, **record, **needed}

    return read_versioned(path, FORMAT, read, "restore it, or choose another STUDY_DIR")


def check_settings(directory: Path, found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """`SpotError` if a study of other settings is there; tasks (`task X.inputs`) may be new."""
    odd = [key for key in found if key in given and found[key] != given[key]]
    # A task that is new brings settings of its own; a setting that is gone is a change.
    odd += [key for key in found if key not in given and not key.startswith("task ")]
    odd += [key for key in given if key not in found and not key.startswith("task ")]
    if odd:
        more = f" (and {', '.join(odd[1:4])}{', ...' if odd[4:] else ''})" if odd[1:] else ""
        raise SpotError(
            f"{directory} holds a study with {odd[0]} = {_short(found.get(odd[0]))}, this one has "
            f"{_short(given.get(odd[0]))}{more}; what is done would not belong to it: choose "
            "another STUDY_DIR, or the same settings"
        )


def _check_growth(directory: Path, found: Grid, given: Grid) -> None:
    for field in dataclasses.fields(Grid):
        gone = [one for one in getattr(found, field.name) if one not in getattr(given, field.name)]
        if gone:
            raise SpotError(
                f"{directory} holds a study whose {field.name} have {gone[0]!r}, this one's have "
                "not; sources, targets, seeds and numbers k may be added, not taken away: put it "
                "back, or choose another STUDY_DIR"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
