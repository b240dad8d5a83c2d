"""Metrics against other implementations, on texts that models write: T5's own where it is there."""

import math
import random

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from spot_jax import metrics as m

WORDS = ["the", "a", "red", "cat", "dog.", "sat", "on", "Mat", "x-ray", "I'll", "4.0", ""]


@pytest.fixture(scope="module")
def texts():
    """Two lists of 60 texts of few words, so that many agree in part and some are empty."""
    draw = random.Random(0)
    return [[" ".join(draw.choices(WORDS, k=draw.randint(1, 7))) for _ in range(60)] for _ in "tp"]


@pytest.fixture(scope="module")
def labels():
    """60 labels of three classes, and predictions in which some are no label (-1)."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 3, 60).tolist(), draw.integers(-1, 3, 60).tolist()


def test_labels_score_as_scikit_learn_says(labels):
    gold, predictions = labels
    f1 = sklearn.metrics.f1_score(gold, predictions, labels=[0, 1, 2], average="macro")
    assert m.mean_multiclass_f1(3)(gold, predictions)["mean_3class_f1"] == pytest.approx(100 * f1)
    opened = sklearn.metrics.f1_score(gold, predictions, average="macro", zero_division=0)
    as_texts = m.macro_f1_of_outputs([str(g) for g in gold], [str(f) for f in predictions])
    assert as_texts["macro_f1"] == pytest.approx(100 * opened)
    mcc = sklearn.metrics.matthews_corrcoef(gold, predictions)
    assert m.matthews_corrcoef(gold, predictions)["matthews_corrcoef"] == pytest.approx(100 * mcc)


def test_correlations_are_scipys_with_ties(labels):
    gold, predictions = labels
    for metric, function in [
        (m.pearson_corrcoef, scipy.stats.pearsonr),
        (m.spearman_corrcoef, scipy.stats.spearmanr),
    ]:
        expected = 100 * function(gold, predictions).statistic
        assert list(metric(gold, list(map(str, predictions))).values()) == pytest.approx([expected])


@pytest.mark.slow
def test_scores_are_those_of_t5(texts, labels):
    reference = pytest.importorskip("t5.evaluation.metrics")
    gold, predictions = texts
    several = [[a, b] for a, b in zip(gold, reversed(gold), strict=True)]
    # T5 gives 0 for the F1 of two texts of which nothing remains; SQuAD 2.0 and we give 1.
    kept = [i for i in range(60) if m.squad(["the"], [predictions[i]])["em"] == 0]
    assert math.isclose(
        m.bleu(gold, predictions)["bleu"], reference.bleu(gold, predictions)["bleu"]
    )
    for name in ("squad", "trivia_qa"):
        lists = [several[i] for i in kept], [predictions[i] for i in kept]
        assert getattr(m, name)(*lists) == pytest.approx(getattr(reference, name)(*lists))
    # T5's is the median of bootstrapped means.
    assert m.rouge(gold, predictions) == pytest.approx(reference.rouge(gold, predictions), abs=1.5)
    numbers, guesses = labels
    three = reference.mean_multiclass_f1(num_classes=3)
    assert m.mean_multiclass_f1(3)(numbers, guesses) == pytest.approx(three(numbers, guesses))
    groups = [{"value": int(g > 0), "group": i // 4} for i, g in enumerate(numbers)]
    values = [{"value": g} for g in guesses]
    expected = reference.multirc_f1_over_all_answers(groups, values)
    expected |= reference.mean_group_metric(reference.all_match)(groups, values)
    assert m.multirc(1, 0)(groups, values) == pytest.approx(expected)
    records = [{"value": several[i], "group": i // 3} for i in kept]
    answers = [{"value": predictions[i]} for i in kept]
    once = reference.deduplicate_metric(reference.squad)
    assert m.record(records, answers) == pytest.approx(once(records, answers))


@pytest.mark.slow
def test_wsc_scores_as_t5_says():
    postprocess = pytest.importorskip("t5.data.postprocessors").wsc_simple
    draw = random.Random(1)
    words = ["the", "Bob", "bob's", "cat", "his", "red"]
    texts = [" ".join(draw.choices(words, k=draw.randint(0, 3))) for _ in range(400)]
    referents, answers = texts[:200], texts[200:]
    for referent, answer in zip(referents, answers, strict=True):
        expected = postprocess(answer, example={"targets_pretokenized": referent, "label": 1})
        actual = m.wsc([{"label": 1, "referent": referent}], [answer])["accuracy"] / 100
        assert actual == (expected == 1), (referent, answer)
