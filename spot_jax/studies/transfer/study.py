"""A study of prompt transfer, on the engine that all studies share.

Beside what every study has in its directory:

study.json          also the grids that it has had, and what sources and targets consist of
jobs/JOB/mixture/   the run before a job's own that tuned on mixtures
jobs/JOB/init/      averaged prompts that the run begins from
library/            source prompts, with their task embeddings
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import load_task
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.study import Study
from spot_jax.studies.transfer.assembly import assemble
from spot_jax.studies.transfer.jobs import (
    SOURCE,
    Generation,
    TransferJob,
    TransferResult,
    jobs_of,
)
from spot_jax.studies.transfer.plan import Grid, TransferPlan
from spot_jax.studies.transfer.results import TransferResults
from spot_jax.studies.transfer.running import TransferJobRun
from spot_jax.transfer.splits import splits_of


class TransferStudy(Study[TransferPlan, TransferJob, TransferResult]):
    """Sources, targets and seeds, and every way to begin a target."""

    command = "spot study"
    result_type = TransferResult
    init_by_task = True
    products = ("run", "mixture", "init")

    def plan_jobs(self) -> Sequence[TransferJob]:
        """See `Study`."""
        return jobs_of([_generation(grid) for grid in self.record["grids"]], self.constituents)

    @property
    def constituents(self) -> Mapping[str, tuple[str, ...]]:
        """Tasks that sources and targets consist of."""
        return {name: tuple(tasks) for name, tasks in self.record["constituents"].items()}

    def amount(self, job: TransferJob) -> float:
        """See `Study`."""
        return job.amount(self.plan)

    def steps(self, job: TransferJob) -> str:
        """See `Study`."""
        plan = self.plan
        if job.kind == NO_PROMPT:
            return "0"
        if job.kind == SOURCE:
            return str(plan.source.steps)
        mixed = f"{plan.mixture_steps or plan.source.steps} + " if "mixture" in job.kind else ""
        return f"{mixed}{plan.target.steps}"

    def do(self, job: TransferJob, progress: bool | None) -> TransferResult:
        """See `Study`."""
        return TransferJobRun(self, job, progress).result()

    def assemble(self) -> TransferResults:
        """See `Study`."""
        return assemble(self)

    def grow(self, record: dict[str, Any], *, new: bool) -> None:
        """Add the plan's grid, and what its tasks consist of."""
        plan = self.plan
        grids = record.setdefault("grids", [])
        if not new:
            [_generation(grid) for grid in grids]
            _check_growth(str(self.path), _generation(grids[-1]).grid, plan.grid)
        if not grids or _generation(grids[-1]).grid != plan.grid:
            grid = json.loads(json.dumps(dataclasses.asdict(plan.grid)))
            grids.append({**grid, "prompts_at_once": plan.prompts_at_once})
        constituents = record.setdefault("constituents", {})
        for name in (*plan.sources, *plan.targets):
            if name not in constituents:
                constituents[name] = list(self.ask_constituents(name))

    def ask_constituents(self, name: str) -> Sequence[str]:
        """Return what a task or mixture consists of, once its modules are imported."""
        plan = self.plan
        if not loading.is_arrays(name):
            loading.import_modules(plan.modules)
            if plan.text_directory:
                loading.register_text(plan.text_directory)
        return loading.constituents(name)

    def check(self) -> None:
        """Raise `SpotError` for a task that lacks what the study will ask of it."""
        for name in dict.fromkeys((*self.plan.sources, *self.plan.targets)):
            self.check_task(name)

    def check_task(self, name: str) -> None:
        """Raise `SpotError` for a task without the splits, answers or metrics that it needs."""
        plan = self.plan
        if plan.multitask_mixture and loading.is_arrays(name):
            raise SpotError(
                f"a multi-task mixture needs seqio tasks, found the file {name}; register it as a "
                "task, or leave multitask_mixture empty"
            )
        self.ask_constituents(name)
        vocabulary, lengths = plan.backbone.vocabulary(), plan.task_lengths(name)
        splits = {plan.validation_split} if plan.source.period else set()
        if name in plan.targets:
            if not loading.has_metrics(name):
                raise SpotError(
                    f"target {name} has no metrics to be scored by; take it as a source"
                )
            chosen = splits_of(
                name,
                vocabulary,
                lengths=lengths,
                choosing=plan.validation_split,
                reporting=plan.test_split,
            )
            splits = {chosen.choosing, chosen.reporting}
        for split in sorted(splits):
            decoding = plan.task(name)["decoding"]
            load_task(name, split, vocabulary, lengths=lengths, decoding=decoding, limit=1)

    def upgrade(self, fields: dict[str, Any]) -> dict[str, Any]:
        """See `Study`: the commonest label's score was the job's once."""
        fields = super().upgrade(fields)
        if "majority" in fields:
            majority = fields.pop("majority")
            fields["prompts"] = [{**prompt, "majority": majority} for prompt in fields["prompts"]]
        return fields


def _generation(fields: Mapping[str, Any]) -> Generation:
    grid = {f.name: tuple(fields[f.name]) for f in dataclasses.fields(Grid)}
    return Generation(Grid(**grid), fields["prompts_at_once"])


def _check_growth(directory: str, before: Grid, now: Grid) -> None:
    for field in dataclasses.fields(Grid):
        gone = [v for v in getattr(before, field.name) if v not in getattr(now, field.name)]
        if gone:
            raise SpotError(
                f"{directory} holds a study whose {field.name} have {gone[0]!r}, this one's have "
                "not; sources, targets, seeds and numbers k may be added, not taken away: put it "
                "back, or choose another STUDY_DIR"
            )
