"""One cell of a study, done: its prompts tuned in one program, the best of each scored on test.

Everything is a call of `train`, which goes on where a killed start stopped; what else a cell writes
is made anew by each start, with the same content. The cell's result comes last.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from spot_jax.data import loading
from spot_jax.evaluation.evaluate import measure
from spot_jax.evaluation.scored_task import score_of
from spot_jax.inference.scores import Score, score
from spot_jax.inference.tuned import open_tuned
from spot_jax.library.library import Library, Match
from spot_jax.library.similarity import Metric
from spot_jax.methods.prompt_file import load_prompt
from spot_jax.metrics import Outputs
from spot_jax.studies.transfer.directory import CellPrompt, CellResult, Study
from spot_jax.studies.transfer.jobs import SOURCE, Cell, Part
from spot_jax.studies.transfer.plan import Stage
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import DataSource, EvaluationPlan
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.run import TrainResult, train
from spot_jax.transfer.methods.multitask_mixture import mixture
from spot_jax.transfer.methods.weighted_average import weighted_average
from spot_jax.transfer.splits import splits_of
from spot_jax.transfer.tuning import Stopped

RUNS = ("run", "mixture", "init")


def run_cell(study: Study, cell: Cell, progress: bool | None = None) -> CellResult:
    """Does a cell, or what an earlier start left of it, and writes its result.

    Args:
        study: the study; what the cell needs is done.
        cell: one of its cells, claimed by this process.
        progress: a bar for each run; None for one where stderr is a terminal.

    Raises:
        SpotError: of `train` and `score`.
        Stopped: by a signal; the next start goes on.
    """
    start = time.monotonic()
    work = _Work(study, cell, progress)
    study.begin(cell, RUNS)
    result = work.source() if cell.kind == SOURCE else work.target()
    result = dataclasses.replace(result, seconds=round(time.monotonic() - start, 2))
    study.save(result)
    return result


@dataclasses.dataclass(frozen=True)
class _Work:
    study: Study
    cell: Cell
    progress: bool | None

    @property
    def directory(self) -> Path:
        return self.study.directory(self.cell)

    def source(self) -> CellResult:
        """Source prompts, put into the library with their task embeddings."""
        plan, cell = self.study.plan, self.cell
        result = self._train(
            "run",
            plan.source,
            evaluation=self._evaluation(plan.source.period, plan.validation_split),
            embedding_step=plan.embedding_step,
        )
        library = Library(self.study.path / "library")
        ids = [library.add_file(path).id for path in result.prompts]
        prompts = [
            dataclasses.replace(prompt, id=id)
            for prompt, id in zip(self._prompts(result), ids, strict=True)
        ]
        return self._result(cell.name, result, prompts)

    def target(self) -> CellResult:
        """Target prompts, from wherever the cell's kind lets them begin, and their test scores."""
        plan, stage = self.study.plan, self.study.plan.target
        choosing, reporting = self._splits()
        starts, chosen = self._starts()
        given: dict[str, Any] = {"starts": starts}
        if starts is None:
            given = {"embedding_step": plan.embedding_step}
        evaluation = self._evaluation(stage.period, choosing)
        result = self._train("run", stage, evaluation=evaluation, **given)
        scores = score(
            open_tuned(result.directory, mesh=plan.mesh),
            split=reporting,
            decoding=plan.task(self.cell.task)["decoding"],
            batch_size=plan.evaluation_batch_size,
            examples=plan.test_examples,
        )
        prompts = [
            dataclasses.replace(
                prompt, test=found.score, metrics=dict(found.metrics), chosen=tuple(parts)
            )
            for prompt, found, parts in zip(self._prompts(result), scores, chosen, strict=True)
        ]
        made = self._result(self.cell.name, result, prompts)
        common = majority_score(scores[0], plan.metric)
        return dataclasses.replace(made, majority=common, test_examples=scores[0].examples)

    def _splits(self) -> tuple[str, str]:
        plan = self.study.plan
        loading.import_modules(plan.modules)
        lengths = plan.task_lengths(self.cell.task)
        options = {"choosing": plan.validation_split, "reporting": plan.test_split}
        found = splits_of(self.cell.task, plan.backbone.vocabulary(), lengths=lengths, **options)
        return found.choosing, found.reporting

    def _evaluation(self, period: int, split: str) -> EvaluationPlan:
        plan = self.study.plan
        return EvaluationPlan(
            period=period,
            split=split,
            examples=plan.validation_examples,
            batch_size=plan.evaluation_batch_size,
            decoding=plan.task(self.cell.task)["decoding"],
            metric=plan.metric,
        )

    def _train(
        self,
        name: str,
        stage: Stage,
        *,
        steps: int | None = None,
        starts: Sequence[str] | None = None,
        mixtures: Sequence[str] | None = None,
        lengths: Mapping[str, int] | None = None,
        evaluation: EvaluationPlan,
        embedding_step: int = 0,
    ) -> TrainResult:
        plan, cell = self.study.plan, self.cell
        result = train(
            model_dir=str(self.directory / name),
            backbone=plan.backbone,
            method=plan.recipe(stage, starts),
            data=DataSource(
                cell.task if mixtures is None else mixtures,
                lengths or plan.task_lengths(cell.task),
                batch_size=stage.batch_size,
                modules=plan.modules,
                text_directory=plan.text_directory,
                use_cached_tasks=plan.use_cached_tasks,
            ),
            optimizer=stage.optimizer,
            train_steps=steps or stage.steps,
            seeds=[part.seed for part in cell.parts],
            evaluation=evaluation,
            checkpoints=CheckpointPlan(plan.checkpoint_period, embedding_step=embedding_step),
            mesh=plan.mesh,
            progress=self.progress,
        )
        if not result.finished:
            raise Stopped(f"{cell.name} stopped and is saved at step {result.step}")
        return result

    def _starts(self) -> tuple[list[str] | None, list[list[dict[str, Any]]]]:
        """The prompt files that the target's prompts begin from, and what each is made of."""
        parts = self.cell.parts
        if all(part.source is not None for part in parts):
            return [self._source_file(part) for part in parts], [[] for _ in parts]
        if all(part.pool is None for part in parts):
            return None, [[] for _ in parts]
        ranked = [self._ranked(part) for part in parts]
        if self.cell.kind == "weighted_average":
            files = self._averages(ranked)
        else:
            files = self._mixtures(ranked)
        chosen = [
            [
                {
                    "id": match.entry.id,
                    "task": match.entry.task,
                    "seed": match.entry.seed,
                    "similarity": match.similarity,
                }
                for match in matches
            ]
            for matches in ranked
        ]
        return files, chosen

    def _source_file(self, part: Part) -> str:
        found = find(self.study, SOURCE, str(part.source), part.seed)
        return str(self.study.path / found.file)

    def _ranked(self, part: Part) -> list[Match]:
        """The k prompts of the pool that are most like the target, by its embedding of the seed."""
        study = self.study
        assert part.pool is not None
        sources, seeds = part.pool
        ids = {find(study, SOURCE, source, seed).id for source in sources for seed in seeds}
        own = find(study, "scratch", self.cell.task, part.seed)
        ranking = Library(study.path / "library").rank(
            load_prompt(study.path / str(own.embedding)).prompt,
            backbone=study.plan.backbone.description().fingerprint,
            metric=cast(Metric, study.plan.similarity),
            exclude=study.constituents[self.cell.task],
        )
        return [match for match in ranking if match.entry.id in ids][: part.k]

    def _averages(self, ranked: Sequence[Sequence[Match]]) -> list[str]:
        library, files = Library(self.study.path / "library"), []
        for i, matches in enumerate(ranked):
            path = self.directory / "init" / f"average-{i}.safetensors"
            weighted_average(matches, library).save(path)
            files.append(str(path))
        return files

    def _mixtures(self, ranked: Sequence[Sequence[Match]]) -> list[str]:
        """Prompts of mixtures, their final checkpoints as in the paper (section 3.3)."""
        plan = self.study.plan
        names = [
            mixture([*(t for m in matches for t in m.entry.tasks), self.cell.task])
            for matches in ranked
        ]
        # No text is cut shorter than in its own source's run.
        tasks = {match.entry.task for matches in ranked for match in matches}
        result = self._train(
            "mixture",
            plan.source,
            steps=plan.mixture_steps,
            mixtures=names,
            lengths=plan.task_lengths(self.cell.task, *sorted(tasks)),
            evaluation=EvaluationPlan(period=0),
        )
        return [str(path) for path in result.prompts]

    def _prompts(self, result: TrainResult) -> list[CellPrompt]:
        curves = _curves(result.directory, len(self.cell.parts))
        found = []
        for i, (part, best) in enumerate(zip(self.cell.parts, result.best, strict=True)):
            embedding = str(self._place(result.embeddings[i])) if result.embeddings else None
            known = best.step >= 0
            found.append(
                CellPrompt(
                    seed=part.seed,
                    source=part.source,
                    k=part.k,
                    file=str(self._place(result.prompts[i])),
                    embedding=embedding,
                    step=best.step if known else result.step,
                    validation=best.score if known else None,
                    steps=tuple(step for step, _ in curves[i]),
                    curve=tuple(value for _, value in curves[i]),
                )
            )
        return found

    def _place(self, path: Path) -> Path:
        return path.absolute().relative_to(self.study.path)

    @staticmethod
    def _result(name: str, result: TrainResult, prompts: Sequence[CellPrompt]) -> CellResult:
        return CellResult(
            name,
            tuple(prompts),
            truncated_inputs=result.truncated_inputs,
            examples=result.examples,
        )


def find(study: Study, kind: str, task: str, seed: int) -> CellPrompt:
    """The prompt of a source, or of a target from scratch, with a seed; its cell is done."""
    for cell in study.cells:
        if (cell.kind, cell.task) != (kind, task):
            continue
        result = study.result(cell.name)
        for prompt in result.prompts if result else ():
            if prompt.seed == seed:
                return prompt
    raise AssertionError(f"{kind} {task} of seed {seed} is needed and not done")


def _curves(run: Path, count: int) -> list[list[tuple[int, float]]]:
    """Each prompt's validation scores by step, from the run's log."""
    curves: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for line in read_metrics(run):
        if "validation/score" in line:
            for i, value in enumerate(np.atleast_1d(line["validation/score"])):
                curves[i].append((line["step"], float(value)))
    return curves


def majority_score(found: Score, metric: str | None) -> float | None:
    """The score of always answering the most common label, by the metric that prompts are scored
    by; None for tasks without labels."""
    if found.majority is None:
        return None
    most = max(sorted(set(found.targets)), key=found.targets.count)
    texts = [most] * len(found.targets)
    metrics = measure(loading.metric_fns(found.task), found.targets, Outputs(texts))
    return score_of(found.task, metrics, None, metric if metric in metrics else None)
