"""A split that predictions are scored on, and how they are made and scored there."""

import dataclasses
import logging
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spot_jax.data import loading
from spot_jax.data.examples import Examples
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import Search
from spot_jax.metrics import Metric, OutputMetric, mean_of_metrics, not_numbers
from spot_jax.t5.scoring import candidate_tokens
from spot_jax.t5.vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)
HELD_BACK_TEXTS = 256
DECODINGS = ("auto", "rank", "greedy", "beam")


@dataclasses.dataclass(frozen=True)
class ScoredTask:
    """A split of a task in memory.

    Attributes:
        name: name of the task.
        split: name of the split.
        examples: token ids, in order.
        targets: target of each example as the metrics compare it; empty where only the loss counts.
        metrics: metrics that score predictions.
        search: way to predict.
        labels: verbalizers of the task, ranked or not; empty without.
        choices: answers that each example is ranked by; empty where it has none of its own.
        candidates: tokens of the choices, int32 [n, c, u]; None without.
    """

    name: str
    split: str
    examples: Examples
    targets: list[Any]
    metrics: list[Metric | OutputMetric]
    search: Search
    labels: tuple[str, ...] = ()
    choices: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    candidates: np.ndarray | None = None


def load_task(
    name: str,
    split: str,
    vocabulary: Vocabulary | None,
    *,
    lengths: Mapping[str, int] | None,
    decoding: str = "auto",
    beams: int = 4,
    alpha: float = 0.6,
    limit: int | None = None,
    use_cached: bool = False,
) -> ScoredTask:
    """Read a split of a task, with verbalizers or without, or held-back text without metrics.

    Args:
        name: name of the task, as `spot_jax.data.loading` reads it.
        split: name of the split; `SPLIT[FIRST::STEP]` takes every STEP-th of its examples, so that
            `validation[::2]` and `validation[1::2]` are two halves that share none.
        vocabulary: vocabulary of the backbone.
        lengths: feature lengths, which examples made of text depend on.
        decoding: name among `DECODINGS`; "auto" ranks the task's labels, or the choices that its
            examples have, or is greedy without.
        beams: number of beams of "beam".
        alpha: length penalty of "beam".
        limit: number of examples at most; of text without metrics 256 by default.
        use_cached: whether seqio's offline cache is read; text without metrics has none.

    Raises:
        SpotError: an unknown task, split or decoding, or nothing to rank.
    """
    whole, first, step = _parsed(split)
    if limit is not None and limit < 1:
        raise SpotError(
            f"expected at least one example to score {name} on, found a limit of {limit}"
        )
    if not loading.has_metrics(name):
        limit = limit or HELD_BACK_TEXTS
        texts = loading.load_examples(
            name, whole, vocabulary, limit=first + limit * step, lengths=lengths
        )
        # Nothing is predicted but one token: the loss counts.
        texts = _every(texts, first, step).first(limit)
        return ScoredTask(name, split, texts, [], [], Search(max_length=1))
    read = None if limit is None else first + (limit - 1) * step + 1
    loaded = loading.load_evaluation(
        name,
        whole,
        vocabulary,
        limit=read,
        lengths=lengths,
        rows=slice(first, None, step),
        use_cached=use_cached,
    )
    labels = loading.labels_of(name) or ()
    ranked = bool(loaded.choices) and not labels and decoding in ("auto", "rank")
    choices = loaded.choices if ranked else []
    if ranked:
        decoding = "auto"
    return ScoredTask(
        name,
        split,
        loaded.examples,
        loaded.targets,
        list(loaded.metrics),
        search_of(name, decoding, labels, beams, alpha=alpha),
        labels,
        choices,
        candidate_tokens(vocabulary, choices) if choices and vocabulary is not None else None,
    )


def load_tasks(
    name: str, split: str, vocabulary: Vocabulary | None, **options: Any
) -> list[ScoredTask]:
    """Read the tasks of a mixture that have the split, or a task itself, as `load_task` does.

    A mixture's tasks have metrics and labels of their own, so each is scored by itself.
    """
    parts = loading.constituents(name)
    if len(parts) > 1:
        parts = loading.with_split(name, _parsed(split)[0])
    return [load_task(part, split, vocabulary, **options) for part in parts]


def mean_of_tasks(
    tasks: Sequence[ScoredTask], results: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Return a mixture's metrics: those of each task under its name, and the means over tasks.

    A task whose score is not a number is left out of the mean score and named in a warning. Where
    some tasks have metrics and others only a loss, the mean score is of the former: the two have no
    common measure.

    Args:
        tasks: tasks of the mixture.
        results: metrics of each task with its `loss` and `score`.
    """
    metrics = {
        f"{task.name}/{name}": value
        for task, values in zip(tasks, results, strict=True)
        for name, value in values.items()
    }
    scored = [n for n, values in enumerate(results) if values.keys() - {"loss", "score"}]
    scores = {tasks[n].name: results[n]["score"] for n in scored or range(len(results))}
    missing = not_numbers(scores)
    if missing:
        _LOG.warning("left out of the mean score, as no number: %s", ", ".join(missing))
    numbers = [score for name, score in scores.items() if name not in missing]
    metrics["loss"] = statistics.fmean(values["loss"] for values in results)
    metrics["score"] = statistics.fmean(numbers) if numbers else float("nan")
    return metrics


def _parsed(split: str) -> tuple[str, int, int]:
    parts = re.fullmatch(r"(.+)\[(\d*)::(\d+)\]", split)
    if not parts:
        return split, 0, 1
    first, step = int(parts[2] or 0), int(parts[3])
    if step < 1:
        raise SpotError(f"{split}: a step is at least 1; write {parts[1]}[::2] for every other one")
    return parts[1], first, step


def _every(examples: Examples, first: int, step: int) -> Examples:
    pairs = [examples[i] for i in range(first, len(examples), step)]
    return Examples.from_lists(pairs, task=examples.task)


def search_of(
    name: str, decoding: str, labels: tuple[str, ...], beams: int = 4, **options: Any
) -> Search:
    """Return the way to predict; `labels` are what "rank" and "auto" choose among.

    Raises:
        SpotError: an unknown decoding, fewer beams than one, or "rank" without labels.
    """
    if decoding not in DECODINGS:
        raise SpotError(f"expected decoding {', '.join(DECODINGS)}, found {decoding!r}")
    if beams < 1:
        raise SpotError(f"expected at least one beam, found {beams}")
    if decoding == "rank" and not labels:
        raise SpotError(
            f"{name} has no verbalizers to rank; register them, or set decoding to 'greedy'"
        )
    if labels and decoding in ("auto", "rank"):
        return Search(labels=tuple(labels), **options)
    return Search(beams=beams if decoding == "beam" else 1, **options)


def score_of(
    name: str, metrics: Mapping[str, float], loss: float | None, metric: str | None = None
) -> float:
    """Return what checkpoints are compared by: one metric, the mean of all, or minus the loss.

    A metric that counts and is NaN or infinite makes the score NaN, and a warning names it.

    Args:
        name: name of the task, for errors and warnings.
        metrics: all metrics of the task; empty where only the loss counts.
        loss: mean cross-entropy.
        metric: name of the metric that counts; None for the mean of all.

    Raises:
        SpotError: a metric that the task lacks.
    """
    if not metrics:
        return float("nan") if loss is None else -loss
    if metric is not None and metric not in metrics:
        raise SpotError(f"no metric {metric!r} for {name}; it has {', '.join(sorted(metrics))}")
    counting = dict(metrics) if metric is None else {metric: metrics[metric]}
    missing = not_numbers(counting)
    if missing:
        values = ", ".join(f"{metric_name} is {metrics[metric_name]}" for metric_name in missing)
        _LOG.warning("%s has no score: %s", name, values)
        return float("nan")
    return mean_of_metrics(counting)
