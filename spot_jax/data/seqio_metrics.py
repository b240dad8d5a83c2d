"""A seqio task's metrics as seqio's own evaluator computes them, whatever their signature.

A task may have functions of (targets, predictions), of (targets, scores) and of (targets,
predictions, aux_values), and metric objects. Targets and predictions are postprocessed with their
example, and values are numbers or seqio's `Scalar`, `Text`, `Histogram` and the like.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
from seqio.metrics import CollectingMetric, ModelOutputType

from spot_jax.errors import SpotError
from spot_jax.metrics import Outputs
from spot_jax.t5.vocabulary import EOS, Vocabulary

Fields = Mapping[str, Any]
LINE = 300  # characters of another library's message


def predict_metrics(task: seqio.Task) -> list[Callable[..., dict[str, Any]]]:
    """Return a task's metrics of (targets, predictions), both of them postprocessed."""

    def plain(metric: Callable[..., Mapping[str, Any]]) -> Callable[..., dict[str, Any]]:
        def measured(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, Any]:
            return {k: value_of(v) for k, v in metric(targets, predictions).items()}

        return measured

    return [plain(metric) for metric in _checked(task).predict_metric_fns]


@dataclasses.dataclass(frozen=True)
class TaskMetrics:
    """All metrics of a task on the examples of one split.

    Attributes:
        task: the task, its features' vocabularies exchanged for the backbone's.
        examples: features of each example, as the task's preprocessors leave them; empty for a
            task whose metrics read none.
        vocabulary: the backbone's.
    """

    task: seqio.Task
    examples: Sequence[Fields]
    vocabulary: Vocabulary

    @property
    def needs_aux(self) -> bool:
        """Whether a metric takes auxiliary values of the predictions."""
        return any(
            metric.model_output_type == ModelOutputType.PREDICTION_WITH_AUX
            for metric in self.task.metric_objs
        )

    def of_outputs(self, targets: Sequence[Any], outputs: Outputs) -> dict[str, Any]:
        """Return the values of all metrics by name.

        Args:
            targets: each example's target as the task's postprocessor makes it.
            outputs: one an example.

        Raises:
            SpotError: two values of one name, a metric that fails, or one that needs scores where
                the outputs have none.
        """
        task, values = self.task, dict[str, Any]()
        for metric in (*own_objects(task), *task.metric_fns):
            for name, value in self._values(metric, targets, outputs).items():
                if name in values:
                    raise SpotError(
                        f"expected metrics with names of their own in {task.name}, found two "
                        f"{name!r}; drop one"
                    )
                values[name] = value_of(value)
        return values

    def _values(self, metric: Any, targets: Sequence[Any], outputs: Outputs) -> Mapping[str, Any]:
        """Return the values of one metric; `SpotError` that names it when it fails."""
        task = self.task
        try:
            if metric in task.predict_metric_fns:
                values = metric(targets=targets, predictions=self._postprocessed(outputs.texts))
            elif metric in task.score_metric_fns:
                values = metric(targets=targets, scores=self._scores(outputs))
            elif metric in task.predict_with_aux_metric_fns:
                predictions, aux = self._postprocessed(outputs.texts), self._aux(outputs)
                values = metric(targets=targets, predictions=predictions, aux_values=aux)
            else:
                values = self._of_object(metric, targets, outputs)
        except SpotError:
            raise
        except Exception as error:
            raise SpotError(
                f"metric {_name_of(metric)} of {task.name} failed: {one_line(error)}; correct it, "
                "or the task's postprocessor"
            ) from error
        if not isinstance(values, Mapping):
            raise SpotError(
                f"expected metric {_name_of(metric)} of {task.name} to return values by name, "
                f"found {type(values).__name__}; return a dictionary"
            )
        return values

    def _postprocessed(self, texts: Sequence[str]) -> list[Any]:
        examples = self.examples or [{}] * len(texts)
        return [
            self.task.postprocess_fn(text, example=example, is_target=False)
            for text, example in zip(texts, examples, strict=True)
        ]

    def _scores(self, outputs: Outputs) -> np.ndarray:
        if outputs.scores is None:
            raise SpotError(
                f"a metric of {self.task.name} takes log-likelihoods of targets, which neither a "
                "vote of prompts nor a method that scores labels by itself has; evaluate prompts "
                "one by one, or leave the metric out"
            )
        return np.asarray(outputs.scores)

    def _aux(self, outputs: Outputs) -> dict[str, np.ndarray]:
        if outputs.aux is None:
            raise SpotError(
                f"a metric of {self.task.name} takes auxiliary values, which neither a vote of "
                "prompts nor a method that scores labels by itself has; evaluate prompts one by "
                "one, or leave the metric out"
            )
        return {name: np.asarray(values) for name, values in outputs.aux.items()}

    def _of_object(
        self, metric: Any, targets: Sequence[Any], outputs: Outputs
    ) -> Mapping[str, Any]:
        kind = metric.model_output_type
        if kind == ModelOutputType.SCORE:
            output: Any = self._scores(outputs)
        else:
            output = self._tokens(outputs.texts)
            if kind == ModelOutputType.PREDICTION_WITH_AUX:
                output = (output, self._aux(outputs))
        examples = list(self.examples)
        instance = metric.from_model_output(examples, output, self.task.output_features)
        if isinstance(instance, CollectingMetric):
            values, _ = instance.actual_compute(
                examples, self.task.output_features, "targets", list(targets)
            )
            return values
        return instance.compute()

    def _tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Return the predictions as rows of ids, as metric objects take them."""
        rows = [[*ids, EOS] for ids in self.vocabulary.encode_all(list(texts))]
        tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
        return tokens


def bound(
    task: seqio.Task, examples: Sequence[Fields], vocabulary: Vocabulary
) -> list[TaskMetrics]:
    """Return a task's metrics on the examples of a split; none for a task without metrics.

    Examples are held only where a postprocessor or a metric object may read them.
    """
    if not has_metrics(task):
        return []
    reads = task.postprocessor is not None or own_objects(task)
    return [TaskMetrics(task, examples if reads else (), vocabulary)]


def has_metrics(task: seqio.Task) -> bool:
    """Return whether a task has a metric of any kind."""
    return bool(_checked(task).metric_fns or own_objects(task))


def own_objects(task: seqio.Task) -> list[Any]:
    """Return the metric objects that a task was registered with, without those of functions."""
    objects = list(task.metric_objs)
    return objects[: len(objects) - len(task.metric_fns)]


def _checked(task: seqio.Task) -> seqio.Task:
    """Return the task; `SpotError` for metrics that nothing here can compute."""
    try:
        kinds = [metric.model_output_type for metric in task.metric_objs]
    except (ValueError, AttributeError) as error:
        raise SpotError(
            f"a metric of {task.name} is none that seqio takes: {one_line(error)}"
        ) from error
    for kind in kinds:
        if kind == ModelOutputType.SCORE_WITH_INTERMEDIATES:
            raise SpotError(
                f"a metric of {task.name} takes intermediate activations, which are not kept; "
                "leave it out"
            )
    return task


def value_of(value: Any) -> Any:
    """Return a metric's value: a number or array bare, what seqio wraps without its wrapper."""
    if isinstance(value, seqio.metrics.Scalar):
        return value.value
    if isinstance(value, seqio.metrics.Text):
        text = value.textdata
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if isinstance(value, seqio.metrics.Histogram):
        return np.asarray(value.values)
    return value


def one_line(error: Exception) -> str:
    """Return the kind of an exception and the first line of what it says."""
    line = next(iter(str(error).splitlines()), "") or "no message"
    return f"{type(error).__name__}: {line if len(line) <= LINE else line[:LINE] + ' ...'}"


def _name_of(metric: Any) -> str:
    while isinstance(metric, functools.partial):
        metric = next((a for a in metric.args if callable(a)), metric.func)
    return getattr(metric, "__name__", type(metric).__name__)
