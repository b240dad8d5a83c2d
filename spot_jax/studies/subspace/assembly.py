"""What the jobs of a study of subspaces found, as one `SubspaceResults`."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.results import machine
from spot_jax.studies.engine.study import Study
from spot_jax.studies.subspace.jobs import (
    FASTFOOD,
    MODEL,
    PROMPTS,
    RANDOM,
    SUBSPACE,
    TEST_IST,
    TUNED,
    SubspaceJob,
    SubspaceResult,
    Tasks,
)
from spot_jax.studies.subspace.plan import SubspacePlan
from spot_jax.studies.subspace.results import FASTFOOD as FASTFOOD_SUBSPACE
from spot_jax.studies.subspace.results import (
    FOUND,
    MODEL_TUNING,
    PROMPT_TUNING,
    Reference,
    Score,
    SubspaceResults,
    VectorSimilarity,
)
from spot_jax.studies.subspace.results import RANDOM as RANDOM_SUBSPACE

Done = list[tuple[SubspaceJob, SubspaceResult]]
REFERENCES = {PROMPTS: PROMPT_TUNING, MODEL: MODEL_TUNING}
KINDS = {RANDOM: RANDOM_SUBSPACE, FASTFOOD: FASTFOOD_SUBSPACE}
"""Kind of subspace of a job, where it is not a found one."""


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
        vectors=_vectors(study, done),
        commands=study.commands,
        machine=machine(result for _, result in done),
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
                subspace=KINDS.get(job.kind, FOUND),
                tasks=len(job.tasks),
                draw=job.draw,
                seed=part.seed or 0,
                validation=prompt.validation,
                step=prompt.step,
            )


def _vectors(
    study: Study[SubspacePlan, SubspaceJob, SubspaceResult], done: Done
) -> dict[str, VectorSimilarity]:
    """Compare held-out tasks by their vectors, in subspaces of all training tasks."""
    by_run: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    for job, result in done:
        if job.kind != TUNED or job.draw >= 0:
            continue
        vectors = by_run.setdefault((job.dimension, job.seed), {})
        for part, prompt in zip(job.parts, result.prompts, strict=True):
            path = study.path / prompt.file
            # A study that was cleared up has scores, and no prompts.
            if part.setting == TEST_IST and path.is_file():
                vector = load_prompt(path).tensors["vector"]
                vectors[part.task] = np.asarray(vector, np.float64).ravel()
    similarities = {}
    for d in sorted({dimension for dimension, _ in by_run}):
        runs = [vectors for (dimension, _), vectors in by_run.items() if dimension == d]
        tasks = tuple(task for task in runs[0] if all(task in run for run in runs))
        if len(tasks) > 1:
            cosines = np.mean([_cosines([run[task] for task in tasks]) for run in runs], axis=0)
            similarities[str(d)] = VectorSimilarity(tasks, tuple(map(tuple, cosines.tolist())))
    return similarities


def _cosines(vectors: Sequence[np.ndarray]) -> np.ndarray:
    rows = np.stack(vectors)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    return units @ units.T


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
    if plan.model is not None and not plan.model.period:
        yield "A tuned model is scored as it is at its last step."
    if tasks.other:
        yield (
            "With other data, the reference is prompt tuning (or model tuning) on those other data."
        )
