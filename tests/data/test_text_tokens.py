from pathlib import Path

import numpy as np
import pytest

from spot_jax.data.held_out import HeldOut
from spot_jax.data.text_tokens import load_tokens, read_directory, save_tokens, tokenise
from spot_jax.data.train_vocabulary import train_vocabulary
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary

MINI = Path(__file__).parents[2] / "tasks" / "mini_spiece.model"
LINES = [f"Line number {i} says {i * i}." for i in range(2000)]


@pytest.fixture(scope="module")
def mini():
    return Vocabulary(MINI)


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("\n\n".join(LINES[:1000]), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(LINES[1000:]), encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    return tmp_path


def test_every_line_is_in_one_split_and_other_encodings_are_left_out(directory):
    text = read_directory(directory)
    assert [path.name for path in text.skipped] == ["latin.txt"]
    train, held = list(text.lines("train")), list(text.lines("validation"))
    assert sorted(train + held) == sorted(LINES)
    assert 8 <= len(held) <= 40


def test_tokens_are_the_lines_with_eos_between(directory, mini):
    lines = list(read_directory(directory).lines())
    tokens = tokenise(lines, mini, seed=None)
    assert tokens.dtype == np.uint16
    parts = np.split(tokens, np.flatnonzero(tokens == 1) + 1)[:-1]
    assert [mini.decode(part) for part in parts] == lines

    shuffled = tokenise(lines, mini, seed=1)
    parts = np.split(shuffled, np.flatnonzero(shuffled == 1) + 1)[:-1]
    texts = [mini.decode(part) for part in parts]
    assert texts != lines and sorted(texts) == sorted(lines)
    assert (tokenise(lines, mini, seed=1) == shuffled).all()


def test_saved_tokens_come_back(tmp_path):
    path = save_tokens(tmp_path / "deep" / "t.npy", np.arange(5, dtype=np.uint16))
    assert load_tokens(path).tolist() == [0, 1, 2, 3, 4]


def test_tokens_of_another_vocabulary_are_refused(tmp_path, mini):
    other = Vocabulary(MINI.with_name("t5_spiece.model"))
    path = save_tokens(tmp_path / "t.npy", np.arange(5, dtype=np.uint16), mini)
    assert len(load_tokens(path, mini)) == len(load_tokens(path)) == 5
    with pytest.raises(SpotError, match=r"t.npy, found those of mini_spiece.model \(") as caught:
        load_tokens(path, other)
    assert "\n" not in str(caught.value)
    # Tokens that do not say are taken on trust, also where others lay before.
    save_tokens(path, np.arange(4, dtype=np.uint16))
    assert len(load_tokens(path, other)) == 4


def test_mistakes_are_one_clear_line(tmp_path, mini):
    with pytest.raises(SpotError, match="found none at"):
        read_directory(tmp_path / "none")
    with pytest.raises(SpotError, match=r"found none \(0 in another encoding\)"):
        read_directory(tmp_path)
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(SpotError, match="lines of text to tokenise, found none"):
        tokenise(read_directory(tmp_path).lines(), mini)
    (tmp_path / "blank.txt").unlink()
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(SpotError, match=r"found none \(1 in another encoding\)"):
        read_directory(tmp_path)
    with pytest.raises(SpotError, match="lines of text to tokenise"):
        tokenise([], mini)
    with pytest.raises(SpotError, match="tokenise the text again"):
        load_tokens(tmp_path / "none.npy")
    np.save(tmp_path / "floats.npy", np.zeros((2, 2)))
    with pytest.raises(SpotError, match="flat array of token ids"):
        load_tokens(tmp_path / "floats.npy")


def test_held_out_texts_are_found_inside_longer_lines_and_short_ones_as_wholes():
    held = HeldOut(
        ["one two three four five six seven eight nine", "just five words of text", "a b"]
    )
    assert held.overlaps("So: two, three four FIVE six seven eight nine - yes")
    assert held.overlaps("Just five words of text!")
    assert not held.overlaps("one two three four five six seven")
    assert not held.overlaps("a b")
    assert not held.overlaps("here are just five words of text and more")


def test_a_vocabulary_is_trained_the_same_twice(tmp_path):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(300)]
    file = tmp_path / "t.txt"
    file.write_text("\n".join(" ".join(rng.choice(words, 8)) for _ in range(500)))
    first, second = (train_vocabulary([file], tmp_path / name, 120, 3) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert Vocabulary(first).size == 220
    file.write_text("")
    with pytest.raises(SpotError, match="text to train a vocabulary on"):
        train_vocabulary([file], tmp_path / "c", 120)
