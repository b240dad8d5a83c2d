import random

import pytest

from spot_jax.data.examples import Examples
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS, Vocabulary
from tasks import choices
from tasks.bundled.reading import rows
from tasks.pretraining_text import VOCABULARY


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(VOCABULARY)


def glosses(directory):
    lines = [f"word{i}: the gloss of number {i}; more of it" for i in range(200)]
    (directory / choices.GLOSSES).write_text("\n".join(lines))


def test_the_answer_is_among_the_words_that_come_before_the_text(vocabulary):
    pair = ("text: a dog", "animal", ["plant", "stone", "place"])
    for seed in range(20):
        inputs, targets = choices.tokens(pair, 0.0, vocabulary, random.Random(seed))
        words, _, text = vocabulary.decode(inputs).partition(" text: ")
        assert "animal" in words.split()
        assert set(words.split()) <= {"animal", "plant", "stone", "place"}
        assert len(words.split()) >= 2
        assert text == "a dog"
        assert vocabulary.decode(targets) == "animal"
        assert inputs[-1] == targets[-1] == EOS
    without, _ = choices.tokens(pair, 1.0, vocabulary, random.Random(0))
    assert vocabulary.decode(without) == "text: a dog"


def test_only_training_text_of_the_sets_it_names():
    found = {text for text, _, _ in choices.labelled("sms_spam", random.Random(0))}
    train = {f"text: {row['text']}" for row in rows("sms_spam", "train")}
    assert found <= train
    assert not {"vader_amazon", "gap_coref", "bible_paraphrase"} & set(choices.SEEN)


def test_written_twice_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "SEEN", ("sms_spam",))
    monkeypatch.setattr(choices, "PER_SET", 50)
    glosses(tmp_path)
    assert choices.write(tmp_path, tmp_path / "a.npz") == 50 + 50 // 3
    choices.write(tmp_path, tmp_path / "b.npz")
    one, two = Examples.load(tmp_path / "a.npz"), Examples.load(tmp_path / "b.npz")
    assert (one.inputs == two.inputs).all()
    assert (one.targets == two.targets).all()
    assert one.longest()[0] <= choices.PIECES


def test_glosses_that_are_missing(tmp_path):
    with pytest.raises(SpotError, match="wordnet_glosses.txt is missing"):
        list(choices.glosses(tmp_path / choices.GLOSSES, 3, random.Random(0)))
