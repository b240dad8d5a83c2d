"""A transfer study: begun, gone on with, shared among processes, brought to one file of results.

    study(plan, print)             all of it, or what is left
    study_cell(plan, name, print)  one cell, for a cluster's scheduler
    overview(plan)                 the cells and their states; nothing is run or written

A process takes the next cell that is ready and that no other works on, until none is left. A kill
loses at most what the cell under way has done since its last checkpoint.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from spot_jax.data import loading
from spot_jax.data.kept import examples_kept
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import load_task
from spot_jax.transfer.claims import claim, holder
from spot_jax.transfer.compiled import compiled_programs
from spot_jax.transfer.outcome import aligned
from spot_jax.transfer.results import StudyResults, write_results
from spot_jax.transfer.splits import splits_of
from spot_jax.transfer.study_cells import SOURCE, Cell
from spot_jax.transfer.study_directory import Study, open_study
from spot_jax.transfer.study_plan import StudyPlan
from spot_jax.transfer.study_results import assemble
from spot_jax.transfer.study_running import run_cell

POLL = 2.0

Say = Callable[[str], None]


def study(
    plan: StudyPlan, say: Say, *, command: str = "", progress: bool | None = None
) -> StudyResults:
    """Does what is left of a study, together with whoever else is at it, and writes its results.

    Args:
        plan: the study.
        say: is told of each cell, a line.
        command: to keep among the commands that made the study.
        progress: a bar for each run; None for one where stderr is a terminal.

    Raises:
        SpotError: anything wrong in the plan, before long work starts where it can be seen then;
            a cell that failed, by name.
        Stopped: by a signal; the same command goes on.
    """
    opened = _opened(plan, command)
    done = sum(opened.is_done(cell.name) for cell in opened.cells)
    said = f", {done} cells done" if done else ""
    say(f"{opened.path}: {_counted(opened.cells)}{said}")
    with compiled_programs(opened.path / "compiled"), examples_kept():
        while left := [cell for cell in opened.cells if not opened.is_done(cell.name)]:
            if not _next(opened, left, say, progress):
                _wait(opened, left, say)
    return finish(opened)


def study_cell(
    plan: StudyPlan, name: str, say: Say, *, command: str = "", progress: bool | None = None
) -> None:
    """Does one cell; nothing if it is done.

    Raises:
        SpotError: no such cell, one whose needs are not done, or one that another process does.
        Stopped: by a signal; the same command goes on.
    """
    opened = _opened(plan, command)
    cell = opened.cell(name)
    if opened.is_done(name):
        say(f"{name} is done")
        return
    if waiting := opened.waits_for(cell):
        more = f" and {len(waiting) - 1} more" if waiting[1:] else ""
        raise SpotError(
            f"{name} needs what {waiting[0]}{more} will have written; run --cell={waiting[0]} first"
        )
    with compiled_programs(opened.path / "compiled"), claim(opened.claim_file(cell)) as ours:
        if not ours:
            who = holder(opened.claim_file(cell)) or "another process"
            raise SpotError(f"{name} is being done by {who}; wait for it, or run another cell")
        _run(opened, cell, say, progress)


def overview(plan: StudyPlan) -> list[str]:
    """A line a cell: name, prompts, steps and state; then how many are done."""
    look = open_study(plan, _constituents(plan), look=True)
    rows = [["cell", "state", "prompts"]]
    rows += [[cell.name, look.state(cell), str(len(cell.parts))] for cell in look.cells]
    done = sum(look.is_done(cell.name) for cell in look.cells)
    return [*aligned(rows, 2), f"{done} of {len(look.cells)} done{_time_left(look)}"]


def so_far(plan: StudyPlan) -> StudyResults:
    """Writes the results of the cells that are done, and runs none.

    Raises:
        SpotError: there is no such study, or nothing of it is done.
    """
    opened = open_study(plan, _constituents(plan), look=True)
    if not any(opened.is_done(cell.name) for cell in opened.cells):
        raise SpotError(f"nothing of a study is done in {opened.path}; run `spot study` without")
    return finish(opened)


def finish(opened: Study) -> StudyResults:
    """Writes results.json from all cells that are done."""
    results = assemble(opened)
    with claim(opened.path / ".lock", wait=True):
        write_results(results, opened.path)
    return results


def _opened(plan: StudyPlan, command: str) -> Study:
    return open_study(plan, _constituents(plan, check=True), command)


def _constituents(plan: StudyPlan, *, check: bool = False) -> Callable[[str], Sequence[str]]:
    """What a task or mixture consists of; the first look at a task finds what is wrong with it."""

    def ask(name: str) -> Sequence[str]:
        if not loading.is_arrays(name):
            loading.import_modules(plan.modules)
            if plan.text_directory:
                loading.register_text(plan.text_directory)
        elif plan.multitask_mixture:
            raise SpotError(
                f"a multi-task mixture needs seqio tasks, found the file {name}; register it as a "
                "task, or leave multitask_mixture empty"
            )
        if check:
            _check(plan, name)
        return loading.constituents(name)

    return ask


def _check(plan: StudyPlan, name: str) -> None:
    """Whether a task has what the study will ask of it."""
    vocabulary, lengths = plan.vocabulary(), plan.task_lengths(name)
    splits = {plan.validation_split} if plan.source.period else set()
    if name in plan.targets:
        if not loading.has_metrics(name):
            raise SpotError(f"target {name} has no metrics to be scored by; take it as a source")
        found = splits_of(
            name,
            vocabulary,
            lengths=lengths,
            choosing=plan.validation_split,
            reporting=plan.test_split,
        )
        splits = {found.choosing, found.reporting}
    for split in sorted(splits):
        decoding = plan.task(name)["decoding"]
        load_task(name, split, vocabulary, lengths=lengths, decoding=decoding, limit=1)


def _next(opened: Study, left: Sequence[Cell], say: Say, progress: bool | None) -> bool:
    """Does the first cell that is ready and free; whether there was one."""
    for cell in left:
        if opened.waits_for(cell):
            continue
        with claim(opened.claim_file(cell)) as ours:
            if not ours:
                continue
            # Another process may have done it since we looked.
            if not opened.is_done(cell.name):
                _run(opened, cell, say, progress)
            return True
    return False


def _wait(opened: Study, left: Sequence[Cell], say: Say) -> None:
    """Until another process has done something."""
    say(f"{len(left)} cells left, all of them with other processes or waiting for theirs")
    before = len(left)
    while True:
        time.sleep(POLL)
        now = [cell for cell in left if not opened.is_done(cell.name)]
        free = [c for c in now if not opened.waits_for(c) and not holder(opened.claim_file(c))]
        if len(now) < before or free:
            return


def _run(opened: Study, cell: Cell, say: Say, progress: bool | None) -> None:
    done = sum(opened.is_done(one.name) for one in opened.cells)
    place = f"[{done + 1}/{len(opened.cells)}]"
    say(f"{place} {cell.name}: {_prompts(len(cell.parts))}, {_steps(opened.plan, cell)} steps")
    with _named(cell):
        result = run_cell(opened, cell, progress)
    best = [p.test if p.test is not None else p.validation for p in result.prompts]
    scores = " ".join("-" if score is None else f"{score:.1f}" for score in best[:9])
    what = "validation" if cell.kind == SOURCE else "test"
    more = " ..." if best[9:] else ""
    say(f"    {what} {scores}{more} in {_time(result.seconds)}{_time_left(opened)}")


@contextlib.contextmanager
def _named(cell: Cell) -> Iterator[None]:
    try:
        yield
    except SpotError as error:
        raise SpotError(f"cell {cell.name}: {error}") from error


def _time_left(opened: Study) -> str:
    """By what the cells so far took for their work; nothing before the first, or after the last."""
    seconds = work = left = 0.0
    for cell in opened.cells:
        result = opened.result(cell.name)
        if result is None:
            left += cell.work(opened.plan)
        else:
            seconds, work = seconds + result.seconds, work + cell.work(opened.plan)
    return f", about {_time(seconds / work * left)} left" if seconds and left else ""


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _prompts(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count} prompts"


def _steps(plan: StudyPlan, cell: Cell) -> str:
    if cell.kind == SOURCE:
        return str(plan.source.steps)
    mixed = f"{plan.mixture_steps or plan.source.steps} + " if "mixture" in cell.kind else ""
    return f"{mixed}{plan.target.steps}"


def _counted(cells: Sequence[Cell]) -> str:
    prompts = sum(len(cell.parts) for cell in cells)
    return f"{len(cells)} cells, {prompts} prompts"


def study_directory(plan: StudyPlan) -> Path:
    """Where a plan's study is."""
    return Path(plan.directory).expanduser().resolve()
