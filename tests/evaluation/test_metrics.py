"""Metrics against values worked by hand; warnings are errors here."""

import pytest

from spot_jax.errors import SpotError
from spot_jax.evaluation import metrics as m

# positive F1: precision 1/2, recall 1/2; negative: 1/2 and 1/2 of two, plus nothing else.
GOLD = ["yes", "yes", "no", "no", "no"]
FOUND = ["yes", "no", "yes", "no", "no"]

CASES = {
    "accuracy": (m.accuracy, GOLD, FOUND, {"accuracy": 60.0}),
    "accuracy of an empty text": (m.accuracy, ["yes", "no"], ["", "no"], {"accuracy": 50.0}),
    "accuracy of mixed types": (m.accuracy, [1, 0], [None, 0], {"accuracy": 50.0}),
    # yes: P 1/2 R 1/2 F 1/2; no: P 2/3 R 2/3 F 2/3
    "macro F1": (m.macro_f1, GOLD, FOUND, {"macro_f1": 100 * (1 / 2 + 2 / 3) / 2}),
    # yes: P 1 R 1/2 F 2/3; no: P 1 R 1 F 1; "maybe" is no class
    "macro F1, unseen label": (
        m.macro_f1,
        ["yes", "yes", "no"],
        ["yes", "maybe", "no"],
        {"macro_f1": 100 * (2 / 3 + 1) / 2},
    ),
    "macro F1, constant": (m.macro_f1, ["a", "b"], ["a", "a"], {"macro_f1": 100 / 3}),
    # the third class is in neither list and counts 0
    "mean 3-class F1": (
        m.mean_multiclass_f1(3),
        [0, 0, 1],
        [0, -1, 1],
        {"mean_3class_f1": 100 * (2 / 3 + 1 + 0) / 3},
    ),
    "mean 2-class F1 of texts": (
        m.mean_multiclass_f1(["yes", "no"]),
        GOLD,
        FOUND,
        {"mean_2class_f1": 100 * (1 / 2 + 2 / 3) / 2},
    ),
    "F1": (m.f1("yes"), GOLD, FOUND, {"f1": 50.0}),
    # an answer that is neither: only a missed "yes" ...
    "F1, unseen": (m.f1("yes"), ["yes", "no", "yes"], ["yes", "", ""], {"f1": 100 * 2 / 3}),
    # ... or the wrong one of the two: one hit, one false alarm, one miss
    "F1, invalid": (m.f1("yes", "no"), ["yes", "no", "yes"], ["yes", "", ""], {"f1": 50.0}),
    "F1, none predicted": (m.f1("yes"), ["yes", "no"], ["no", "no"], {"f1": 0.0}),
    # TP 1, FN 1, FP 1, TN 2: (1*2 - 1*1) / sqrt(2*2*3*3)
    "MCC": (m.matthews_corrcoef, GOLD, FOUND, {"matthews_corrcoef": 100 / 6}),
    "MCC, constant": (m.matthews_corrcoef, GOLD, ["yes"] * 5, {"matthews_corrcoef": 0.0}),
    # deviations (-1, 0, 1) and (-5/3, 1/3, 4/3): 3 / sqrt(2 * 14/3)
    "Pearson": (
        m.pearson_corrcoef,
        ["1.0", "2.0", "3.0"],
        ["0.0", "2.0", "3.0"],
        {"pearson_corrcoef": 100 * 3 / (2 * 14 / 3) ** 0.5},
    ),
    # "lots" and "nan" are -1: ranks 1.5, 1.5, 3 of 1, 2, 3
    "Spearman, no number": (
        m.spearman_corrcoef,
        [1, 2, 3],
        ["lots", "nan", "0.2"],
        {"spearman_corrcoef": 100 * 1.5 / (2 * 1.5) ** 0.5},
    ),
    "Pearson, constant": (m.pearson_corrcoef, [1, 2], ["3", "3"], {"pearson_corrcoef": 0.0}),
    "Spearman, one example": (m.spearman_corrcoef, [1], [1], {"spearman_corrcoef": 0.0}),
    # 2nd: best gold shares 1 word of 1 and 2; 3rd: nothing
    "SQuAD": (
        m.squad,
        [["The Cat!"], ["black dog", "bird"], ["x"]],
        ["a cat", "dog", ""],
        {"em": 100 / 3, "f1": 100 * (1 + 2 / 3 + 0) / 3},
    ),
    "SQuAD, nothing left": (m.squad, ["the"], [""], {"em": 100.0, "f1": 100.0}),
    # words count as often as they stand in both: 1 of 3 and 1
    "SQuAD, repeated word": (m.squad, ["no no no"], ["no"], {"em": 0.0, "f1": 50.0}),
    "sequences": (
        m.sequence_accuracy,
        [[1, 2], "ab"],
        [[1, 2, 3], "ab"],
        {"sequence_accuracy": 50.0},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_worked_cases(name):
    metric, targets, predictions, expected = CASES[name]
    assert metric(targets, predictions) == pytest.approx(expected)


@pytest.mark.parametrize(
    "metric",
    [m.accuracy, m.macro_f1, m.f1("a"), m.matthews_corrcoef, m.pearson_corrcoef, m.squad],
)
def test_lists_that_do_not_match_or_are_empty_are_refused(metric):
    with pytest.raises(SpotError, match="2 predictions for 1 targets"):
        metric(["1"], ["1", "2"])
    with pytest.raises(SpotError, match="empty split"):
        metric([], [])


def test_a_target_that_is_no_number_is_refused():
    with pytest.raises(SpotError, match="found 'five'"):
        m.pearson_corrcoef(["5", "five"], ["5", "5"])


def test_mean_of_metrics():
    assert m.mean_of_metrics({"f1": 90.0, "accuracy": 80.0}) == 85.0
    with pytest.raises(SpotError, match="metric function"):
        m.mean_of_metrics({})
