"""How predictions are made, what checkpoints are chosen by, and when labels are known."""

import math

import pytest

from spot_jax.data import fields, loading, verbalizers
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import Search
from spot_jax.evaluation.scored_task import ScoredTask, mean_of_tasks, score_of, search_of

LABELS = ("no", "yes")


@pytest.mark.parametrize(
    ("decoding", "labels", "expected"),
    [
        ("auto", LABELS, Search(labels=LABELS)),
        ("auto", (), Search()),
        ("rank", LABELS, Search(labels=LABELS)),
        ("greedy", LABELS, Search()),
        ("beam", LABELS, Search(beams=3)),
    ],
)
def test_decodings(decoding, labels, expected):
    assert search_of("t", decoding, labels, 3) == expected


def test_decodings_that_are_refused():
    with pytest.raises(SpotError, match="t has no verbalizers"):
        search_of("t", "rank", ())
    with pytest.raises(SpotError, match="found 'sample'"):
        search_of("t", "sample", ())
    with pytest.raises(SpotError, match="at least one beam"):
        search_of("t", "beam", (), 0)


def test_scores():
    metrics = {"accuracy": 80.0, "f1": 60.0}
    assert score_of("t", metrics, 1.5) == 70.0
    assert score_of("t", metrics, 1.5, "f1") == 60.0
    assert score_of("t", {}, 1.5) == -1.5
    with pytest.raises(SpotError, match="no metric 'em' for t; it has accuracy, f1"):
        score_of("t", metrics, 1.5, "em")


def test_labels_are_known_before_anything_is_read(monkeypatch):
    """Tasks that ship register their labels when they are asked for, not when they are read."""

    class Registry:
        @staticmethod
        def require(name):
            monkeypatch.setitem(verbalizers._LABELS, name, LABELS)
            monkeypatch.setitem(fields._TEMPLATES, name, "text: {text}")

    monkeypatch.setattr(loading, "_seqio", lambda: Registry)
    assert loading.labels_of("new") == LABELS
    assert loading.template_of("newer") == "text: {text}"
    assert loading.labels_of("file.npz") is None


def test_a_metric_that_is_no_number_makes_no_score_and_is_named(caplog):
    metrics = {"auc": float("nan"), "f1": 60.0}
    assert math.isnan(score_of("t", metrics, 1.5))
    assert "t has no score: auc is nan" in caplog.text
    assert score_of("t", metrics, 1.5, "f1") == 60.0
    assert math.isnan(score_of("t", {"ratio": float("inf")}, 1.5))


def test_a_task_without_a_score_is_left_out_of_the_mean_by_name(caplog):
    tasks = [ScoredTask(name, "test", None, [], [], Search()) for name in ("a", "b", "c")]
    nan = float("nan")
    results = [
        {"f1": 50.0, "loss": 1.0, "score": 50.0},
        {"f1": nan, "loss": 2.0, "score": nan},
        {"f1": 70.0, "loss": 3.0, "score": 70.0},
    ]
    means = mean_of_tasks(tasks, results)
    assert (means["score"], means["loss"], means["a/f1"]) == (60.0, 2.0, 50.0)
    assert caplog.messages == ["left out of the mean score, as no number: b"]
    assert math.isnan(mean_of_tasks(tasks[1:2], results[1:2])["score"])


@pytest.mark.parametrize("template", ["no field", "{}", "{1}", "{a!r}", "{open"])
def test_templates_that_are_refused(template):
    with pytest.raises(SpotError, match="template"):
        fields.register("t", template)
