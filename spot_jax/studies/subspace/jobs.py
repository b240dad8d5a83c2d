"""The jobs of a study of subspaces.

    prompts-TASK        prompts of a task, one a seed, tuned without a subspace
    no_prompt-TASK      a task by the bare backbone
    model-TASK-s0       a whole model tuned on a task
    subspace-d5-s0      a subspace of 5 dimensions from one seed's prompts of all training tasks
    subspace-d5-n4-...  the same from a subset of 4 of them
    tuned-d5-s0         vectors in that subspace, one a task
    random-d5-s0        vectors in a random subspace of 5 dimensions, one a held-out task
    second-d5-s0        prompts that begin from the held-out tasks' in that subspace (stage two)
    fastfood-TASK-d5-s0 a vector that moves all weights, on a held-out task

A subset's jobs are named after its tasks too, so that a job, once named, never changes.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.files import unique_slug
from spot_jax.library.index import whole_task
from spot_jax.studies.engine.job import NO_PROMPT, Job, JobResult
from spot_jax.studies.subspace.plan import SubspacePlan, check_enough

PROMPTS, MODEL, SUBSPACE, TUNED, RANDOM = "prompts", "model", "subspace", "tuned", "random"
SECOND, FASTFOOD = "second", "fastfood"
KINDS = (PROMPTS, NO_PROMPT, SUBSPACE, MODEL, TUNED, RANDOM, SECOND, FASTFOOD)
TRAIN_MSF, TEST_MSF = "train_msf", "test_msf"
SAME_IST, DIFF_IST, TEST_IST = "train_same_ist", "train_diff_ist", "test_ist"
TEST_SECOND = "test_second"
SETTINGS = (TRAIN_MSF, TEST_MSF, SAME_IST, DIFF_IST, TEST_IST, TEST_SECOND)
TRAIN = "train"
MODEL_WORK = 3.0
"""A step of the whole model against one of prompts, roughly: for the time that is left only."""


@dataclasses.dataclass(frozen=True)
class Tasks:
    """A plan's tasks, mixtures taken apart.

    Attributes:
        train: tasks whose prompts subspaces are found from.
        other: names of the same task with other data, by training task; may be empty.
        test: held-out tasks by category.
        subsets: subsets of the training tasks.
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
    """One prompt of a job.

    Attributes:
        task: task of the prompt.
        seed: seed of its run; None for the bare backbone.
        setting: setting of the prompt, one of SETTINGS; "" for references.
        category: category of the task: "train", or the held-out task's.
    """

    task: str
    seed: int | None
    setting: str = ""
    category: str = TRAIN


@dataclasses.dataclass(frozen=True)
class SubspaceJob(Job):
    """A job on prompts, or on a subspace.

    Attributes:
        seed: seed of the run; that of the first part where there are several.
        dimension: number d of dimensions; 0 for references.
        tasks: tasks that its subspace is found from; empty for references and random subspaces.
        draw: index of the subset of the training tasks; -1 for all of them.
    """

    parts: tuple[Part, ...] = ()
    seed: int = 0
    dimension: int = 0
    tasks: tuple[str, ...] = ()
    draw: int = -1

    def amount(self, plan: SubspacePlan) -> float:
        """Return the number of rows of text that it goes through, trained on or scored."""
        scored = len(self.parts) * (plan.test_examples or 1000)
        if self.kind == NO_PROMPT:
            return scored
        if self.kind == SUBSPACE:
            prompts = len(self.tasks) * plan.prompts_per_task
            return scored + plan.msf.steps * plan.msf.batch_size * prompts
        stage, factor = plan.ist, 1.0
        if self.kind in (PROMPTS, SECOND):
            stage = plan.prompt
        elif self.kind == MODEL and plan.model is not None:
            stage, factor = plan.model, MODEL_WORK
        elif self.kind == FASTFOOD and plan.fastfood is not None:
            stage, factor = plan.fastfood, MODEL_WORK
        return scored + factor * stage.steps * stage.batch_size * len(self.parts)


@dataclasses.dataclass(frozen=True)
class SubspaceResult(JobResult):
    """What a finished job leaves.

    Attributes:
        subspace: path of the subspace, of those that find one.
        trained: number of numbers that were trained.
    """

    subspace: str = ""
    trained: int = 0


def tasks_of(plan: SubspacePlan) -> Tasks:
    """Return the tasks that a plan names.

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
    tasks = Tasks(train, other, test, subsets)
    _check(tasks)
    return tasks


def _named(task: str) -> str:
    loading.constituents(task)
    return task


def _check(tasks: Tasks) -> None:
    seen = {whole_task(task) for task in tasks.train}
    categories: dict[str, str] = {}
    for category, task in tasks.held_out:
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
    if TRAIN in tasks.test:
        raise SpotError(f"a category of held-out tasks is named {TRAIN!r}; give it another name")
    for category, names in tasks.test.items():
        if not names:
            raise SpotError(f"the category {category!r} has no held-out task; name one")
    for subset in tasks.subsets:
        check_enough("one of subsets", subset)
        if strange := [task for task in subset if task not in tasks.train]:
            raise SpotError(
                f"subsets are of the training tasks, found {strange[0]}, which is none of them"
            )


def jobs_of(plan: SubspacePlan, tasks: Tasks) -> tuple[SubspaceJob, ...]:
    """Return all jobs, those that others need first."""
    return tuple(sorted(_jobs(plan, tasks), key=lambda job: KINDS.index(job.kind)))


def _jobs(plan: SubspacePlan, tasks: Tasks) -> Iterator[SubspaceJob]:
    for task in tasks.all:
        parts = tuple(Part(task, seed) for seed in plan.seeds)
        yield SubspaceJob(prompts_job(task), PROMPTS, parts, seed=plan.seeds[0])
        yield SubspaceJob(f"{NO_PROMPT}-{unique_slug(task)}", NO_PROMPT, (Part(task, None),))
        seeds = plan.seeds if plan.model_seeds is None else plan.model_seeds
        for seed in seeds if plan.model is not None else ():
            name = f"{MODEL}-{unique_slug(task)}-s{seed}"
            yield SubspaceJob(name, MODEL, (Part(task, seed),), seed=seed)
    for d in plan.dimensions:
        yield from _of_subspace(plan, tasks, d, -1)
    for draw in range(len(tasks.subsets)):
        for d in plan.subset_dimensions:
            yield from _of_subspace(plan, tasks, d, draw)
    for d in plan.dimensions if plan.random_subspace else ():
        for seed in plan.seeds:
            held_out = [Part(t, seed, TEST_IST, category) for category, t in tasks.held_out]
            # Random subspaces have the scale of the training tasks' prompts.
            needs = tuple(map(prompts_job, tasks.train))
            yield from _chunks(plan, f"{RANDOM}-d{d}-s{seed}", RANDOM, held_out, needs, seed, d)
    for d in plan.fastfood_dimensions:
        for category, task in tasks.held_out:
            for seed in plan.seeds:
                name = f"{FASTFOOD}-{unique_slug(task)}-d{d}-s{seed}"
                parts = (Part(task, seed, TEST_IST, category),)
                yield SubspaceJob(name, FASTFOOD, parts, seed=seed, dimension=d)


def _of_subspace(plan: SubspacePlan, tasks: Tasks, d: int, draw: int) -> Iterator[SubspaceJob]:
    """Plan a subspace of each seed, and what is tuned in it; of a subset only held-out tasks."""
    whole = draw < 0
    from_ = tasks.train if whole else tasks.subsets[draw]
    middle = f"d{d}" if whole else f"d{d}-n{len(from_)}-{_digits(from_)}"
    for seed in plan.seeds:
        held_out = [(category, task) for category, task in tasks.held_out]
        parts = [Part(task, seed, TRAIN_MSF) for task in from_]
        parts += [Part(task, seed, TEST_MSF, category) for category, task in held_out]
        name = f"{SUBSPACE}-{middle}-s{seed}"
        needs = tuple(prompts_job(part.task) for part in parts)
        yield SubspaceJob(name, SUBSPACE, tuple(parts), needs, seed, d, from_, draw)
        parts = [Part(task, seed, TEST_IST, category) for category, task in held_out]
        if whole:
            parts += [Part(task, seed, SAME_IST) for task in tasks.train]
            parts += [Part(task, seed, DIFF_IST) for task in tasks.other.values()]
        whose = f"{TUNED}-{middle}-s{seed}"
        tuned = list(_chunks(plan, whose, TUNED, parts, (name,), seed, d, from_, draw))
        yield from tuned
        if whole and plan.second_stage:
            parts = [Part(task, seed, TEST_SECOND, category) for category, task in held_out]
            needs = tuple(job.name for job in tuned)
            second = f"{SECOND}-{middle}-s{seed}"
            yield from _chunks(plan, second, SECOND, parts, needs, seed, d, from_, draw)


def _chunks(
    plan: SubspacePlan,
    name: str,
    kind: str,
    parts: Sequence[Part],
    needs: tuple[str, ...],
    seed: int,
    dimension: int,
    tasks: tuple[str, ...] = (),
    draw: int = -1,
) -> Iterator[SubspaceJob]:
    """Return jobs of no more prompts than a program may have."""
    for number, start in enumerate(range(0, len(parts), plan.prompts_at_once), 1):
        some = tuple(parts[start : start + plan.prompts_at_once])
        suffix = "" if number == 1 else f"-{number}"
        yield SubspaceJob(name + suffix, kind, some, needs, seed, dimension, tasks, draw)


def prompts_job(task: str) -> str:
    """Return the name of the job of a task's prompts."""
    return f"{PROMPTS}-{unique_slug(task)}"


def _digits(tasks: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(tasks)).encode()).hexdigest()[:6]
