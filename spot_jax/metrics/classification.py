"""Metrics of labels: accuracy, F1 by class, Matthews; see `spot_jax.metrics`.

scikit-learn is imported by the first metric that needs it, since that takes a second.
"""

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from spot_jax.metrics.pairs import Metric, check, codes, golds_of, mean


def accuracy(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Compute the share of predictions equal to their targets."""
    gold, answers = codes(targets, predictions)
    return {"accuracy": mean(gold == answers)}


def accuracy_without_case(
    targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
    """Compute CrossFit's "ACC": the share of predictions equal to a gold but for case."""
    check(targets, predictions)
    hits = []
    for target, prediction in zip(targets, predictions, strict=True):
        golds = {gold.lower() for gold in golds_of(target, prediction)}
        hits.append(prediction.strip().lower() in golds)
    return {"accuracy": mean(hits)}


def precision_at_1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Compute LAMA's P@1: the share of first answers that are the object, outer spaces aside."""
    check(targets, predictions)
    pairs = zip(targets, predictions, strict=True)
    return {"precision_at_1": mean([gold.strip() == answer.strip() for gold, answer in pairs])}


def sequence_accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Compute the share of texts or token lists that equal their targets in every place."""
    check(targets, predictions)
    same = [list(t) == list(p) for t, p in zip(targets, predictions, strict=True)]
    return {"sequence_accuracy": 100.0 * float(np.mean(same))}


def macro_f1(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
    """Compute the mean over the targets' classes of each class's F1.

    A predicted label that no target has is a miss for the target's class but no class of its own.
    """
    return {"macro_f1": _macro_f1(targets, predictions, tuple(dict.fromkeys(targets)))}


def macro_f1_of_outputs(
    targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
    """Compute CrossFit's "Classification-F1": every text in either list is a class.

    So each text that no target has is one more class, whose F1 is 0. Of several golds the first
    one counts.
    """
    golds = [golds_of(t, p)[0] for t, p in zip(targets, predictions, strict=False)]
    check(targets, predictions)
    texts = [prediction.strip() for prediction in predictions]
    return {"macro_f1": _macro_f1(golds, texts, tuple(dict.fromkeys([*golds, *texts])))}


def multilabel_macro_f1(labels: Sequence[str], separator: str = ",") -> Metric:
    """Make the mean of all labels' F1 where an example has any number of them (GoEmotions).

    Args:
        labels: the classes; what a prediction names besides is passed over.
        separator: text that parts labels, the comma of "joy, love".
    """

    def chosen(text: str) -> list[bool]:
        named = {part.strip() for part in text.split(separator)}
        return [label in named for label in labels]

    def metric(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        check(targets, predictions)
        gold, answers = [chosen(text) for text in targets], [chosen(text) for text in predictions]
        return {"macro_f1": _f1_score(gold, answers, average="macro")}

    return metric


def mean_multiclass_f1(classes: int | Sequence[Hashable]) -> Metric:
    """Make T5's `mean_{n}class_f1` (CommitmentBank's), over given classes, in the targets or not.

    Args:
        classes: the labels; a number n stands for the labels 0 to n - 1.
    """
    labels = tuple(range(classes)) if isinstance(classes, int) else tuple(classes)

    def metric(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
        return {f"mean_{len(labels)}class_f1": _macro_f1(targets, predictions, labels)}

    return metric


def f1(positive: Hashable, negative: Hashable | None = None) -> Metric:
    """Make the F1 of one class against all else (MRPC, QQP).

    Args:
        positive: the label whose F1 it is.
        negative: the other label. When given, a prediction that is neither counts as the wrong one
            of the two, as in T5's `f1_score_with_invalid`; otherwise it counts as not `positive`.
    """

    def metric(targets: Sequence[Hashable], predictions: Sequence[Hashable]) -> dict[str, float]:
        check(targets, predictions)
        gold = [target == positive for target in targets]
        answers = [prediction == positive for prediction in predictions]
        if negative is not None:
            is_label = [prediction in (positive, negative) for prediction in predictions]
            answers = [f if k else not g for f, k, g in zip(answers, is_label, gold, strict=True)]
        return {"f1": _f1_score(gold, answers, pos_label=True)}

    return metric


def matthews_corrcoef(
    targets: Sequence[Hashable], predictions: Sequence[Hashable]
) -> dict[str, float]:
    """Compute the Matthews correlation coefficient (CoLA), for two classes or more.

    It is 0 where a list is constant.
    """
    from sklearn.metrics import matthews_corrcoef as coefficient

    gold, answers = codes(targets, predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few examples a class, and division by zero
        value = float(coefficient(gold, answers))
    return {"matthews_corrcoef": 100.0 * (value if math.isfinite(value) else 0.0)}


def matthews_corrcoef_of(positive: str) -> Metric:
    """Make CrossFit's Matthews coefficient: a text is `positive` or, whatever it is, not."""

    def metric(
        targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
    ) -> dict[str, float]:
        check(targets, predictions)
        pairs = zip(targets, predictions, strict=True)
        gold = [golds_of(target, prediction)[0] == positive for target, prediction in pairs]
        return matthews_corrcoef(gold, [text.strip() == positive for text in predictions])

    return metric


def _macro_f1(
    targets: Sequence[Hashable], predictions: Sequence[Hashable], labels: Sequence[Hashable]
) -> float:
    gold, answers = codes(targets, predictions, labels)
    classes = list(range(len(labels)))
    return _f1_score(gold, answers, labels=classes, average="macro")


def _f1_score(targets: Any, predictions: Any, **options: Any) -> float:
    from sklearn.metrics import f1_score

    return 100.0 * float(f1_score(targets, predictions, zero_division=0, **options))
