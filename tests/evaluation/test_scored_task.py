"""How predictions are made, what checkpoints are chosen by, and when labels are known."""

import pytest

from spot_jax.data import fields, loading, verbalizers
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import Search
from spot_jax.evaluation.scored_task import score_of, search_of

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


def test_predictions_are_compared_as_the_task_s_postprocessing_makes_them(monkeypatch):
    class Tasks:
        @staticmethod
        def metric_fns(name):
            return [lambda targets, predictions: {"same": float(targets == predictions)}]

        @staticmethod
        def postprocess(name, text):
            return LABELS.index(text)

    monkeypatch.setattr(loading, "_seqio", lambda: Tasks)
    (metric,) = loading.metric_fns("t")
    assert metric([1, 0], ["yes", "no"]) == {"same": 1.0}
    assert metric([1, 0], ["no", "no"]) == {"same": 0.0}


@pytest.mark.parametrize("template", ["no field", "{}", "{a.b}", "{open"])
def test_templates_that_are_refused(template):
    with pytest.raises(SpotError, match="template"):
        fields.register("t", template)
