"""A study of subspaces, on the engine that all studies share.

Beside what every study has in its directory:

jobs/JOB/made/   prompts that no run wrote: reconstructed, or taken from a library

    study = SubspaceStudy(plan)
    study.run(print, wanted=finds)   prompts, subspaces and what goes through them (MSF)
    study.run(print)                 all of it: references, and vectors tuned in subspaces (IST)
"""

import functools
from collections.abc import Sequence

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import load_task
from spot_jax.files import remove_tree
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.study import Study
from spot_jax.studies.subspace.assembly import assemble
from spot_jax.studies.subspace.jobs import (
    FASTFOOD,
    MODEL,
    PROMPTS,
    SECOND,
    SUBSPACE,
    SubspaceJob,
    SubspaceResult,
    Tasks,
    jobs_of,
    tasks_of,
)
from spot_jax.studies.subspace.plan import SubspacePlan
from spot_jax.studies.subspace.results import SubspaceResults
from spot_jax.studies.subspace.running import SubspaceJobRun


def finds(job: SubspaceJob) -> bool:
    """Return whether a job finds a subspace."""
    return job.kind == SUBSPACE


class SubspaceStudy(Study[SubspacePlan, SubspaceJob, SubspaceResult]):
    """Training tasks, held-out tasks and dimensions."""

    command = "spot intrinsic ist"
    result_type = SubspaceResult
    products = ("run", "made")

    @functools.cached_property
    def tasks(self) -> Tasks:
        """Tasks of the plan, mixtures taken apart."""
        return tasks_of(self.plan)

    def plan_jobs(self) -> Sequence[SubspaceJob]:
        """See `Study`."""
        return jobs_of(self.plan, self.tasks)

    def amount(self, job: SubspaceJob) -> float:
        """See `Study`."""
        return job.amount(self.plan)

    def steps(self, job: SubspaceJob) -> str:
        """See `Study`."""
        if job.kind == NO_PROMPT:
            return "0"
        stages = self.plan.stages
        names = {PROMPTS: "prompt", SECOND: "prompt", MODEL: "model", SUBSPACE: "msf"}
        stage = {**names, FASTFOOD: "fastfood"}.get(job.kind, "ist")
        return str(stages[stage].steps)

    def do(self, job: SubspaceJob, progress: bool | None) -> SubspaceResult:
        """See `Study`."""
        return SubspaceJobRun(self, job, progress, self.tasks).result()

    def tidy(self, job: SubspaceJob) -> None:
        """Remove a tuned model: its score is all that is asked of it, and many fill a disk."""
        for name in ("backbone", "checkpoints") if job.kind == MODEL else ():
            remove_tree(self.directory(job) / "run" / name)

    def assemble(self) -> SubspaceResults:
        """See `Study`."""
        return assemble(self, self.tasks)

    def check(self) -> None:
        """Raise `SpotError` for tasks without what they need, and subspaces larger than prompts."""
        plan, tasks = self.plan, self.tasks
        numbers = plan.prompt_length * plan.backbone.description().config.emb_dim
        for d in (*plan.dimensions, *plan.subset_dimensions):
            if d > numbers:
                raise SpotError(
                    f"a subspace of {d} dimensions was asked for, but a prompt has {numbers} "
                    f"numbers; choose dimensions of 1 to {numbers}"
                )
        vocabulary = plan.backbone.vocabulary()
        for task in tasks.all:
            if not loading.has_metrics(task):
                raise SpotError(f"{task} has no metrics to be scored by; leave it out")
            for split in (plan.validation_split, plan.test_split):
                load_task(
                    task, split, vocabulary, lengths=plan.lengths, decoding=plan.decoding, limit=1
                )
