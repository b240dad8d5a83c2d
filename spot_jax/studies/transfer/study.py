"""A transfer study: begun, gone on with, shared among processes, brought to one file of results.

    study(plan, print)             all of it, or what is left
    study_cell(plan, name, print)  one cell, for a cluster's scheduler
    overview(plan)                 the cells and their states; nothing is run or written

A process takes the next cell that is ready and that no other works on, until none is left. A kill
loses at most what the cell under way has done since its last checkpoint.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from spot_jax.data import loading
from spot_jax.data.example_cache import examples_cached
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import load_task
from spot_jax.studies.engine.compilation_cache import compiled_programs
from spot_jax.studies.engine.file_lock import claim
from spot_jax.studies.engine.queue import (
    Say,
    announced,
    counted,
    do_all,
    do_one,
    named,
    told,
)
from spot_jax.studies.transfer.assembly import assemble
from spot_jax.studies.transfer.directory import Study, open_study
from spot_jax.studies.transfer.jobs import SOURCE, Cell
from spot_jax.studies.transfer.plan import StudyPlan
from spot_jax.studies.transfer.results import StudyResults, write_results
from spot_jax.studies.transfer.running import run_cell
from spot_jax.transfer.splits import splits_of


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
    say(f"{opened.path}: {counted(opened.cells)}{said}")
    with compiled_programs(opened.path / "compiled"), examples_cached():
        do_all(opened, opened.cells, lambda cell: _run(opened, cell, say, progress), say)
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
    with compiled_programs(opened.path / "compiled"):
        do_one(opened, name, lambda cell: _run(opened, cell, say, progress), say)


def overview(plan: StudyPlan) -> list[str]:
    """A line a cell: name, prompts, steps and state; then how many are done."""
    return open_study(plan, _constituents(plan), look=True).overview()


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
    vocabulary, lengths = plan.backbone.vocabulary(), plan.task_lengths(name)
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


def _run(opened: Study, cell: Cell, say: Say, progress: bool | None) -> None:
    say(announced(opened, cell, _steps(opened.plan, cell)))
    with named(cell):
        result = run_cell(opened, cell, progress)
    best = [p.test if p.test is not None else p.validation for p in result.prompts]
    what = "validation" if cell.kind == SOURCE else "test"
    say(told(opened, best, what, result.seconds))


def _steps(plan: StudyPlan, cell: Cell) -> str:
    if cell.kind == SOURCE:
        return str(plan.source.steps)
    mixed = f"{plan.mixture_steps or plan.source.steps} + " if "mixture" in cell.kind else ""
    return f"{mixed}{plan.target.steps}"


def study_directory(plan: StudyPlan) -> Path:
    """Where a plan's study is."""
    return Path(plan.directory).expanduser().resolve()
