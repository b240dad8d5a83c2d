"""The jobs of a transfer study.

    source-X             prompts of source X, one a seed
    no_prompt-T          target T by the bare backbone
    scratch-T            target T from scratch, one prompt a seed; their early step embeds T
    transfer-T           target T from every source's prompts
    weighted_average-T   target T from averages of the prompts most like it
    multitask_mixture-T  target T from prompts of a mixture of the tasks most like it

All prompts of a job share a task and shapes and are tuned in one program. Where there are more
than a program may have, they go on in `transfer-T-2`, `transfer-T-3`, ...

When a grid grows, what there is already stays as it is: only what is new makes new jobs. So a job,
once named, never changes.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.files import unique_slug
from spot_jax.library.same_sets import data_set
from spot_jax.studies.engine.job import NO_PROMPT, Job, JobResult, PromptResult
from spot_jax.studies.transfer.plan import Grid, TransferPlan
from spot_jax.studies.transfer.results import (
    MULTITASK_MIXTURE,
    SCRATCH,
    TRANSFER,
    WEIGHTED_AVERAGE,
)

SOURCE = "source"
KINDS = (SOURCE, NO_PROMPT, SCRATCH, TRANSFER, WEIGHTED_AVERAGE, MULTITASK_MIXTURE)
Constituents = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Part:
    """One prompt of a job.

    Attributes:
        seed: seed of the run; None for the bare backbone.
        source: task whose prompt of this seed it begins from, for a transfer.
        k: number of prompts that it is made of, for averages and mixtures.
        pool: sources, but for the target, and seeds, that these prompts are chosen among.
    """

    seed: int | None
    source: str | None = None
    k: int | None = None
    pool: tuple[tuple[str, ...], tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class TransferJob(Job):
    """A job on one task.

    Attributes:
        task: name of the source or the target.
    """

    task: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def tasks_about(self) -> tuple[str, ...] | None:
        """See `Job`: averages and mixtures are of other tasks' prompts."""
        return (self.task,) if all(part.pool is None for part in self.parts) else None

    def amount(self, plan: TransferPlan) -> float:
        """Return how much there is to do: steps x prompts x tokens of a row, in thousands."""
        lengths = plan.task_lengths(self.task)
        row = plan.virtual_tokens + lengths["inputs"] + lengths["targets"]
        rows = plan.target.steps * plan.target.batch_size
        if self.kind == NO_PROMPT:
            rows = (plan.test_examples or 1000) // 3
        elif self.kind == SOURCE:
            rows = plan.source.steps * plan.source.batch_size
        elif self.kind == MULTITASK_MIXTURE:
            rows += (plan.mixture_steps or plan.source.steps) * plan.source.batch_size
        return len(self.parts) * rows * row / 1000


@dataclasses.dataclass(frozen=True)
class TransferPrompt(PromptResult):
    """One prompt of a finished job.

    Attributes:
        seed: seed of its run; None for the bare backbone.
        source: source task that it began from, for a transfer.
        k: number of prompts of an average or a mixture.
        embedding: path of the prompt at the embedding step, of sources and scratch runs.
        id: entry in the library, of sources.
        steps: steps at which it was evaluated.
        curve: validation score at each.
        chosen: prompts of an average or a mixture: id, task, seed and similarity of each.
    """

    seed: int | None = None
    source: str | None = None
    k: int | None = None
    embedding: str | None = None
    id: str = ""
    steps: tuple[int, ...] = ()
    curve: tuple[float, ...] = ()
    chosen: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class TransferResult(JobResult):
    """What a finished job leaves.

    Attributes:
        test_examples: number of examples that were scored.
        truncated_inputs: number of examples whose text was cut, of `examples`.
        examples: number of examples trained on.
    """

    prompts: tuple[TransferPrompt, ...]
    test_examples: int | None = None
    truncated_inputs: int = 0
    examples: int = 0


@dataclasses.dataclass(frozen=True)
class Generation:
    """A grid as it once was, and how many prompts a program might have then."""

    grid: Grid
    prompts_at_once: int


def leaks(source: str, target: str, constituents: Constituents) -> bool:
    """Return whether a source has the target's own examples, whatever either is called."""
    first, second = (
        {data_set(part) for part in constituents.get(name, (name,))} for name in (source, target)
    )
    return bool(first & second)


def jobs_of(history: Sequence[Generation], constituents: Constituents) -> list[TransferJob]:
    """Return the jobs of a study's last grid, those that others need first.

    Args:
        history: grids that the study has had, oldest first.
        constituents: tasks that each source or target consists of.

    Raises:
        SpotError: a target without a source but itself, or fewer prompts than some k asks for.
    """
    grid = history[-1].grid
    _check_targets(grid, constituents)
    planned: dict[tuple[str, str, Part], str] = {}
    named: dict[str, tuple[str, str, list[Part]]] = {}
    number: Counter[tuple[str, str]] = Counter()
    for generation in history:
        for kind, task, parts in _rows(generation.grid, constituents):
            new = [part for part in parts if (kind, task, part) not in planned]
            for start in range(0, len(new), generation.prompts_at_once):
                chunk = new[start : start + generation.prompts_at_once]
                number[kind, task] += 1
                name = _name(kind, task, number[kind, task])
                named[name] = (kind, task, chunk)
                planned |= dict.fromkeys(((kind, task, part) for part in chunk), name)
    wanted = {(k, t, part) for k, t, parts in _rows(grid, constituents) for part in parts}
    jobs = []
    for name, (kind, task, parts) in named.items():
        # An average over fewer sources than there are now is no longer asked for.
        if any((kind, task, part) in wanted for part in parts):
            needs = _needs(kind, task, parts, lambda *key: planned[key])
            jobs.append(TransferJob(name, kind, tuple(parts), needs, task))
    return sorted(jobs, key=lambda job: KINDS.index(job.kind))


def _rows(grid: Grid, constituents: Constituents) -> Iterator[tuple[str, str, list[Part]]]:
    """Yield (kind, task, prompts) of a grid."""
    plain = [Part(seed) for seed in grid.seeds]
    for source in grid.sources:
        yield SOURCE, source, plain
    for target in grid.targets:
        yield NO_PROMPT, target, [Part(None)]
        yield SCRATCH, target, plain
        fit = [s for s in grid.sources if not leaks(s, target, constituents)]
        yield TRANSFER, target, [Part(seed, source) for source in fit for seed in grid.seeds]
        # Sorted: which prompts there are to choose among does not depend on how they are listed.
        pool = (tuple(sorted(fit)), tuple(sorted(grid.seeds)))
        for kind in (WEIGHTED_AVERAGE, MULTITASK_MIXTURE):
            numbers = getattr(grid, kind)
            yield kind, target, [Part(s, k=k, pool=pool) for k in numbers for s in grid.seeds]


def _needs(
    kind: str, task: str, parts: Sequence[Part], job: Callable[[str, str, Part], str]
) -> tuple[str, ...]:
    needs = []
    for part in parts:
        if part.source is not None:
            needs.append(job(SOURCE, part.source, Part(part.seed)))
        if part.pool is not None:
            needs.append(job(SCRATCH, task, Part(part.seed)))
            sources, seeds = part.pool
            needs += [job(SOURCE, source, Part(seed)) for source in sources for seed in seeds]
    return tuple(dict.fromkeys(needs))


def _check_targets(grid: Grid, constituents: Constituents) -> None:
    for target in grid.targets:
        fit = [s for s in grid.sources if not leaks(s, target, constituents)]
        if not fit:
            raise SpotError(
                f"target {target} has no source but its own data ({', '.join(grid.sources)}), "
                "which is left out as leakage; add another source"
            )
        for kind in (WEIGHTED_AVERAGE, MULTITASK_MIXTURE):
            most = max(getattr(grid, kind), default=0)
            if most > len(fit) * len(grid.seeds):
                raise SpotError(
                    f"{kind} of k = {most} prompts for {target}, but there are "
                    f"{len(fit) * len(grid.seeds)}: {len(fit)} sources that are not its own data "
                    f"x {len(grid.seeds)} seeds; lower k or add sources"
                )


def _name(kind: str, task: str, number: int) -> str:
    return f"{kind}-{unique_slug(task)}" + ("" if number == 1 else f"-{number}")
