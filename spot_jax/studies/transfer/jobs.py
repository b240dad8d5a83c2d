"""A study as cells: pieces of work that one command does, one after another or side by side.

    source-X             prompts of source X, one a seed
    scratch-T            target T from scratch, one prompt a seed; their early step embeds T
    transfer-T           target T from every source's prompts
    weighted_average-T   target T from averages of the prompts most like it
    multitask_mixture-T  target T from prompts of a mixture of the tasks most like it

All prompts of a cell share a task and shapes and are tuned in one program. Where there are more
than a program may have, they go on in `transfer-T-2`, `transfer-T-3`, ...

When a grid grows, what there is already stays as it is: only what is new makes new cells. So a
cell, once named, never changes.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from spot_jax.errors import SpotError
from spot_jax.files import unique_slug
from spot_jax.library.index import whole_task
from spot_jax.studies.transfer.plan import Grid, StudyPlan
from spot_jax.studies.transfer.results import (
    MULTITASK_MIXTURE,
    SCRATCH,
    TRANSFER,
    WEIGHTED_AVERAGE,
)

SOURCE = "source"
KINDS = (SOURCE, SCRATCH, TRANSFER, WEIGHTED_AVERAGE, MULTITASK_MIXTURE)
Constituents = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Part:
    """One prompt of a cell.

    Attributes:
        seed: of the run.
        source: the task whose prompt of this seed it begins from, for a transfer.
        k: how many prompts it is made of, for averages and mixtures.
        pool: what these are chosen among: sources that are not the target, and seeds, of that time.
    """

    seed: int
    source: str | None = None
    k: int | None = None
    pool: tuple[tuple[str, ...], tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        name: of its directory and for `--cell`.
        kind: one of KINDS.
        task: the source or the target.
        parts: its prompts, in order.
        needs: cells whose prompts it begins from or is ranked by.
    """

    name: str
    kind: str
    task: str
    parts: tuple[Part, ...]
    needs: tuple[str, ...] = ()

    def work(self, plan: StudyPlan) -> float:
        """How much there is to do: steps x prompts x tokens of a row, in thousands."""
        lengths = plan.task_lengths(self.task)
        row = plan.virtual_tokens + lengths["inputs"] + lengths["targets"]
        rows = plan.target.steps * plan.target.batch_size
        if self.kind == SOURCE:
            rows = plan.source.steps * plan.source.batch_size
        elif self.kind == MULTITASK_MIXTURE:
            rows += (plan.mixture_steps or plan.source.steps) * plan.source.batch_size
        return len(self.parts) * rows * row / 1000


@dataclasses.dataclass(frozen=True)
class Generation:
    """A grid as it once was, and how many prompts a program might have when it came."""

    grid: Grid
    prompts_at_once: int


def leaks(source: str, target: str, constituents: Constituents) -> bool:
    """Whether a source has the target's own examples, also of another number of shots."""
    one, other = ({whole_task(n) for n in constituents.get(t, (t,))} for t in (source, target))
    return bool(one & other)


def cells_of(history: Sequence[Generation], constituents: Constituents) -> list[Cell]:
    """The cells of a study's last grid, those that others need first.

    Args:
        history: the grids that the study has had, oldest first.
        constituents: the tasks that each source or target consists of.

    Raises:
        SpotError: a target without a source but itself, or fewer prompts than some k asks for.
    """
    grid = history[-1].grid
    _check_targets(grid, constituents)
    planned: dict[tuple[str, str, Part], str] = {}
    made: dict[str, tuple[str, str, list[Part]]] = {}
    number: Counter[tuple[str, str]] = Counter()
    for generation in history:
        for kind, task, parts in _rows(generation.grid, constituents):
            new = [part for part in parts if (kind, task, part) not in planned]
            for start in range(0, len(new), generation.prompts_at_once):
                chunk = new[start : start + generation.prompts_at_once]
                number[kind, task] += 1
                name = _name(kind, task, number[kind, task])
                made[name] = (kind, task, chunk)
                planned |= dict.fromkeys(((kind, task, part) for part in chunk), name)
    wanted = {(k, t, part) for k, t, parts in _rows(grid, constituents) for part in parts}
    cells = []
    for name, (kind, task, parts) in made.items():
        # An average over fewer sources than there are now is no longer asked for.
        if any((kind, task, part) in wanted for part in parts):
            needs = _needs(kind, task, parts, lambda *key: planned[key])
            cells.append(Cell(name, kind, task, tuple(parts), needs))
    return sorted(cells, key=lambda cell: KINDS.index(cell.kind))


def _rows(grid: Grid, constituents: Constituents) -> Iterator[tuple[str, str, list[Part]]]:
    """(kind, task, prompts) of a grid."""
    plain = [Part(seed) for seed in grid.seeds]
    for source in grid.sources:
        yield SOURCE, source, plain
    for target in grid.targets:
        yield SCRATCH, target, plain
        fit = [s for s in grid.sources if not leaks(s, target, constituents)]
        yield TRANSFER, target, [Part(seed, source) for source in fit for seed in grid.seeds]
        # Sorted: which prompts there are to choose among does not depend on how they are listed.
        pool = (tuple(sorted(fit)), tuple(sorted(grid.seeds)))
        for kind in (WEIGHTED_AVERAGE, MULTITASK_MIXTURE):
            numbers = getattr(grid, kind)
            yield kind, target, [Part(s, k=k, pool=pool) for k in numbers for s in grid.seeds]


def _needs(
    kind: str, task: str, parts: Sequence[Part], cell: Callable[[str, str, Part], str]
) -> tuple[str, ...]:
    needs = []
    for part in parts:
        if part.source is not None:
            needs.append(cell(SOURCE, part.source, Part(part.seed)))
        if part.pool is not None:
            needs.append(cell(SCRATCH, task, Part(part.seed)))
            sources, seeds = part.pool
            needs += [cell(SOURCE, source, Part(seed)) for source in sources for seed in seeds]
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
