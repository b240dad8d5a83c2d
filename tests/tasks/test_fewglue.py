"""FewGLUE's files as they are published: read by split, written in P-Tuning's patterns."""

import json

import pytest

from spot_jax.errors import SpotError

pytest.importorskip("seqio")
from spot_jax.data import seqio_tasks  # noqa: E402
from spot_jax.t5.vocabulary import load_vocabulary  # noqa: E402
from tasks import papers_tasks  # noqa: E402, F401
from tasks.checking import check  # noqa: E402
from tasks.papers import fewglue_sets  # noqa: E402
from tasks.t5_features import VOCABULARY  # noqa: E402

LINES = {
    "boolq": {"question": "is it dark", "passage": "It is day.", "idx": 3, "label": False},
    "cb": {"premise": "He ran.", "hypothesis": "he walked", "label": "contradiction", "idx": 1},
    "copa": {
        "premise": "He ran.",
        "choice1": "The bus left.",
        "choice2": "It rained.",
        "question": "cause",
        "label": 1,
        "idx": 0,
    },
    "multirc": {
        "idx": 0,
        "passage": {
            "text": "Ida planted an oak.",
            "questions": [
                {
                    "question": "Who planted?",
                    "answers": [
                        {"text": "Ida", "idx": 0, "label": 1},
                        {"text": "Ruth", "idx": 1, "label": 0},
                    ],
                    "idx": 4,
                }
            ],
        },
    },
    "rte": {"premise": "He ran.", "hypothesis": "He moved.", "label": "entailment", "idx": 0},
    "wic": {
        "word": "run",
        "sentence1": "a run",
        "sentence2": "they run",
        "label": True,
        "idx": 0,
        "start1": 2,
    },
    "wsc": {
        "text": "Olga thanked Ruth because she helped.",
        "target": {
            "span1_text": "Ruth",
            "span1_index": 2,
            "span2_text": "she",
            "span2_index": 4,
        },
        "label": True,
        "idx": 0,
    },
}
TARGETS = {
    "boolq": ["No"],
    "cb": ["No"],
    "copa": ["it rained"],
    "multirc": ["Yes", "No"],
    "rte": ["Yes"],
    "wic": ["Yes"],
    "wsc": ["Ruth"],
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("SPOT_DATA_DIR", str(tmp_path))
    for name, line in LINES.items():
        folder = tmp_path / "fewglue" / fewglue_sets.SETS[name][0]
        folder.mkdir(parents=True)
        for stem in fewglue_sets.STEMS.values():
            (folder / f"{stem}.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path / "fewglue"


@pytest.mark.parametrize("name", LINES)
def test_every_split_has_the_pattern_and_the_answers(name, files):
    vocabulary = load_vocabulary(VOCABULARY.sentencepiece_model_file)
    task = f"fewglue_{name}_ptuning"
    for split in fewglue_sets.STEMS:
        evaluation = seqio_tasks.load_evaluation(task, split, vocabulary)
        texts = [row["targets_pretokenized"].decode() for row in evaluation.fields]
        assert texts == TARGETS[name]
        assert all(list(ids).count(vocabulary.sentinel(99)) == 1 for ids, _ in evaluation.examples)
    assert not check(task)[0].problems


def test_what_is_missing_or_broken_is_one_line_with_its_place(files):
    (files / "WSC" / "dev32.jsonl").unlink()
    (problem,) = check("fewglue_wsc_ptuning")[0].problems
    assert "WSC/dev32.jsonl, found no such file" in problem
    path = files / "RTE" / "train.jsonl"
    for line in ('{"premise": "a"}', "{", '{"premise": "a", "hypothesis": "b", "label": "x"}'):
        path.write_text(f"{line}\n")
        with pytest.raises(SpotError, match=r"train.jsonl:1: expected a labelled row of Super"):
            fewglue_sets.read("rte", "train")


def test_only_true_pairs_of_wsc_are_trained_on(files):
    path = files / "WSC" / "train.jsonl"
    path.write_text(path.read_text() + json.dumps({**LINES["wsc"], "label": False}) + "\n")
    vocabulary = load_vocabulary(VOCABULARY.sentencepiece_model_file)
    assert len(seqio_tasks.load_examples("fewglue_wsc_ptuning", "train", vocabulary)) == 1
