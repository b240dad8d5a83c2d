"""Scores of a run's prompts on a split while it trains, and which checkpoint was best."""

import dataclasses
import math

from spot_jax.data.batches import BatchShape, evaluation_batches
from spot_jax.data.data_source import DataSource
from spot_jax.data.virtual_tokens import input_writer
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import evaluate, measure
from spot_jax.evaluation.scored_task import ScoredTask, load_tasks, mean_of_tasks, score_of
from spot_jax.methods.base import Inference
from spot_jax.methods.losses import Tree
from spot_jax.metrics import Outputs
from spot_jax.training.build import RunParts
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.sharding import BatchPlacement


@dataclasses.dataclass
class Best:
    """The best checkpoint of one prompt so far.

    As long as no score was a number it is the last one.

    Attributes:
        step: step of the checkpoint; -1 before the first evaluation.
        score: score that it was chosen by.
        metrics: all metrics of the checkpoint.
    """

    step: int = -1
    score: float = float("-inf")
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)

    def is_beaten_by(self, score: float) -> bool:
        """Return whether a later checkpoint of this score is better."""
        return not math.isfinite(self.score) or score > self.score


def _check_metric(task: ScoredTask, metric: str) -> None:
    """Raise `SpotError` for a metric that a task lacks, before anything is trained by it."""
    texts = Outputs([str(target) for target in task.targets])
    try:
        names = measure(task.metrics, task.targets, texts)
    except Exception:  # metrics of scores, or that take no such predictions; they are asked later
        return
    if names and metric not in names:
        raise SpotError(
            f"EvaluationPlan.metric is {metric!r}, which {task.name} lacks; it has "
            f"{', '.join(sorted(names))}"
        )


class Validation:
    """Evaluates every prompt of a run on its own task's split.

    Tasks with metrics are predicted and scored; where there is nothing but text, the score is the
    negative mean loss of the first held-back examples. Of a mixture every task is scored by itself,
    and the score is their mean.
    """

    def __init__(self, parts: RunParts, data: DataSource, plan: EvaluationPlan):
        """Read the splits that are scored.

        Args:
            parts: parts of the run.
            data: training data.
            plan: settings of the scoring of checkpoints.

        Raises:
            SpotError: a backbone without a vocabulary, or a split that cannot be read.
        """
        if parts.vocabulary is None:
            raise SpotError(
                "evaluation reads and writes text, but the backbone has no vocabulary; convert it "
                "with one, or set EvaluationPlan.period = 0"
            )
        self.parts, self.vocabulary, self.plan = parts, parts.vocabulary, plan
        rows = plan.batch_size or data.batch_size
        lengths = data.lengths
        self.shape = BatchShape(rows, lengths["inputs"], lengths["targets"])
        self.place = BatchPlacement(parts.mesh, rows)
        self.tasks = {
            name: load_tasks(
                name,
                plan.split,
                parts.vocabulary,
                lengths=lengths,
                decoding=plan.decoding,
                beams=plan.beams,
                alpha=plan.alpha,
                limit=plan.examples,
                use_cached=data.use_cached_tasks,
            )
            for name in dict.fromkeys(parts.names)
        }
        for task in (task for tasks in self.tasks.values() for task in tasks):
            task.examples.check_ids(parts.backbone.config.vocab_size, task.name)
        if plan.metric is not None:
            for task in (task for tasks in self.tasks.values() for task in tasks):
                _check_metric(task, plan.metric)
        self.write = input_writer(
            parts.backbone.config.vocab_size,
            parts.prompt_length,
            placement=parts.method.placement,
            vocabulary=parts.vocabulary,
        )
        if self.write is not None:
            for task in (task for tasks in self.tasks.values() for task in tasks):
                self.write.check_examples(task.examples, lengths["inputs"])

    def __call__(self, trainable: Tree, frozen: Tree) -> list[dict[str, float]]:
        """Return each prompt's metrics, with `loss` and the `score` a checkpoint is chosen by."""
        return [self._score(i, trainable, frozen) for i in range(len(self.parts.names))]

    def _score(self, i: int, trainable: Tree, frozen: Tree) -> dict[str, float]:
        tasks = self.tasks[self.parts.names[i]]
        # Each prompt alone, as prompt 0: one program serves every prompt of the run.
        inference = self.parts.program.infer(trainable, frozen, i)
        values = [self._measure(task, inference) for task in tasks]
        return values[0] if len(tasks) == 1 else mean_of_tasks(tasks, values)

    def _measure(self, task: ScoredTask, inference: Inference) -> dict[str, float]:
        here = self.place.host_rows
        source = self.parts.batch_source
        if source is None:
            batches = evaluation_batches(
                task.examples, self.shape, self.write, host_rows=here, candidates=task.candidates
            )
        else:
            split = task.name, task.split, task.examples
            batches = source.evaluation(*split, self.shape, here)
        result = evaluate(
            inference.params,
            self.parts.backbone.config,
            batches,
            self.vocabulary,
            task.targets or [""] * len(task.examples),
            task.metrics,
            table=inference.table,
            search=task.search,
            scorer=inference.scorer,
            place=self.place,
            choices=task.choices,
        )
        values = dict(result.metrics)
        loss = float("nan") if result.loss is None else result.loss
        score = score_of(task.name, values, loss, self.plan.metric)
        return {**values, "loss": loss, "score": score}
