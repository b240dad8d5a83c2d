"""Work in cells: a process takes the next that is ready and that no other works on.

A cell is done when its result is on disk, and is claimed by a lock that ends with its process. So
any number of processes share a directory, nothing is done twice, and a kill loses at most what the
cell under way has done since its last checkpoint.
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from spot_jax.errors import SpotError
from spot_jax.files import aligned, read_versioned, write_json
from spot_jax.studies.engine.file_lock import claim, holder

POLL = 2.0

Say = Callable[[str], None]


class AnyCell(Protocol):
    """What the queue must know of a piece of work."""

    @property
    def name(self) -> str:
        """Of its directory and for `--cell`."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of cells that have to be done before."""
        ...

    @property
    def parts(self) -> Sequence[Any]:
        """What it makes, a prompt each."""
        ...


class AnyResult(Protocol):
    """What the queue must know of what a cell came to: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def cell(self) -> str:
        """Its name."""
        ...

    @property
    def seconds(self) -> float:
        """That it took."""
        ...


C = TypeVar("C", bound=AnyCell)
R = TypeVar("R", bound=AnyResult)


class CellDirectory(Generic[C, R]):
    """A directory of cells; what derives from it says what a cell is and what it came to.

    Attributes:
        path: absolute.
        cells: those that others need first.
        verb: of the command, for complaints.
        version: of the form of its files.
    """

    path: Path
    cells: tuple[C, ...]
    verb: ClassVar[str] = "spot study"
    version: ClassVar[int]

    def read(self, fields: dict[str, Any]) -> R:
        """A result from its file's content."""
        raise NotImplementedError

    def result(self, name: str) -> R | None:
        """What a cell came to; None if it is not done."""
        path = self.directory(name) / "result.json"
        return read_versioned(
            path, self.version, self.read, "remove it, and the cell is scored again"
        )

    def save(self, result: R) -> None:
        """Makes a cell done, in one move."""
        path = self.directory(result.cell) / "result.json"
        write_json(path, {"format": self.version, **dataclasses.asdict(result)})

    def seconds(self, name: str) -> float | None:
        """What a cell took; None if it is not done."""
        result = self.result(name)
        return None if result is None else result.seconds

    def work(self, cell: C) -> float:
        """How much there is to do in a cell, in whatever unit."""
        raise NotImplementedError

    def cell(self, name: str) -> C:
        """The cell of a name; `SpotError` if there is none."""
        found = [cell for cell in self.cells if cell.name == name]
        if not found:
            raise SpotError(
                f"the study has no cell {name!r}; `{self.verb} --cells` lists its cells"
            )
        return found[0]

    def directory(self, cell: C | str) -> Path:
        """Of a cell."""
        return self.path / "cells" / (cell if isinstance(cell, str) else cell.name)

    def begin(self, cell: C, names: Sequence[str]) -> None:
        """Clears away what was begun before the study was moved: runs name prompts by path.

        Args:
            cell: that is to be done.
            names: of what it makes beside its result.
        """
        place = self.directory(cell) / "place"
        if place.exists() and place.read_text() != str(self.path):
            for name in names:
                shutil.rmtree(self.directory(cell) / name, ignore_errors=True)
        place.write_text(str(self.path))

    def claim_file(self, cell: C) -> Path:
        """What a process holds that works on a cell."""
        return self.directory(cell) / "claim"

    def is_done(self, name: str) -> bool:
        """Whether a cell has a result."""
        return (self.directory(name) / "result.json").exists()

    def waits_for(self, cell: C) -> list[str]:
        """Cells that have to be done before."""
        return [name for name in cell.needs if not self.is_done(name)]

    def state(self, cell: C) -> str:
        """In words: done, running (where), ready, or waiting (for how many)."""
        if self.is_done(cell.name):
            return "done"
        if who := holder(self.claim_file(cell)):
            return f"running: {who}"
        waiting = self.waits_for(cell)
        return f"waits for {len(waiting)}" if waiting else "ready"

    def overview(self) -> list[str]:
        """A line a cell: name, state and prompts; then how many are done."""
        rows = [["cell", "state", "prompts"]]
        rows += [[cell.name, self.state(cell), str(len(cell.parts))] for cell in self.cells]
        done = sum(self.is_done(cell.name) for cell in self.cells)
        return [*aligned(rows, left=(0, 1)), f"{done} of {len(self.cells)} done{self.time_left()}"]

    def time_left(self) -> str:
        """By what the cells so far took for their work; "" before the first, or after the last."""
        seconds = work = left = 0.0
        for cell in self.cells:
            took = self.seconds(cell.name)
            if took is None:
                left += self.work(cell)
            else:
                seconds, work = seconds + took, work + self.work(cell)
        return f", about {time_text(seconds / work * left)} left" if seconds and left else ""


Do = Callable[[C], None]


def do_all(opened: CellDirectory[C, Any], cells: Sequence[C], do: Do[C], say: Say) -> None:
    """Does what is left of some cells, together with whoever else is at it.

    Args:
        opened: their directory.
        cells: which; what they need is among them, or done.
        do: does one and leaves its result.
        say: is told when there is nothing to do but to wait for others.
    """
    while left := [cell for cell in cells if not opened.is_done(cell.name)]:
        if not _next(opened, left, do):
            _wait(opened, left, say)


def do_one(opened: CellDirectory[C, Any], name: str, do: Do[C], say: Say) -> None:
    """Does one cell; nothing if it is done.

    Raises:
        SpotError: no such cell, one whose needs are not done, or one that another process does.
    """
    cell = opened.cell(name)
    if opened.is_done(name):
        say(f"{name} is done")
        return
    if waiting := opened.waits_for(cell):
        more = f" and {len(waiting) - 1} more" if waiting[1:] else ""
        raise SpotError(
            f"{name} needs what {waiting[0]}{more} will have written; run --cell={waiting[0]} first"
        )
    with claim(opened.claim_file(cell)) as ours:
        if not ours:
            who = holder(opened.claim_file(cell)) or "another process"
            raise SpotError(f"{name} is being done by {who}; wait for it, or run another cell")
        do(cell)


def _next(opened: CellDirectory[C, Any], left: Sequence[C], do: Do[C]) -> bool:
    """Does the first cell that is ready and free; whether there was one."""
    for cell in left:
        if opened.waits_for(cell):
            continue
        with claim(opened.claim_file(cell)) as ours:
            if not ours:
                continue
            # Another process may have done it since we looked.
            if not opened.is_done(cell.name):
                do(cell)
            return True
    return False


def _wait(opened: CellDirectory[C, Any], left: Sequence[C], say: Say) -> None:
    """Until another process has done something."""
    say(f"{len(left)} cells left, all of them with other processes or waiting for theirs")
    before = len(left)
    while True:
        time.sleep(POLL)
        now = [cell for cell in left if not opened.is_done(cell.name)]
        free = [c for c in now if not opened.waits_for(c) and not holder(opened.claim_file(c))]
        if len(now) < before or free:
            return


@contextlib.contextmanager
def named(cell: AnyCell) -> Iterator[None]:
    """Within, a complaint says which cell it is about."""
    try:
        yield
    except SpotError as error:
        raise SpotError(f"cell {cell.name}: {error}") from error


def announced(opened: CellDirectory[C, Any], cell: C, steps: str) -> str:
    """The line before a cell: which of how many, its prompts and steps."""
    done = sum(opened.is_done(one.name) for one in opened.cells)
    place = f"[{done + 1}/{len(opened.cells)}]"
    return f"{place} {cell.name}: {_prompts(len(cell.parts))}, {steps} steps"


def told(
    opened: CellDirectory[C, Any], scores: Sequence[float | None], what: str, took: float
) -> str:
    """The line after a cell: its scores, its time, and what is left."""
    shown = " ".join("-" if score is None else f"{score:.1f}" for score in scores[:9])
    more = " ..." if scores[9:] else ""
    return f"    {what} {shown}{more} in {time_text(took)}{opened.time_left()}"


def counted(cells: Sequence[AnyCell]) -> str:
    """ "5 cells, 12 prompts"."""
    return f"{len(cells)} cells, {sum(len(cell.parts) for cell in cells)} prompts"


def time_text(seconds: float) -> str:
    """ "40 s", "12 min", "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _prompts(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count} prompts"
