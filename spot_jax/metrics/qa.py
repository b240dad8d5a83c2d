"""Metrics of answers to questions, alone and by groups; see `spot_jax.metrics`."""

import collections
import re
import string
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from spot_jax.metrics.classification import f1
from spot_jax.metrics.pairs import Metric, check, field, golds_of, mean, value_of

Golds = str | Sequence[str]

# TriviaQA's official script sets a space in the place of each of these.
_TRIVIA = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`_", " "))
_SQUAD = str.maketrans(dict.fromkeys(string.punctuation))

# T5's words that do not tell one referent from another.
_DETERMINER = re.compile(
    "a|an|few|her|his|each|every|many|much|my|our|some|that|the|their|these|this|those|which|"
    "whose|your"
)


def squad(targets: Sequence[Golds], predictions: Sequence[str]) -> dict[str, float]:
    """Compute SQuAD's exact match `em` and word-level `f1`, the best over an example's golds.

    Texts are compared without case, punctuation, articles and superfluous spaces. Two texts of
    which nothing remains are equal (SQuAD 2.0's rule).

    Args:
        targets: a gold answer or several, for each example.
        predictions: one answer for each example.
    """
    return _overlap(targets, predictions, _SQUAD)


def trivia_qa(targets: Sequence[Golds], predictions: Sequence[str]) -> dict[str, float]:
    """Compute TriviaQA's `em` and `f1`: SQuAD's, but punctuation divides words."""
    return _overlap(targets, predictions, _TRIVIA)


def exact_match(targets: Sequence[Golds], predictions: Sequence[str]) -> dict[str, float]:
    """Compute SQuAD's `em` alone: CrossFit's "EM"."""
    return {"em": squad(targets, predictions)["em"]}


def word_f1(targets: Sequence[Golds], predictions: Sequence[str]) -> dict[str, float]:
    """Compute SQuAD's `f1` alone: CrossFit's "QA-F1", and MRQA's metric (Lester 2021, A.1)."""
    return {"f1": squad(targets, predictions)["f1"]}


def once_a_group(metric: Metric) -> Metric:
    """Make a metric over the first example of each group (ReCoRD).

    ReCoRD's preparation writes one example for each gold answer; its questions count once.

    Args:
        metric: metric of (values, predictions).

    Returns:
        A metric of targets `{"value": ..., "group": ...}` and predictions, bare or `{"value": ...}`
    """

    def deduplicated(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        check(targets, predictions)
        first: dict[Hashable, int] = {}
        for number, target in enumerate(targets):
            first.setdefault(field(target, "group"), number)
        firsts = list(first.values())
        return metric(
            [field(targets[i], "value") for i in firsts], [value_of(predictions[i]) for i in firsts]
        )

    return deduplicated


def record(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Any]) -> dict[str, float]:
    """Compute ReCoRD's `em` and `f1` (SQuAD's), each question once; see `once_a_group`."""
    return once_a_group(squad)(targets, predictions)


def multirc(positive: Hashable, negative: Hashable) -> Metric:
    """Make MultiRC's `f1`, F1a over all answers, and `exact_match`, questions all right.

    Args:
        positive: the value of a right answer, such as 1 or "True".
        negative: the value of a wrong one; a prediction that is neither is a mistake.

    Returns:
        A metric of targets `{"value": ..., "group": question}` and predictions, bare or
        `{"value": ...}`.
    """
    over_all = f1(positive, negative)

    def metric(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        check(targets, predictions)
        golds = [field(target, "value") for target in targets]
        answers = [value_of(prediction) for prediction in predictions]
        right: dict[Hashable, bool] = {}
        for target, gold, answer in zip(targets, golds, answers, strict=True):
            group = field(target, "group")
            right[group] = right.get(group, True) and gold == answer
        return {**over_all(golds, answers), "exact_match": mean(list(right.values()))}

    return metric


def wsc(targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
    """Compute WSC's accuracy where the model writes the referent (T5's `wsc_simple`).

    An answer says "yes, the same" when, without case and determiners, the words of one of the two
    texts are all among the other's and both or neither have an apostrophe: "Bob" is not "Bob's
    hat". An empty answer is wrong.

    Args:
        targets: `{"label": whether the pronoun stands for the referent, "referent": its text}`.
        predictions: the texts written.
    """
    check(targets, predictions)
    hits = []
    for target, prediction in zip(targets, predictions, strict=True):
        words, referent = _content(prediction), _content(field(target, "referent"))
        label = bool(field(target, "label"))
        hits.append(bool(words) and _same_referent(words, referent) == label)
    return {"accuracy": mean(hits)}


def _same_referent(words: list[str], referent: list[str]) -> bool:
    apostrophes = {any("'" in word for word in side) for side in (words, referent)}
    words_of_answer, other = set(words), set(referent)
    return (
        bool(other)
        and len(apostrophes) == 1
        and (words_of_answer <= other or other <= words_of_answer)
    )


def _content(text: str) -> list[str]:
    return [word for word in text.lower().split() if not _DETERMINER.fullmatch(word)]


def _overlap(
    targets: Sequence[Golds], predictions: Sequence[str], table: dict[int, Any]
) -> dict[str, float]:
    check(targets, predictions)
    exact, overlap = [], []
    for target, prediction in zip(targets, predictions, strict=True):
        golds = golds_of(target, prediction)
        words = _words(prediction, table)
        exact.append(max(_words(gold, table) == words for gold in golds))
        overlap.append(max(_word_f1(_words(gold, table), words) for gold in golds))
    return {"em": mean(exact), "f1": mean(overlap)}


def _words(text: str, table: dict[int, Any]) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(table)).split()


def _word_f1(gold: list[str], answer: list[str]) -> float:
    if not gold or not answer:
        return float(gold == answer)
    common = sum((collections.Counter(gold) & collections.Counter(answer)).values())
    return 2.0 * common / (len(gold) + len(answer))
