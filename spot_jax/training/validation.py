"""Scores of a run's prompts on a split while it trains, and which checkpoint was best."""

import dataclasses
import math
from collections.abc import Sequence

from jax.sharding import Mesh

from spot_jax.data.batches import BatchShape, evaluation_batches
from spot_jax.data.virtual_tokens import input_writer
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import evaluate
from spot_jax.evaluation.scored_task import ScoredTask, load_tasks, mean_of_tasks, score_of
from spot_jax.methods.base import Inference, Method, Tree
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.batch_source import OwnBatches
from spot_jax.training.config import DataSource, EvaluationPlan
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


class Validation:
    """Evaluates every prompt of a run on its own task's split.

    Tasks with metrics are predicted and scored; where there is nothing but text, the score is the
    negative mean loss of the first held-back examples. Of a mixture every task is scored by itself,
    and the score is their mean.
    """

    def __init__(
        self,
        method: Method,
        vocabulary: Vocabulary | None,
        data: DataSource,
        names: Sequence[str],
        plan: EvaluationPlan,
        mesh: Mesh,
        own_batches: OwnBatches | None = None,
    ):
        if vocabulary is None:
            raise SpotError(
                "evaluation reads and writes text, but the backbone has no vocabulary; convert it "
                "with one, or set EvaluationPlan.period = 0"
            )
        self.method, self.vocabulary, self.plan = method, vocabulary, plan
        rows = plan.batch_size or data.batch_size
        lengths = data.task_feature_lengths
        self.shape = BatchShape(rows, lengths["inputs"], lengths["targets"])
        self.place = BatchPlacement(mesh, rows)
        self.tasks = {
            name: load_tasks(
                name,
                plan.split,
                vocabulary,
                lengths=lengths,
                decoding=plan.decoding,
                limit=plan.examples,
            )
            for name in dict.fromkeys(names)
        }
        self.names, self.own_batches = list(names), own_batches
        self.write = input_writer(
            method.config.vocab_size,
            method.prompt_length,
            placement=method.placement,
            vocabulary=vocabulary,
        )
        if self.write is not None:
            for task in (task for tasks in self.tasks.values() for task in tasks):
                self.write.check_examples(task.examples, lengths["inputs"])

    def __call__(self, trainable: Tree, frozen: Tree) -> list[dict[str, float]]:
        """Each prompt's metrics, with `loss` and the `score` a checkpoint is chosen by."""
        return [self._score(i, trainable, frozen) for i in range(len(self.names))]

    def _score(self, i: int, trainable: Tree, frozen: Tree) -> dict[str, float]:
        tasks, method = self.tasks[self.names[i]], self.method
        # Each prompt alone, as prompt 0: one program serves every prompt of the run.
        inference = method.inference(trainable, frozen, i)
        found = [self._measure(task, inference) for task in tasks]
        return found[0] if len(tasks) == 1 else mean_of_tasks(tasks, found)

    def _measure(self, task: ScoredTask, inference: Inference) -> dict[str, float]:
        here = self.place.host_rows
        if self.own_batches is None:
            batches = evaluation_batches(task.examples, self.shape, self.write, host_rows=here)
        else:
            batches = self.own_batches.evaluation(task, self.shape, here)
        found = evaluate(
            inference.params,
            self.method.config,
            batches,
            self.vocabulary,
            task.targets or [""] * len(task.examples),
            task.metrics,
            table=inference.table,
            search=task.search,
            scorer=inference.scorer,
            place=self.place,
        )
        values = dict(found.metrics)
        loss = float("nan") if found.loss is None else found.loss
        score = score_of(task.name, values, loss, self.plan.metric)
        return {**values, "loss": loss, "score": score}
