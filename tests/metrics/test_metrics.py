"""Metrics against values worked by hand; warnings are errors here."""

import pytest

from spot_jax import metrics as m
from spot_jax.errors import SpotError

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
    # joy: P 1/2 R 1, F 2/3; love: 1; fear, in neither list: 0; "rage" is no label
    "several labels": (
        m.multilabel_macro_f1(["joy", "love", "fear"]),
        ["joy, love", "", "love"],
        ["love,joy", "joy", "rage, love"],
        {"macro_f1": 100 * (2 / 3 + 1 + 0) / 3},
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
    # two golds, another case, outer space
    "CrossFit ACC": (
        m.accuracy_without_case,
        [["Yes", "y"], "no", "no"],
        ["Y ", "No", ""],
        {"accuracy": 200 / 3},
    ),
    "P@1": (m.precision_at_1, ["Paris", "Rome"], [" Paris", "rome"], {"precision_at_1": 50.0}),
    # yes: P 1 R 1/2; no: P 1 R 1; "maybe", which nobody asked for, is a third class of F1 0
    "CrossFit F1": (
        m.macro_f1_of_outputs,
        [["yes", "ignored"], "yes", "no"],
        ["yes", "maybe ", "no"],
        {"macro_f1": 100 * (2 / 3 + 1 + 0) / 3},
    ),
    "CrossFit MCC": (
        m.matthews_corrcoef_of("acceptable"),
        [["acceptable"], ["acceptable"], ["not"], ["not"], ["not"]],
        ["acceptable", "rubbish", "acceptable", "", "not"],
        {"matthews_corrcoef": 100 / 6},
    ),
    "CrossFit EM": (m.exact_match, [["The Cat", "dog"]], ["dog."], {"em": 100.0}),
    "CrossFit QA-F1": (m.word_f1, [["black dog", "x"]], ["dog"], {"f1": 200 / 3}),
    # SQuAD joins what a hyphen parts, TriviaQA does not
    "TriviaQA": (m.trivia_qa, [["x-ray"]], ["x ray"], {"em": 100.0, "f1": 100.0}),
    "SQuAD, hyphen": (m.squad, [["x-ray"]], ["x ray"], {"em": 0.0, "f1": 0.0}),
    # the second example of question (0, 1) is not looked at
    "ReCoRD": (
        m.record,
        [
            {"value": ["Bob", "Bob Smith"], "group": (0, 1)},
            {"value": ["Bob", "Bob Smith"], "group": (0, 1)},
            {"value": ["Ann"], "group": (0, 2)},
        ],
        [{"value": "Bob Smith"}, {"value": "Eve"}, ""],
        {"em": 50.0, "f1": 50.0},
    ),
    # TP 1 (q1 a), FN 1 (q2 b, an empty text), FP 1 (q2 a), TN 2: F1a 1/2; q1 alone is all right
    "MultiRC": (
        m.multirc("True", "False"),
        [
            {"value": "True", "group": "q1"},
            {"value": "False", "group": "q2"},
            {"value": "True", "group": "q2"},
            {"value": "False", "group": "q1"},
            {"value": "False", "group": "q2"},
        ],
        ["True", "True", "", {"value": "False"}, "False"],
        {"f1": 50.0, "exact_match": 50.0},
    ),
    # yes: its words are among the referent's; no: empty; no: an apostrophe; yes: another noun
    "WSC": (
        m.wsc,
        [
            {"label": 1, "referent": "The fuzzy Bunny"},
            {"label": 0, "referent": "Bob"},
            {"label": 1, "referent": "Bob's hat"},
            {"label": 0, "referent": "the cat"},
        ],
        ["bunny", "the", "Bob", "her dog"],
        {"accuracy": 50.0},
    ),
    "WSC, referent of nothing but determiners": (
        m.wsc,
        [{"label": 1, "referent": "his"}],
        ["Ann"],
        {"accuracy": 0.0},
    ),
    # 1: 2 of 3 words found, 2 of 2 right; 2: 1 bigram of 2 and 1; L: as 1
    "ROUGE": (
        m.rouge,
        ["the red cat"],
        ["the cat"],
        {"rouge1": 80.0, "rouge2": 0.0, "rougeLsum": 80.0},
    ),
    "ROUGE, empty text": (
        m.rouge,
        ["a cat", ["b", "a dog"]],
        ["", "a dog"],
        {"rouge1": 50.0, "rouge2": 50.0, "rougeLsum": 50.0},
    ),
    # lines are sentences: their order does not matter to Lsum, but it does to L
    "ROUGE-L": (m.rouge_l, [["a b c d", "x"]], ["c d a b"], {"rougeL": 50.0}),
    "BLEU, equal": (
        m.bleu,
        ["one two three four five"],
        ["one two three four five"],
        {"bleu": 100},
    ),
    # precisions 4/5, 3/4, 2/3, 1/2 of one reference; lengths are equal
    "BLEU": (
        m.bleu,
        [["one two three four six", "seven"]],
        ["one two three four five"],
        {"bleu": 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25},
    ),
    "BLEU, empty text": (m.bleu, ["one two"], [""], {"bleu": 0.0}),
    # ranks of predictions 1.5, 1.5, 3.5, 3.5 of 1, 2, 3, 4: 4 / sqrt(5 * 4)
    "Spearman, ties": (
        m.spearman_corrcoef,
        [1, 2, 3, 4],
        ["0.2", "0.2", "4.0", "4.0"],
        {"spearman_corrcoef": 100 * 4 / 20**0.5},
    ),
    "Spearman, constant": (m.spearman_corrcoef, [1, 2], ["3", "3"], {"spearman_corrcoef": 0.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_worked_cases(name):
    metric, targets, predictions, expected = CASES[name]
    assert metric(targets, predictions) == pytest.approx(expected)


@pytest.mark.parametrize(
    "metric",
    [
        m.accuracy,
        m.accuracy_without_case,
        m.bleu,
        m.f1("a"),
        m.macro_f1,
        m.macro_f1_of_outputs,
        m.matthews_corrcoef,
        m.multirc("1", "0"),
        m.once_a_group(m.squad),
        m.pearson_corrcoef,
        m.precision_at_1,
        m.rouge,
        m.squad,
        m.wsc,
    ],
)
def test_lists_that_do_not_match_or_are_empty_are_refused(metric):
    with pytest.raises(SpotError, match="2 predictions for 1 targets"):
        metric(["1"], ["1", "2"])
    with pytest.raises(SpotError, match="empty split"):
        metric([], [])


def test_a_target_that_is_no_number_is_refused():
    with pytest.raises(SpotError, match="found 'five'"):
        m.pearson_corrcoef(["5", "five"], ["5", "5"])


def test_grouped_metrics_say_what_a_target_lacks():
    with pytest.raises(SpotError, match="targets with 'group'"):
        m.record([{"value": ["a"]}], ["a"])
    with pytest.raises(SpotError, match="targets with 'value'"):
        m.multirc(1, 0)(["True"], [1])


def test_an_example_without_gold_answers_is_refused():
    with pytest.raises(SpotError, match="at least one gold answer"):
        m.squad([[]], ["a"])


def test_mean_of_metrics():
    assert m.mean_of_metrics({"f1": 90.0, "accuracy": 80.0}) == 85.0
    with pytest.raises(SpotError, match="metric function"):
        m.mean_of_metrics({})
