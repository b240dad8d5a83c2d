"""Metrics by the field's names, over scikit-learn and SciPy.

Every metric is a function `(targets, predictions) -> {name: value}` as seqio expects, with values
from 0 to 100 (correlations from -100 to 100) as in T5's code. Higher is better for all of them.
A metric that needs more than the two lists is made by a function: `f1("duplicate")` is a metric.

A prediction that is no known label, an empty text or a text that is no number is a wrong answer,
never an error: models write such things. Empty lists, lists of unequal length, and targets that
make no sense raise `SpotError`.
"""

import collections
import math
import re
import string
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics

from spot_jax.errors import SpotError

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]

# What a text that is no number counts as, in T5's code too; STS-B's scores run from 0 to 5.
_NO_NUMBER = -1.0


def accuracy(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Share of predictions equal to their targets."""
    gold, found = _codes(targets, predictions)
    return {"accuracy": 100.0 * float(sklearn.metrics.accuracy_score(gold, found))}


def sequence_accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Share of predictions, texts or token lists, that equal their targets in every place."""
    _check(targets, predictions)
    same = [list(t) == list(p) for t, p in zip(targets, predictions, strict=True)]
    return {"sequence_accuracy": 100.0 * float(np.mean(same))}


def macro_f1(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Mean over the targets' classes of each class's F1.

    A predicted label that no target has is a miss for the target's class but no class of its own.
    """
    return {"macro_f1": _macro_f1(targets, predictions, tuple(dict.fromkeys(targets)))}


def mean_multiclass_f1(classes: int | Sequence[Hashable]) -> Metric:
    """Makes T5's `mean_{n}class_f1` (CommitmentBank's), over given classes, in the targets or not.

    Args:
        classes: the labels; a number n stands for the labels 0 to n - 1.
    """
    labels = tuple(range(classes)) if isinstance(classes, int) else tuple(classes)

    def metric(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
        return {f"mean_{len(labels)}class_f1": _macro_f1(targets, predictions, labels)}

    return metric


def f1(positive: Hashable, negative: Hashable | None = None) -> Metric:
    """Makes the F1 of one class against all else (MRPC, QQP).

    Args:
        positive: the label whose F1 it is.
        negative: the other label. When given, a prediction that is neither counts as the wrong one
            of the two, as in T5's `f1_score_with_invalid`; otherwise it counts as not `positive`.
    """

    def metric(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
        _check(targets, predictions)
        gold = [target == positive for target in targets]
        found = [prediction == positive for prediction in predictions]
        if negative is not None:
            known = [prediction in (positive, negative) for prediction in predictions]
            found = [f if k else not g for f, k, g in zip(found, known, gold, strict=True)]
        value = sklearn.metrics.f1_score(gold, found, pos_label=True, zero_division=0)
        return {"f1": 100.0 * float(value)}

    return metric


def matthews_corrcoef(
    targets: Sequence[Hashable], predictions: Sequence[Hashable]
) -> dict[str, float]:
    """Matthews correlation coefficient (CoLA), for two classes or more; 0 for one constant list."""
    gold, found = _codes(targets, predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few examples a class, and division by zero
        value = float(sklearn.metrics.matthews_corrcoef(gold, found))
    return {"matthews_corrcoef": 100.0 * (value if math.isfinite(value) else 0.0)}


def pearson_corrcoef(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Pearson correlation of numbers or of texts of numbers (STS-B); 0 for a constant list."""
    value = _correlation(scipy.stats.pearsonr, targets, predictions)
    return {"pearson_corrcoef": value}


def spearman_corrcoef(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Rank correlation of numbers or of texts of numbers (STS-B); 0 for a constant list."""
    value = _correlation(scipy.stats.spearmanr, targets, predictions)
    return {"spearman_corrcoef": value}


def squad(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """SQuAD's exact match `em` and word-level `f1`, the best over each example's gold answers.

    Texts are compared without case, punctuation, articles and superfluous spaces. Two texts of
    which nothing remains are equal (SQuAD 2.0's rule).

    Args:
        targets: a gold answer or several, for each example.
        predictions: one answer for each example.
    """
    _check(targets, predictions)
    exact, overlap = [], []
    for target, prediction in zip(targets, predictions, strict=True):
        golds = [target] if isinstance(target, str) else list(target)
        if not golds:
            raise SpotError(
                "expected at least one gold answer for each example, found none for "
                f"prediction {prediction!r}; drop such examples from the split"
            )
        words = _words(prediction)
        exact.append(max(_words(gold) == words for gold in golds))
        overlap.append(max(_word_f1(_words(gold), words) for gold in golds))
    return {"em": 100.0 * float(np.mean(exact)), "f1": 100.0 * float(np.mean(overlap))}


def mean_of_metrics(metrics: Mapping[str, float]) -> float:
    """The mean of a dataset's metrics, by which checkpoints are chosen (Lester 2021, §3)."""
    if not metrics:
        raise SpotError(
            "expected at least one metric to choose a checkpoint by, found none; "
            "give the task a metric function"
        )
    return float(np.mean(list(metrics.values())))


def _check(targets: Sequence[Any], predictions: Sequence[Any]) -> None:
    if len(targets) != len(predictions):
        raise SpotError(
            f"expected one prediction a target, found {len(predictions)} predictions for "
            f"{len(targets)} targets; give the predictions of the same examples"
        )
    if len(targets) == 0:
        raise SpotError("expected examples to evaluate, found an empty split; choose another split")


def _codes(targets, predictions, labels=()) -> tuple[np.ndarray, np.ndarray]:
    # Numbers for labels, those of `labels` first: scikit-learn refuses lists that mix types.
    _check(targets, predictions)
    numbers: dict[Hashable, int] = {}
    for label in (*labels, *targets, *predictions):
        numbers.setdefault(label, len(numbers))
    gold = np.array([numbers[target] for target in targets])
    return gold, np.array([numbers[prediction] for prediction in predictions])


def _macro_f1(targets, predictions, labels) -> float:
    gold, found = _codes(targets, predictions, labels)
    classes = list(range(len(labels)))
    value = sklearn.metrics.f1_score(gold, found, labels=classes, average="macro", zero_division=0)
    return 100.0 * float(value)


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _correlation(function, targets, predictions) -> float:
    _check(targets, predictions)
    gold = [_number(target) for target in targets]
    if None in gold:
        raise SpotError(
            f"expected numbers as targets of a correlation, found {targets[gold.index(None)]!r}; "
            "choose another metric for this task"
        )
    numbers = [_number(prediction) for prediction in predictions]
    found = [_NO_NUMBER if number is None else number for number in numbers]
    if len(set(gold)) < 2 or len(set(found)) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant lists
        value = float(function(gold, found).statistic)
    return 100.0 * value if math.isfinite(value) else 0.0


def _words(text: str) -> list[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _word_f1(gold: list[str], found: list[str]) -> float:
    if not gold or not found:
        return float(gold == found)
    common = sum((collections.Counter(gold) & collections.Counter(found)).values())
    return 2.0 * common / (len(gold) + len(found))
