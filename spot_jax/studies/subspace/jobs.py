"""A study of subspaces as cells: pieces of work that one command does.

    prompts-TASK        prompts of a task, one a seed, tuned without a subspace
    model-TASK-s0       a whole model tuned on a task
    subspace-d5-s0      a subspace of 5 dimensions from one seed's prompts of all training tasks
    subspace-d5-n4-...  the same from a subset of 4 of them
    tuned-d5-s0         vectors in that subspace, one a task
    random-d5-s0        vectors in a random subspace of 5 dimensions, one a held-out task

A subset's cells are named after its tasks too, so that a cell, once named, never changes.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.files import unique_slug
from spot_jax.library.index import whole_task
from spot_jax.studies.subspace.plan import IntrinsicPlan, check_enough

PROMPTS, MODEL, SUBSPACE, TUNED, RANDOM = "prompts", "model", "subspace", "tuned", "random"
KINDS = (PROMPTS, SUBSPACE, MODEL, TUNED, RANDOM)
TRAIN_MSF, TEST_MSF = "train_msf", "test_msf"
SAME_IST, DIFF_IST, TEST_IST = "train_same_ist", "train_diff_ist", "test_ist"
SETTINGS = (TRAIN_MSF, TEST_MSF, SAME_IST, DIFF_IST, TEST_IST)
TRAIN = "train"


@dataclasses.dataclass(frozen=True)
class Tasks:
    """A plan's tasks, mixtures taken apart.

    Attributes:
        train: whose prompts subspaces are found from.
        other: by training task, the same one with other data; empty if there is none.
        test: held-out tasks by category.
        subsets: of the training tasks.
    """

    train: tuple[str, ...]
    other: Mapping[str, str]
    test: Mapping[str, tuple[str, ...]]
    subsets: tuple[tuple[str, ...], ...]

    @property
    def held_out(self) -> list[tuple[str, str]]:
        """(category, task) of each held-out task."""
        return [(category, task) for category, tasks in self.test.items() for task in tasks]

    @property
    def all(self) -> list[str]:
        """Every task."""
        return [*self.train, *self.other.values(), *(task for _, task in self.held_out)]


@dataclasses.dataclass(frozen=True)
class Part:
    """One prompt of a cell.

    Attributes:
        task: it is of.
        seed: of its run.
        setting: of SETTINGS; "" for references.
        category: "train", or the held-out task's.
    """

    task: str
    seed: int
    setting: str = ""
    category: str = TRAIN


@dataclasses.dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        name: of its directory and for `--cell`.
        kind: one of KINDS.
        parts: the prompts that it scores, in order.
        needs: cells whose prompts or subspaces it takes.
        seed: of the run; that of the first part where there are several.
        dimension: d; 0 for references.
        tasks: that its subspace is found from; empty for references and random subspaces.
        draw: which subset; -1 for all training tasks.
    """

    name: str
    kind: str
    parts: tuple[Part, ...]
    needs: tuple[str, ...] = ()
    seed: int = 0
    dimension: int = 0
    tasks: tuple[str, ...] = ()
    draw: int = -1


def tasks_of(plan: IntrinsicPlan) -> Tasks:
    """The tasks that a plan names.

    Raises:
        SpotError: an unknown task, too few to find a subspace from, a held-out task that is also
            trained on, or a subset with a task that is not a training task.
    """
    if plan.modules:
        loading.import_modules(plan.modules)

    def apart(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task for n in names for task in loading.constituents(n)))

    train = apart(plan.train_tasks)
    check_enough("train_tasks", train)
    test = {category: apart(names) for category, names in plan.test_tasks.items()}
    subsets = tuple(apart(names) for names in plan.subsets)
    other = {}
    if plan.other_suffix:
        other = {task: _named(task + plan.other_suffix) for task in train}
    found = Tasks(train, other, test, subsets)
    _check(found)
    return found


def _named(task: str) -> str:
    loading.constituents(task)
    return task


def _check(found: Tasks) -> None:
    seen = {whole_task(task) for task in found.train}
    categories: dict[str, str] = {}
    for category, task in found.held_out:
        if whole_task(task) in seen:
            raise SpotError(
                f"{task} is held out ({category}) and also a training task, whose prompts the "
                "subspace is found from; take it out of one of them"
            )
        if task in categories:
            raise SpotError(
                f"{task} is held out as {categories[task]} and as {category}; name it once"
            )
        categories[task] = category
    if TRAIN in found.test:
        raise SpotError(f"a category of held-out tasks is named {TRAIN!r}; give it another name")
    for category, tasks in found.test.items():
        if not tasks:
            raise SpotError(f"the category {category!r} has no held-out task; name one")
    for subset in found.subsets:
        check_enough("one of subsets", subset)
        if strange := [task for task in subset if task not in found.train]:
            raise SpotError(
                f"subsets are of the training tasks, found {strange[0]}, which is none of them"
            )


def cells_of(plan: IntrinsicPlan, tasks: Tasks) -> tuple[Cell, ...]:
    """All cells, those that others need first."""
    made = list(_cells(plan, tasks))
    return tuple(sorted(made, key=lambda cell: KINDS.index(cell.kind)))


def _cells(plan: IntrinsicPlan, tasks: Tasks) -> Iterator[Cell]:
    for task in tasks.all:
        parts = tuple(Part(task, seed) for seed in plan.seeds)
        yield Cell(prompts_cell(task), PROMPTS, parts, seed=plan.seeds[0])
        seeds = plan.seeds if plan.model_seeds is None else plan.model_seeds
        for seed in seeds if plan.model is not None else ():
            name = f"{MODEL}-{unique_slug(task)}-s{seed}"
            yield Cell(name, MODEL, (Part(task, seed),), seed=seed)
    for d in plan.dimensions:
        yield from _of_subspace(plan, tasks, d, -1)
    for draw in range(len(tasks.subsets)):
        for d in plan.subset_dimensions:
            yield from _of_subspace(plan, tasks, d, draw)
    for d in plan.dimensions if plan.random_subspace else ():
        for seed in plan.seeds:
            held_out = [Part(t, seed, TEST_IST, category) for category, t in tasks.held_out]
            # Random subspaces have the scale of the training tasks' prompts.
            needs = tuple(map(prompts_cell, tasks.train))
            yield from _chunks(plan, f"{RANDOM}-d{d}-s{seed}", RANDOM, held_out, needs, seed, d)


def _of_subspace(plan: IntrinsicPlan, tasks: Tasks, d: int, draw: int) -> Iterator[Cell]:
    """A subspace of each seed, and what is tuned in it; of a subset only held-out tasks are."""
    whole = draw < 0
    from_ = tasks.train if whole else tasks.subsets[draw]
    middle = f"d{d}" if whole else f"d{d}-n{len(from_)}-{_digits(from_)}"
    for seed in plan.seeds:
        held_out = [(category, task) for category, task in tasks.held_out]
        parts = [Part(task, seed, TRAIN_MSF) for task in from_]
        parts += [Part(task, seed, TEST_MSF, category) for category, task in held_out]
        name = f"{SUBSPACE}-{middle}-s{seed}"
        needs = tuple(prompts_cell(part.task) for part in parts)
        yield Cell(name, SUBSPACE, tuple(parts), needs, seed, d, from_, draw)
        parts = [Part(task, seed, TEST_IST, category) for category, task in held_out]
        if whole:
            parts += [Part(task, seed, SAME_IST) for task in tasks.train]
            parts += [Part(task, seed, DIFF_IST) for task in tasks.other.values()]
        whose = f"{TUNED}-{middle}-s{seed}"
        yield from _chunks(plan, whose, TUNED, parts, (name,), seed, d, from_, draw)


def _chunks(
    plan: IntrinsicPlan,
    name: str,
    kind: str,
    parts: Sequence[Part],
    needs: tuple[str, ...],
    seed: int,
    dimension: int,
    tasks: tuple[str, ...] = (),
    draw: int = -1,
) -> Iterator[Cell]:
    """Cells of no more prompts than a program may have."""
    for number, start in enumerate(range(0, len(parts), plan.prompts_at_once), 1):
        some = tuple(parts[start : start + plan.prompts_at_once])
        suffix = "" if number == 1 else f"-{number}"
        yield Cell(name + suffix, kind, some, needs, seed, dimension, tasks, draw)


def prompts_cell(task: str) -> str:
    """The name of the cell of a task's prompts."""
    return f"{PROMPTS}-{unique_slug(task)}"


def _digits(tasks: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(tasks)).encode()).hexdigest()[:6]
