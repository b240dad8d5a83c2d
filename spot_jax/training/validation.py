"""Scores of a run's prompts on a split while it trains, and which checkpoint was best."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from spot_jax.data.batches import BatchShape, evaluation_batches
from spot_jax.data.virtual_tokens import VirtualTokens
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import evaluate
from spot_jax.evaluation.scored_task import ScoredTask, load_tasks, mean_of_tasks, score_of
from spot_jax.methods.base import Method, Tree
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.recipes import DataSource, EvaluationPlan
from spot_jax.training.sharding import BatchPlacement


@dataclasses.dataclass
class Best:
    """The best checkpoint of one prompt so far: its step, score and all metrics."""

    step: int = -1
    score: float = float("-inf")
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


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
        self.names = list(names)

    def __call__(self, trainable: Tree, frozen: Tree) -> list[dict[str, float]]:
        """Each prompt's metrics, with `loss` and the `score` a checkpoint is chosen by."""
        table = self.method.prompt_table(trainable)
        params = self.method.backbone_params(trainable, frozen)
        return [self._score(i, params, table) for i in range(len(self.names))]

    def _score(self, i: int, params: Tree, table: Any) -> dict[str, float]:
        tasks, method = self.tasks[self.names[i]], self.method
        config, length = method.config, method.prompt_length
        write = None
        if length:
            # Each prompt alone, as prompt 0: one program serves every prompt of the run.
            table = jax.lax.dynamic_slice_in_dim(table, i * length, length)
            write = VirtualTokens(config.vocab_size, length)
        found = [self._measure(task, params, table, write) for task in tasks]
        return found[0] if len(tasks) == 1 else mean_of_tasks(tasks, found)

    def _measure(
        self, task: ScoredTask, params: Tree, table: Any, write: VirtualTokens | None
    ) -> dict[str, float]:
        batches = evaluation_batches(
            task.examples, self.shape, write, host_rows=self.place.host_rows
        )
        found = evaluate(
            params,
            self.method.config,
            batches,
            self.vocabulary,
            task.targets or [""] * len(task.examples),
            task.metrics,
            table=table,
            search=task.search,
            place=self.place,
        )
        values = dict(found.metrics)
        loss = float("nan") if found.loss is None else found.loss
        score = score_of(task.name, values, loss, self.plan.metric)
        return {**values, "loss": loss, "score": score}


def prompt_of(method: Method, trainable: Tree, i: int) -> np.ndarray | None:
    """Prompt i of a run as a float32 array [p, d]; None for methods without one."""
    table = method.prompt_table(trainable)
    if table is None:
        return None
    rows = slice(i * method.prompt_length, (i + 1) * method.prompt_length)
    return np.asarray(jnp.asarray(table)[rows], np.float32)
