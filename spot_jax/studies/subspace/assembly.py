"""What the jobs of a study of subspaces found, as one `SubspaceResults`."""

import json
from collections.abc import Iterator

from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.results import machine
from spot_jax.studies.engine.study import Study
from spot_jax.studies.subspace.jobs import (
    MODEL,
    PROMPTS,
    RANDOM,
    SUBSPACE,
    SubspaceJob,
    SubspaceResult,
    Tasks,
)
from spot_jax.studies.subspace.plan import SubspacePlan
from spot_jax.studies.subspace.results import (
    FOUND,
    MODEL_TUNING,
    PROMPT_TUNING,
    Reference,
    Score,
    SubspaceResults,
)
from spot_jax.studies.subspace.results import RANDOM as RANDOM_SUBSPACE

Done = list[tuple[SubspaceJob, SubspaceResult]]
REFERENCES = {PROMPTS: PROMPT_TUNING, MODEL: MODEL_TUNING}


def assemble(
    study: Study[SubspacePlan, SubspaceJob, SubspaceResult], tasks: Tasks
) -> SubspaceResults:
    """Return the results of the finished jobs, in whatever order and however often killed."""
    plan = study.plan
    done = list(study.done())
    scored = [
        (job, part.task, prompt)
        for job, result in done
        if job.kind in (PROMPTS, NO_PROMPT)
        for part, prompt in zip(job.parts, result.prompts, strict=True)
    ]
    return SubspaceResults(
        title=plan.title,
        train_tasks=tasks.train,
        test_tasks=dict(tasks.test),
        scores=tuple(_scores(done)),
        references=tuple(_references(done)),
        dimensions=tuple(plan.dimensions),
        seeds=tuple(plan.seeds),
        other_tasks=dict(tasks.other),
        subsets=tasks.subsets,
        majority={task: p.majority for _, task, p in scored if p.majority is not None},
        no_prompt={
            task: p.test for job, task, p in scored if job.kind == NO_PROMPT and p.test is not None
        },
        trained=dict(_trained(done)),
        backbone=plan.backbone.title(),
        metric=plan.metric or "mean of each task's metrics",
        split=plan.test_split,
        settings=json.loads(json.dumps(plan.settings())),
        commands=study.commands,
        machine=machine(result.seconds for _, result in done),
        notes=tuple(_notes(plan, tasks)),
    )


def _scores(done: Done) -> Iterator[Score]:
    for job, result in done:
        if job.kind in (*REFERENCES, NO_PROMPT):
            continue
        for part, prompt in zip(job.parts, result.prompts, strict=True):
            yield Score(
                setting=part.setting,
                task=part.task,
                category=part.category,
                test=float("nan") if prompt.test is None else prompt.test,
                dimension=job.dimension,
                subspace=RANDOM_SUBSPACE if job.kind == RANDOM else FOUND,
                tasks=len(job.tasks),
                draw=job.draw,
                seed=part.seed or 0,
                validation=prompt.validation,
                step=prompt.step,
            )


def _references(done: Done) -> Iterator[Reference]:
    for job, result in done:
        if job.kind in REFERENCES:
            for part, prompt in zip(job.parts, result.prompts, strict=True):
                yield Reference(
                    task=part.task,
                    method=REFERENCES[job.kind],
                    test=float("nan") if prompt.test is None else prompt.test,
                    seed=part.seed or 0,
                    validation=prompt.validation,
                    step=prompt.step,
                )


def _trained(done: Done) -> Iterator[tuple[str, int]]:
    for job, result in done:
        if job.kind == SUBSPACE:
            yield f"subspace {job.dimension}", result.trained
        elif job.kind in REFERENCES:
            yield REFERENCES[job.kind], result.trained


def _notes(plan: SubspacePlan, tasks: Tasks) -> Iterator[str]:
    yield from plan.notes()
    if plan.model is not None:
        yield "A tuned model is scored as it is at its last step."
    if tasks.other:
        yield (
            "With other data, the reference is prompt tuning (or model tuning) on those other data."
        )
