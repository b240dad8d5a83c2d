"""What a study's cells came to, as one `StudyResults`."""

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spot_jax.library import similarity
from spot_jax.methods.prompt_file import PromptFile, load_prompt
from spot_jax.studies.transfer.directory import CellPrompt, Study
from spot_jax.studies.transfer.jobs import SOURCE, Cell, leaks
from spot_jax.studies.transfer.results import (
    Curve,
    EmbeddedPrompt,
    Embeddings,
    PromptRecord,
    Score,
    Similarity,
    StudyResults,
)


def assemble(study: Study) -> StudyResults:
    """The results of the cells that are done; of all cells they are the same in whatever order,
    by however many processes and after however many kills these were done."""
    plan = study.plan
    found = {cell: study.result(cell.name) for cell in study.cells}
    results = {cell: result for cell, result in found.items() if result is not None}
    done = [(cell, prompt) for cell, result in results.items() for prompt in result.prompts]
    common = {c.task: r.majority for c, r in results.items() if r.majority is not None}
    embedded = _embedded(study, done)
    return StudyResults(
        title=plan.title,
        sources=tuple(plan.sources),
        targets=tuple(plan.targets),
        scores=tuple(_scores(done)),
        backbone=study.plan.backbone.title(),
        metric=plan.metric or "mean of each task's metrics",
        split=plan.test_split,
        seeds=tuple(plan.seeds),
        similarities=tuple(_similarities(study, embedded)),
        embeddings=_embeddings(embedded),
        curves=tuple(_curves(done)),
        majority={target: common[target] for target in plan.targets if target in common},
        families=dict(plan.families),
        prompts=tuple(_records(study, done)),
        commands=study.commands,
        machine=machine([result.seconds for result in results.values()]),
        notes=tuple(_notes(study)),
    )


def _scores(done: list[tuple[Cell, CellPrompt]]) -> Iterator[Score]:
    for cell, prompt in done:
        if cell.kind == SOURCE:
            continue
        yield Score(
            target=cell.task,
            method=cell.kind,
            test=float("nan") if prompt.test is None else prompt.test,
            source=prompt.source,
            k=prompt.k,
            seed=prompt.seed,
            source_seed=None if prompt.source is None else prompt.seed,
            validation=prompt.validation,
            step=prompt.step,
        )


def _curves(done: list[tuple[Cell, CellPrompt]]) -> Iterator[Curve]:
    for cell, prompt in done:
        if cell.kind != SOURCE:
            yield Curve(
                target=cell.task,
                method=cell.kind,
                steps=tuple(prompt.steps),
                validation=tuple(prompt.curve),
                source=prompt.source,
                k=prompt.k,
                seed=prompt.seed,
                source_seed=None if prompt.source is None else prompt.seed,
            )


def _embedded(
    study: Study, done: list[tuple[Cell, CellPrompt]]
) -> list[tuple[EmbeddedPrompt, PromptFile]]:
    """Task embeddings: of each source, then of each target, by seed."""
    return [
        (
            EmbeddedPrompt(cell.task, prompt.seed, "source" if cell.kind == SOURCE else "target"),
            load_prompt(study.path / prompt.embedding),
        )
        for cell, prompt in done
        if prompt.embedding is not None
    ]


def _similarities(
    study: Study, embedded: list[tuple[EmbeddedPrompt, PromptFile]]
) -> Iterator[Similarity]:
    """Of every source to every target that it does not leak to."""
    for source, one in embedded:
        for target, other in embedded:
            if (source.role, target.role) != ("source", "target"):
                continue
            if leaks(source.task, target.task, study.constituents):
                continue
            yield Similarity(
                source=source.task,
                target=target.task,
                source_seed=source.seed,
                target_seed=target.seed,
                average_tokens=similarity.average_tokens(one.prompt, other.prompt),
                per_token=similarity.per_token(one.prompt, other.prompt),
            )


def _embeddings(embedded: list[tuple[EmbeddedPrompt, PromptFile]]) -> Embeddings | None:
    if not embedded:
        return None
    tables: dict[str, Any] = {}
    for metric in similarity.METRICS:
        marks = np.stack([similarity.signature(file.prompt, metric) for _, file in embedded])
        tables[metric] = tuple(map(tuple, similarity.matrix(marks, marks).tolist()))
    return Embeddings(tuple(name for name, _ in embedded), **tables)


def _records(study: Study, done: list[tuple[Cell, CellPrompt]]) -> Iterator[PromptRecord]:
    for cell, prompt in done:
        file = load_prompt(study.path / prompt.file)
        yield PromptRecord(
            task=cell.task,
            role="source" if cell.kind == SOURCE else "target",
            seed=prompt.seed,
            step=prompt.step,
            file=prompt.file,
            id=prompt.id,
            ancestry=tuple(_within(study.path, dict(one)) for one in file.ancestry),
            backbone=file.backbone,
            metrics=dict(prompt.metrics or file.metrics),
        )


def _within(root: Path, ancestor: dict[str, Any]) -> dict[str, Any]:
    """An ancestor whose file is named from the study's directory on, which may be moved."""
    path = Path(str(ancestor.get("file", "")))
    if path.is_relative_to(root):
        ancestor["file"] = str(path.relative_to(root))
    return ancestor


def machine(seconds: Sequence[float]) -> dict[str, Any]:
    """Where a study ran, by name of the fact, and the sum of the seconds that its cells took."""
    devices = [device.device_kind for device in jax.devices()]
    return {
        "cores": os.cpu_count(),
        "devices": ", ".join(f"{devices.count(kind)} x {kind}" for kind in sorted(set(devices))),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "seconds": round(sum(seconds)),
    }


def _notes(study: Study) -> Iterator[str]:
    plan = study.plan

    def limited(split: str, examples: int | None) -> str:
        return split if examples is None else f"the first {examples} examples of {split}"

    choosing = limited(plan.validation_split, plan.validation_examples)
    reporting = limited(plan.test_split, plan.test_examples)
    yield f"Checkpoints and prompts are chosen on {choosing} and reported on {reporting}."
    left_out = [
        f"{source} to {target}"
        for target in plan.targets
        for source in plan.sources
        if leaks(source, target, study.constituents)
    ]
    if left_out:
        yield f"Left out, because source and target share their data: {', '.join(left_out)}."
    if plan.source.init == plan.target.init:
        yield (
            "Prompts of one seed begin alike, so that their embeddings at step "
            f"{plan.embedding_step} are more alike than those of two seeds."
        )
