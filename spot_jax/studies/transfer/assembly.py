"""A transfer study's job results, as one `TransferResults`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from spot_jax.library import similarity
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.results import machine
from spot_jax.studies.engine.study import Study
from spot_jax.studies.transfer.jobs import (
    SOURCE,
    TransferJob,
    TransferPrompt,
    TransferResult,
    leaks,
)
from spot_jax.studies.transfer.plan import TransferPlan
from spot_jax.studies.transfer.results import (
    WEIGHTED_AVERAGE,
    Curve,
    EmbeddedPrompt,
    Embeddings,
    PromptRecord,
    Score,
    Similarity,
    TransferResults,
)

AnyTransferStudy = Study[TransferPlan, TransferJob, TransferResult]
Done = list[tuple[TransferJob, TransferPrompt]]


def assemble(study: AnyTransferStudy) -> TransferResults:
    """Return the results of the finished jobs.

    Of all jobs they are the same in whatever order, by however many processes and after however
    many kills these were done.
    """
    plan = study.plan
    results = list(study.done())
    done = [(job, prompt) for job, result in results for prompt in result.prompts]
    majority = {job.task: p.majority for job, p in done if p.majority is not None}
    no_prompt = {
        job.task: p.test for job, p in done if job.kind == NO_PROMPT and p.test is not None
    }
    embedded = _embedded(study, done)
    return TransferResults(
        title=plan.title,
        sources=tuple(plan.sources),
        targets=tuple(plan.targets),
        scores=tuple(_scores(done)),
        backbone=study.plan.backbone.title(),
        metric=plan.metric or "mean of each task's metrics",
        split=plan.reported_split,
        seeds=tuple(plan.seeds),
        similarities=tuple(_similarities(study, embedded)),
        embeddings=_embeddings(embedded),
        curves=tuple(_curves(done)),
        majority={target: majority[target] for target in plan.targets if target in majority},
        no_prompt={target: no_prompt[target] for target in plan.targets if target in no_prompt},
        families=dict(plan.families),
        prompts=tuple(_records(study, done)),
        commands=study.commands,
        machine=machine(result for _, result in results),
        notes=tuple(_notes(study, done)),
    )


def _scores(done: Done) -> Iterator[Score]:
    for job, prompt in done:
        if job.kind in (SOURCE, NO_PROMPT):
            continue
        yield Score(
            target=job.task,
            method=job.kind,
            test=float("nan") if prompt.test is None else prompt.test,
            source=prompt.source,
            k=prompt.k,
            seed=prompt.seed,
            source_seed=None if prompt.source is None else prompt.seed,
            validation=prompt.validation,
            step=prompt.step,
        )


def _curves(done: Done) -> Iterator[Curve]:
    for job, prompt in done:
        if job.kind not in (SOURCE, NO_PROMPT):
            yield Curve(
                target=job.task,
                method=job.kind,
                steps=tuple(prompt.steps),
                validation=tuple(prompt.curve),
                source=prompt.source,
                k=prompt.k,
                seed=prompt.seed,
                source_seed=None if prompt.source is None else prompt.seed,
            )


def _embedded(study: AnyTransferStudy, done: Done) -> list[tuple[EmbeddedPrompt, PromptFile]]:
    """Task embeddings: of each source, then of each target, by seed."""
    return [
        (
            EmbeddedPrompt(job.task, prompt.seed, "source" if job.kind == SOURCE else "target"),
            load_prompt(study.path / prompt.embedding),
        )
        for job, prompt in done
        if prompt.embedding is not None
    ]


def _similarities(
    study: AnyTransferStudy, embedded: list[tuple[EmbeddedPrompt, PromptFile]]
) -> Iterator[Similarity]:
    """Return those of every source to every target that it does not leak to."""
    for source, first in embedded:
        for target, second in embedded:
            if (source.role, target.role) != ("source", "target"):
                continue
            if leaks(source.task, target.task, study.record["constituents"]):
                continue
            yield Similarity(
                source=source.task,
                target=target.task,
                source_seed=source.seed,
                target_seed=target.seed,
                average_tokens=similarity.average_tokens(first.rows, second.rows),
                per_token=similarity.per_token(first.rows, second.rows),
            )


def _embeddings(embedded: list[tuple[EmbeddedPrompt, PromptFile]]) -> Embeddings | None:
    if not embedded:
        return None
    tables: dict[str, Any] = {}
    for metric in similarity.METRICS:
        marks = np.stack([similarity.signature(file.rows, metric) for _, file in embedded])
        tables[metric] = tuple(map(tuple, similarity.matrix(marks, marks).tolist()))
    return Embeddings(tuple(name for name, _ in embedded), **tables)


def _records(study: AnyTransferStudy, done: Done) -> Iterator[PromptRecord]:
    for job, prompt in done:
        if not prompt.file:
            continue
        file = load_prompt(study.path / prompt.file)
        yield PromptRecord(
            task=job.task,
            role="source" if job.kind == SOURCE else "target",
            seed=prompt.seed,
            step=prompt.step,
            file=prompt.file,
            id=prompt.id,
            ancestry=tuple(_within(study.path, dict(ancestor)) for ancestor in file.ancestry),
            backbone=file.backbone,
            metrics=dict(prompt.metrics or file.metrics),
        )


def _within(root: epath.Path, ancestor: dict[str, Any]) -> dict[str, Any]:
    """Return an ancestor whose file is named from the study's directory on, which may be moved."""
    path = epath.Path(str(ancestor.get("file", "")))
    if path.is_relative_to(root):
        ancestor["file"] = str(path.relative_to(root))
    return ancestor


def _notes(study: AnyTransferStudy, done: Done) -> Iterator[str]:
    plan = study.plan
    yield from plan.notes()
    left_out = [
        f"{source} to {target}"
        for target in plan.targets
        for source in plan.sources
        if leaks(source, target, study.record["constituents"])
    ]
    if left_out:
        yield f"Left out, because source and target share their data: {', '.join(left_out)}."
    averages = [prompt.chosen for job, prompt in done if job.kind == WEIGHTED_AVERAGE]
    unlike = sum(all(part["similarity"] <= 0 for part in chosen) for chosen in averages)
    if unlike:
        yield (
            f"In {unlike} of {len(averages)} averages no prompt is similar to the target; there "
            "all weigh the same."
        )
    if plan.source.init == plan.target.init and not study.by_task:
        yield (
            "Prompts of one seed begin alike, so that their embeddings at step "
            f"{plan.embedding_step} are more alike than those of two seeds."
        )
