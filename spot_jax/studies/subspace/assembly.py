"""What a study's cells came to, as one `IntrinsicResults`."""

import json
from collections.abc import Iterator

from spot_jax.studies.subspace.directory import CellResult, IntrinsicStudy
from spot_jax.studies.subspace.jobs import MODEL, PROMPTS, RANDOM, SUBSPACE, Cell
from spot_jax.studies.subspace.results import (
    FOUND,
    MODEL_TUNING,
    PROMPT_TUNING,
    IntrinsicResults,
    Reference,
    Score,
)
from spot_jax.studies.subspace.results import RANDOM as RANDOM_SUBSPACE
from spot_jax.studies.transfer.assembly import machine

Done = list[tuple[Cell, CellResult]]


def assemble(study: IntrinsicStudy) -> IntrinsicResults:
    """The results of the cells that are done, in whatever order and however often killed."""
    plan, tasks = study.plan, study.tasks
    found = [(cell, study.result(cell.name)) for cell in study.cells]
    done = [(cell, result) for cell, result in found if result is not None]
    majority = {
        part.task: made.majority
        for cell, result in done
        if cell.kind == PROMPTS
        for part, made in zip(cell.parts, result.made, strict=True)
        if made.majority is not None
    }
    return IntrinsicResults(
        title=plan.title,
        train_tasks=tasks.train,
        test_tasks=dict(tasks.test),
        scores=tuple(_scores(done)),
        references=tuple(_references(done)),
        dimensions=tuple(plan.dimensions),
        seeds=tuple(plan.seeds),
        other_tasks=dict(tasks.other),
        subsets=tasks.subsets,
        majority=majority,
        trained=dict(_trained(done)),
        backbone=plan.backbone.title(),
        metric=plan.metric or "mean of each task's metrics",
        split=plan.test_split,
        settings=json.loads(json.dumps(plan.settings())),
        commands=study.commands,
        machine=machine([result.seconds for _, result in done]),
        notes=tuple(_notes(study)),
    )


def _scores(done: Done) -> Iterator[Score]:
    for cell, result in done:
        if cell.kind in (PROMPTS, MODEL):
            continue
        for part, made in zip(cell.parts, result.made, strict=True):
            yield Score(
                setting=part.setting,
                task=part.task,
                category=part.category,
                test=made.test,
                dimension=cell.dimension,
                subspace=RANDOM_SUBSPACE if cell.kind == RANDOM else FOUND,
                tasks=len(cell.tasks),
                draw=cell.draw,
                seed=part.seed,
                validation=made.validation,
                step=made.step,
            )


def _references(done: Done) -> Iterator[Reference]:
    methods = {PROMPTS: PROMPT_TUNING, MODEL: MODEL_TUNING}
    for cell, result in done:
        if cell.kind not in methods:
            continue
        for part, made in zip(cell.parts, result.made, strict=True):
            yield Reference(
                part.task, methods[cell.kind], made.test, part.seed, made.validation, made.step
            )


def _trained(done: Done) -> Iterator[tuple[str, int]]:
    names = {PROMPTS: PROMPT_TUNING, MODEL: MODEL_TUNING}
    for cell, result in done:
        if cell.kind == SUBSPACE:
            yield f"subspace {cell.dimension}", result.trained
        elif cell.kind in names:
            yield names[cell.kind], result.trained


def _notes(study: IntrinsicStudy) -> Iterator[str]:
    plan = study.plan

    def limited(split: str, examples: int | None) -> str:
        return split if examples is None else f"the first {examples} examples of {split}"

    choosing = limited(plan.validation_split, plan.validation_examples)
    reporting = limited(plan.test_split, plan.test_examples)
    yield f"Checkpoints are chosen on {choosing} and reported on {reporting}."
    if plan.model is not None:
        yield "A tuned model is scored as it is at its last step."
    if study.tasks.other:
        yield (
            "With other data, the reference is prompt tuning (or model tuning) on those other data."
        )
