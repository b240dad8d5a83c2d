"""A study of subspaces: begun, gone on with, shared among processes, brought to one file.

    find(plan, print)        prompts, subspaces and what goes through them (MSF)
    tune(plan, print)        all of it: references, and vectors tuned in the subspaces (IST)
    one(plan, name, print)   one cell, for a cluster's scheduler
    overview(plan)           the cells and their states; nothing is run or written

Results are written after every cell, so a study that was stopped can be reported as far as it is.
"""

from pathlib import Path

from spot_jax.data import loading
from spot_jax.data.example_cache import examples_cached
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import load_task
from spot_jax.studies.engine.compilation_cache import compiled_programs
from spot_jax.studies.engine.file_lock import claim
from spot_jax.studies.engine.queue import Say, announced, counted, do_all, do_one, named, told
from spot_jax.studies.subspace.assembly import assemble
from spot_jax.studies.subspace.directory import IntrinsicStudy, open_intrinsic
from spot_jax.studies.subspace.jobs import MODEL, PROMPTS, SUBSPACE, Cell, Tasks, tasks_of
from spot_jax.studies.subspace.plan import IntrinsicPlan
from spot_jax.studies.subspace.results import IntrinsicResults, write_results
from spot_jax.studies.subspace.running import run_cell


def find(
    plan: IntrinsicPlan, say: Say, *, command: str = "", progress: bool | None = None
) -> IntrinsicResults:
    """Does what is left of the prompts and the subspaces; see `tune`."""
    return _do(plan, say, command, progress, (PROMPTS, SUBSPACE))


def tune(
    plan: IntrinsicPlan, say: Say, *, command: str = "", progress: bool | None = None
) -> IntrinsicResults:
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
    return _do(plan, say, command, progress, ())


def one(
    plan: IntrinsicPlan, name: str, say: Say, *, command: str = "", progress: bool | None = None
) -> None:
    """Does one cell; nothing if it is done.

    Raises:
        SpotError: no such cell, one whose needs are not done, or one that another process does.
        Stopped: by a signal; the same command goes on.
    """
    opened = _opened(plan, command)
    with compiled_programs(opened.path / "compiled"):
        do_one(opened, name, lambda cell: _run(opened, cell, say, progress), say)


def overview(plan: IntrinsicPlan) -> list[str]:
    """A line a cell: name, state and prompts; then how many are done."""
    return open_intrinsic(plan, tasks_of(plan), look=True).overview()


def _do(
    plan: IntrinsicPlan, say: Say, command: str, progress: bool | None, kinds: tuple[str, ...]
) -> IntrinsicResults:
    opened = _opened(plan, command)
    cells = [cell for cell in opened.cells if not kinds or cell.kind in kinds]
    if kinds:
        # A prompt that only what comes later is compared with can wait.
        needed = {name for cell in cells for name in cell.needs}
        cells = [cell for cell in cells if cell.kind != PROMPTS or cell.name in needed]
    done = sum(opened.is_done(cell.name) for cell in cells)
    said = f", {done} cells done" if done else ""
    say(f"{opened.path}: {counted(cells)}{said}")
    with compiled_programs(opened.path / "compiled"), examples_cached():
        do_all(opened, cells, lambda cell: _run(opened, cell, say, progress), say)
    return finish(opened)


def finish(opened: IntrinsicStudy) -> IntrinsicResults:
    """Writes results.json from all cells that are done."""
    with claim(opened.path / ".lock", wait=True):
        results = assemble(opened)
        write_results(results, opened.path)
    return results


def _run(opened: IntrinsicStudy, cell: Cell, say: Say, progress: bool | None) -> None:
    plan = opened.plan
    stage = {PROMPTS: plan.prompt, MODEL: plan.model, SUBSPACE: plan.msf}.get(cell.kind, plan.ist)
    assert stage is not None
    say(announced(opened, cell, str(stage.steps)))
    with named(cell):
        result = run_cell(opened, cell, progress)
    finish(opened)
    say(told(opened, [made.test for made in result.made], "test", result.seconds))


def _opened(plan: IntrinsicPlan, command: str) -> IntrinsicStudy:
    tasks = tasks_of(plan)
    _check(plan, tasks)
    return open_intrinsic(plan, tasks, command)


def _check(plan: IntrinsicPlan, tasks: Tasks) -> None:
    """Whether tasks have what the study will ask of them, and subspaces fit into prompts."""
    numbers = plan.prompt_length * plan.backbone.description().config.emb_dim
    for d in (*plan.dimensions, *plan.subset_dimensions):
        if d > numbers:
            raise SpotError(
                f"a subspace of {d} dimensions was asked for, but a prompt has {numbers} numbers; "
                f"choose dimensions of 1 to {numbers}"
            )
    vocabulary = plan.backbone.vocabulary()
    for task in tasks.all:
        if not loading.has_metrics(task):
            raise SpotError(f"{task} has no metrics to be scored by; leave it out")
        for split in (plan.validation_split, plan.test_split):
            load_task(
                task, split, vocabulary, lengths=plan.lengths, decoding=plan.decoding, limit=1
            )


def study_directory(plan: IntrinsicPlan) -> Path:
    """Where a plan's study is."""
    return Path(plan.directory).expanduser().resolve()
