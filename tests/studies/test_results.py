"""results.json: what is written is read, and what is not a study is refused in one line."""

import dataclasses
import json
import math

import pytest
from synthetic_study import synthetic_study

from spot_jax.errors import SpotError
from spot_jax.studies.engine.running import commonest_answer
from spot_jax.studies.transfer.results import (
    Curve,
    EmbeddedPrompt,
    Embeddings,
    Score,
    Similarity,
    TransferResults,
)

SMALL = TransferResults(
    title="small",
    sources=("a",),
    targets=("t",),
    scores=(Score("t", "scratch", 50.0, seed=0),),
)


def test_a_study_with_everything_in_it_comes_back_equal(tmp_path):
    results = synthetic_study(3, 2, seeds=2, steps=3)
    path = results.write(tmp_path / "study")
    assert path.name == "results.json"
    assert TransferResults.read(tmp_path / "study") == results
    assert TransferResults.read(path) == results


def test_a_score_that_is_not_defined_is_null(tmp_path):
    scores = (Score("t", "scratch", math.nan, validation=math.nan),)
    path = dataclasses.replace(SMALL, scores=scores).write(tmp_path)
    stored = json.loads(path.read_text())["scores"][0]
    assert stored["test"] is None
    assert stored["validation"] is None
    (back,) = TransferResults.read(path).scores
    assert math.isnan(back.test)
    assert back.validation is None


def test_writing_leaves_nothing_beside_the_file(tmp_path):
    SMALL.write(tmp_path)
    SMALL.write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def minimal(**changes) -> str:
    fields = {
        "format": 1,
        "title": "x",
        "sources": ["a"],
        "targets": ["t"],
        "scores": [],
        **changes,
    }
    return json.dumps({k: v for k, v in fields.items() if v != "gone"})


BAD = {
    "truncated": (minimal()[:-20], "truncated or not JSON"),
    "empty": ("", "truncated or not JSON"),
    "a list": ("[1, 2]", "a JSON object is expected, found list"),
    "another file": ('{"backbone": "x"}', "not a study's results"),
    "newer": (minimal(format=2), "newer spot-jax"),
    "no scores": (minimal(scores="gone"), "has no `scores`"),
    "text for a score": (
        minimal(scores=[{"target": "t", "method": "scratch", "test": "50"}]),
        'scores[0].test must be a float, found "50"',
    ),
    "unknown field": (minimal(colour="red"), "'colour'"),
    "unknown method": (
        minimal(scores=[{"target": "t", "method": "guess", "test": 1}]),
        "'guess' is none of",
    ),
    "unknown target": (
        minimal(scores=[{"target": "z", "method": "scratch", "test": 1}]),
        "'z' is not among the study's targets",
    ),
    "unknown source": (
        minimal(scores=[{"target": "t", "method": "transfer", "source": "z", "test": 1}]),
        "'z' is not among the study's sources",
    ),
    "transfer from nothing": (
        minimal(scores=[{"target": "t", "method": "transfer", "test": 1}]),
        "has source None",
    ),
    "pair outside": (
        minimal(similarities=[{"source": "z", "target": "t"}]),
        "not in the study",
    ),
    "task twice": (minimal(sources=["a", "a"]), "names a task twice"),
    "list for a name": (minimal(title=["x"]), "title must be a str"),
    "not square": (
        minimal(embeddings={"names": [{"task": "a"}], "average_tokens": [[1, 0]]}),
        "average_tokens must be 1 x 1",
    ),
    "curve": (
        minimal(curves=[{"target": "t", "method": "scratch", "steps": [1, 2], "validation": [3]}]),
        "2 steps and 1 scores",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line_that_names_them(name, tmp_path):
    text, expected = BAD[name]
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(SpotError) as error:
        TransferResults.read(tmp_path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_directory_without_a_study_says_what_to_do(tmp_path):
    with pytest.raises(SpotError, match="spot study"):
        TransferResults.read(tmp_path / "nowhere")


def test_contradictions_are_found_before_they_are_written():
    with pytest.raises(SpotError, match="not in the study"):
        dataclasses.replace(SMALL, similarities=(Similarity("z", "t"),))
    with pytest.raises(SpotError, match="one score a step"):
        dataclasses.replace(SMALL, curves=(Curve("t", "scratch", (1,), ()),))
    oblong = Embeddings((EmbeddedPrompt("a"),), ((1.0, 2.0),))
    with pytest.raises(SpotError, match="1 x 1"):
        dataclasses.replace(SMALL, embeddings=oblong)


@pytest.mark.parametrize(
    ("targets", "labelled", "answer"),
    [
        (["no", "yes", "yes"], True, "yes"),
        (["yes", "no"], True, "no"),  # of as many the first by the alphabet
        (["no", "yes", "yes", "no"], False, None),  # texts that nobody calls labels
        ([["spam"], ["ham", "pork"], ["ham"], ["ham"]], False, "ham"),
        ([["a"], ["b"], ["c"]], False, None),  # texts of their own
        ([[], ["a"]], False, None),
        ([], False, None),
    ],
)
def test_the_commonest_answer_is_of_labels_and_of_answers_that_repeat(targets, labelled, answer):
    assert commonest_answer(targets, labelled=labelled) == answer
