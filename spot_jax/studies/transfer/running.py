"""One job of a transfer study: prompts tuned in one program, the best of each scored on test."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from etils import epath

from spot_jax.data import loading
from spot_jax.inference.tuned import open_tuned
from spot_jax.library.library import Library
from spot_jax.library.similarity import Metric
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.running import JobRun
from spot_jax.studies.engine.study import Study
from spot_jax.studies.transfer.jobs import (
    SOURCE,
    Part,
    TransferJob,
    TransferPrompt,
    TransferResult,
)
from spot_jax.studies.transfer.plan import TransferPlan
from spot_jax.studies.transfer.results import SCRATCH, TRANSFER
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.run import TrainResult
from spot_jax.transfer.retrieval import Retrieved
from spot_jax.transfer.splits import splits_of
from spot_jax.transfer.strategies import Context, Groups, strategy

STRATEGY = {TRANSFER: "best_of_top_k"}
"""Strategy of each kind of job, where it has another name: every group has one source."""


class TransferJobRun(JobRun[TransferPlan, TransferJob]):
    """See `JobRun`."""

    def result(self) -> TransferResult:
        """Do the job, or what an earlier start left of it."""
        kinds = {SOURCE: self.source, NO_PROMPT: self.bare}
        result = kinds.get(self.job.kind, self.target)()
        return dataclasses.replace(result, seconds=self.seconds)

    def source(self) -> TransferResult:
        """Tune source prompts and put them into the library with their task embeddings."""
        plan, job = self.plan, self.job
        result = self.train(
            plan.stage_method(plan.source),
            job.task,
            self.seeds,
            plan.source,
            plan.evaluation(plan.source, decoding=self.decoding),
            lengths=plan.task_lengths(job.task),
            embedding_step=plan.embedding_step,
        )
        library = Library(self.study.path / "library")
        ids = [library.add_file(path).id for path in result.prompts]
        prompts = [
            dataclasses.replace(prompt, id=id)
            for prompt, id in zip(self._prompts(result), ids, strict=True)
        ]
        return self._result(result, prompts)

    def bare(self) -> TransferResult:
        """Score the bare backbone on the target."""
        plan, task = self.plan, self.job.task
        prompt = self.no_prompt(
            task,
            split=self._splits()[1],
            decoding=self.decoding,
            lengths=plan.task_lengths(task),
            rows=plan.target.batch_size,
        )
        return TransferResult(self.job.name, (TransferPrompt(**vars(prompt)),))

    def target(self) -> TransferResult:
        """Tune target prompts, from wherever the job's kind lets them begin, and score them."""
        plan, stage = self.plan, self.plan.target
        choosing, reporting = self._splits()
        groups = [self._group(part) for part in self.job.parts]
        starts = strategy(STRATEGY.get(self.job.kind, self.job.kind)).starts(
            Context(self.directory / "init", self.job.task, self._tune_mixtures(groups)), groups
        )
        files = [start.file for start in starts if start.file is not None]
        result = self.train(
            plan.stage_method(stage, files or None),
            self.job.task,
            self.seeds,
            stage,
            plan.evaluation(stage, choosing, self.decoding),
            lengths=plan.task_lengths(self.job.task),
            embedding_step=0 if files else plan.embedding_step,
        )
        tuned = open_tuned(result.directory, mesh=plan.mesh)
        scores = self.score(tuned, split=reporting, decoding=self.decoding)
        prompts = []
        for prompt, score, group in zip(self._prompts(result), scores, groups, strict=True):
            scored = self.prompt_result(score)
            prompts.append(
                dataclasses.replace(
                    prompt,
                    test=scored.test,
                    metrics=scored.metrics,
                    majority=scored.majority,
                    chosen=tuple(map(_chosen, group)) if prompt.k else (),
                )
            )
        target_result = self._result(result, prompts)
        return dataclasses.replace(target_result, test_examples=scores[0].examples)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the prompts."""
        return [part.seed for part in self.job.parts if part.seed is not None]

    @property
    def decoding(self) -> str:
        """Decoding of the task."""
        return self.plan.task(self.job.task)["decoding"]

    def _splits(self) -> tuple[str, str]:
        plan, task = self.plan, self.job.task
        loading.import_modules(plan.modules)
        splits = splits_of(
            task,
            plan.backbone.vocabulary(),
            lengths=plan.task_lengths(task),
            choosing=plan.validation_split,
            reporting=plan.test_split,
        )
        return splits.choosing, splits.reporting

    def _group(self, part: Part) -> list[Retrieved]:
        """Return the source prompts of a part, the most similar first."""
        if part.source is not None:
            prompt = find(self.study, SOURCE, part.source, part.seed)
            file = str(self.study.path / prompt.file)
            tasks = tuple(self.study.record["constituents"][part.source])
            return [Retrieved(prompt.id, part.source, tasks, part.seed or 0, 0.0, file)]
        return [] if part.pool is None else self._ranked(part, *part.pool)

    def _ranked(self, part: Part, sources: Sequence[str], seeds: Sequence[int]) -> list[Retrieved]:
        """Return the k prompts of the pool most like the target, by its embedding of the seed."""
        study, library = self.study, Library(self.study.path / "library")
        ids = {find(study, SOURCE, source, seed).id for source in sources for seed in seeds}
        scratch = find(study, SCRATCH, self.job.task, part.seed)
        ranking = library.rank(
            load_prompt(study.path / str(scratch.embedding)).rows,
            backbone=study.plan.backbone.description().fingerprint,
            metric=cast(Metric, study.plan.similarity),
            exclude=study.record["constituents"][self.job.task],
        )
        group = []
        for match in [match for match in ranking if match.entry.id in ids][: part.k]:
            entry = match.entry
            library.load(entry)  # whole, by its hash
            group.append(
                Retrieved(
                    entry.id, entry.task, entry.tasks, entry.seed, match.similarity, entry.path
                )
            )
        return group

    def _tune_mixtures(self, groups: Groups) -> Any:
        """Tune prompts of mixtures; the final checkpoints count, as in the paper (section 3.3)."""

        def tune(names: Sequence[str]) -> Sequence[epath.Path]:
            plan = self.plan
            # No text is cut shorter than in its own source's run.
            tasks = sorted({source.task for group in groups for source in group})
            return self.train(
                plan.stage_method(plan.source),
                names,
                self.seeds,
                plan.source,
                EvaluationPlan(period=0),
                name="mixture",
                lengths=plan.task_lengths(self.job.task, *tasks),
                steps=plan.mixture_steps,
            ).prompts

        return tune

    def _prompts(self, result: TrainResult) -> list[TransferPrompt]:
        curves = _curves(result.directory, len(self.job.parts))
        prompts = []
        for i, (part, best) in enumerate(zip(self.job.parts, result.best, strict=True)):
            evaluated = best.step >= 0
            prompts.append(
                TransferPrompt(
                    seed=part.seed,
                    source=part.source,
                    k=part.k,
                    file=self.place(result.prompts[i]),
                    embedding=self.place(result.embeddings[i]) if result.embeddings else None,
                    step=best.step if evaluated else result.step,
                    validation=best.score if evaluated else None,
                    steps=tuple(step for step, _ in curves[i]),
                    curve=tuple(value for _, value in curves[i]),
                )
            )
        return prompts

    def _result(self, result: TrainResult, prompts: Sequence[TransferPrompt]) -> TransferResult:
        return TransferResult(
            self.job.name,
            tuple(prompts),
            truncated_inputs=result.truncated_inputs,
            examples=result.examples,
        )


def find(
    study: Study[TransferPlan, TransferJob, TransferResult], kind: str, task: str, seed: int | None
) -> TransferPrompt:
    """Return the prompt of a source, or of a target from scratch; its job is done."""
    for job in study.jobs:
        if (job.kind, job.task) == (kind, task):
            result = study.result(job)
            for prompt in result.prompts if result else ():
                if prompt.seed == seed:
                    return prompt
    raise AssertionError(f"{kind} {task} of seed {seed} is needed and not done")


def _chosen(source: Retrieved) -> dict[str, Any]:
    return {
        "id": source.id,
        "task": source.task,
        "seed": source.seed,
        "similarity": source.similarity,
    }


def _curves(run: epath.Path, count: int) -> list[list[tuple[int, float]]]:
    """Return each prompt's validation scores by step, from the run's log."""
    curves: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for line in read_metrics(run):
        if "validation/score" in line:
            for i, value in enumerate(np.atleast_1d(line["validation/score"])):
                curves[i].append((line["step"], float(value)))
    return curves
