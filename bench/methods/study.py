"""The table of methods as a study: a job is a method on a task."""

import dataclasses
import json
from collections.abc import Callable, Sequence

from bench.methods.results import Cell, MethodResults
from bench.methods.tasks import TASKS, Bench
from bench.methods.ways import METHODS, order
from spot_jax.studies.engine.job import NO_PROMPT, Job, JobResult, PromptResult
from spot_jax.studies.engine.results import machine
from spot_jax.studies.engine.study import Study


@dataclasses.dataclass(frozen=True)
class Part:
    """A scored prompt of a job; its seed is None where there is no chance in the method."""

    seed: int | None


@dataclasses.dataclass(frozen=True)
class MethodJob(Job):
    """A method on a task; its kind is the method.

    Attributes:
        task: name of the set.
    """

    parts: tuple[Part, ...] = ()
    task: str = ""


@dataclasses.dataclass(frozen=True)
class MethodResult(JobResult):
    """What a finished job leaves.

    Attributes:
        cell: cell of the table; never None.
    """

    prompts: tuple[PromptResult, ...]
    cell: Cell | None = None


class MethodStudy(Study[Bench, MethodJob, MethodResult]):
    """Every method on every task."""

    command = "python -m bench.methods"
    result_type = MethodResult
    products = ()

    def plan_jobs(self) -> Sequence[MethodJob]:
        """See `Study`."""
        return [self._job(task, method) for task, method in order(list(METHODS), list(TASKS))]

    def _job(self, task: str, method: str) -> MethodJob:
        kind = METHODS[method]
        seeds = tuple(map(Part, self.plan.seeds)) if kind.seeded else (Part(None),)
        needs = tuple(f"{need}-{of}" for of, need in kind.needs(TASKS[task]))
        return MethodJob(f"{method}-{task}", method, seeds, needs, task)

    def amount(self, job: MethodJob) -> float:
        """See `Study`: the steps and rows of methods are not compared."""
        return 1.0 if METHODS[job.kind].seeded else 0.05

    def take_over(self, results: MethodResults, wanted: Callable[[MethodJob], bool]) -> int:
        """Count as done what results of the same settings have; return how many jobs that is.

        Prompts are not among results: tuned prompts that a wanted method begins from are not taken
        over, and are tuned again.
        """
        settings = json.loads(json.dumps(self.plan.settings()))
        if json.loads(json.dumps(dict(results.settings))) != settings:
            return 0
        cells = {f"{cell.method}-{cell.task}": cell for cell in results.cells}
        begun_from = {
            name
            for job in self.jobs
            if METHODS[job.kind].from_prompts and wanted(job) and job.name not in cells
            for name in job.needs
        }
        taken = 0
        for job in self.jobs:
            cell = cells.get(job.name)
            if cell is None or job.name in begun_from or self.is_done(job):
                continue
            prompts = tuple(PromptResult(accuracy, "") for accuracy in cell.accuracies)
            if len(prompts) == len(job.parts):
                self.save(job, MethodResult(job.name, prompts, cell.whole_seconds, cell=cell))
                taken += 1
        return taken

    def steps(self, job: MethodJob) -> str:
        """See `Study`."""
        return "some" if METHODS[job.kind].seeded else "0"

    def do(self, job: MethodJob, progress: bool | None) -> MethodResult:
        """See `Study`."""
        cell = METHODS[job.kind].cell(self.plan, TASKS[job.task], self.assemble())
        files = cell.files or ("",) * len(cell.accuracies)
        prompts = tuple(
            PromptResult(accuracy, file)
            for accuracy, file in zip(cell.accuracies, files, strict=True)
        )
        return MethodResult(job.name, prompts, cell.whole_seconds, cell=cell)

    def assemble(self) -> MethodResults:
        """See `Study`."""
        results = [(job, result) for job, result in self.done() if result.cell is not None]
        cells = [result.cell for _, result in results if result.cell is not None]

        def of(method: str) -> dict[str, float]:
            return {cell.task: cell.mean for cell in cells if cell.method == method}

        return MethodResults(
            backbone=self.plan.stored().title(),
            metric="accuracy",
            split=f"the first {self.plan.test} examples of test",
            seeds=tuple(self.plan.seeds),
            majority=of("majority"),
            no_prompt=of(NO_PROMPT),
            commands=self.commands,
            machine=machine(result for _, result in results),
            cells=tuple(sorted(cells, key=lambda cell: (cell.task, cell.method))),
            settings=self.plan.settings(),
        )
