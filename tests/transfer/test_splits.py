"""The split that chooses and the one that reports share no example."""

import numpy as np
import pytest
from tiny_text import VOCABULARY

from spot_jax.data.examples import Examples
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import load_task
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.transfer.splits import Splits, splits_of

LENGTHS = {"inputs": 8, "targets": 2}


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(VOCABULARY)


def write(directory, split, answers):
    """Examples whose first token is their number."""
    pairs = [([100 + i, 1], [200 + answer, 1]) for i, answer in enumerate(answers)]
    Examples.from_lists(pairs).save(directory / f"t-{split}.npz")
    return str(directory / "t-{split}.npz")


def numbers(examples):
    return [int(inputs[0]) - 100 for inputs, _ in examples]


def test_a_test_split_with_answers_reports(tmp_path, vocabulary):
    write(tmp_path, "validation", [0, 1, 2])
    name = write(tmp_path, "test", [0, 1, 0])
    assert splits_of(name, vocabulary, lengths=LENGTHS) == Splits("validation", "test")


@pytest.mark.parametrize(("test", "reason"), [([3, 3, 3], "all of its answers are"), (None, "")])
def test_without_answers_validation_is_halved(test, reason, tmp_path, vocabulary):
    name = write(tmp_path, "validation", [0, 1, 2, 0, 1])
    if test:
        write(tmp_path, "test", test)
    splits = splits_of(name, vocabulary, lengths=LENGTHS)
    assert (splits.choosing, splits.reporting) == ("validation[::2]", "validation[1::2]")
    assert "has no test split to report on" in splits.note and reason in splits.note
    assert "\n" not in splits.note
    halves = [
        load_task(name, half, vocabulary, lengths=LENGTHS)
        for half in (splits.choosing, splits.reporting)
    ]
    assert [numbers(half.examples) for half in halves] == [[0, 2, 4], [1, 3]]
    whole = load_task(name, "validation", vocabulary, lengths=LENGTHS)
    assert [half.targets for half in halves] == [whole.targets[::2], whole.targets[1::2]]
    limited = load_task(name, splits.reporting, vocabulary, lengths=LENGTHS, limit=1)
    assert (numbers(limited.examples), len(limited.targets)) == ([1], 1)


def test_the_papers_way_is_possible_and_told_of(tmp_path, vocabulary):
    name = write(tmp_path, "validation", [0, 1])
    splits = splits_of(name, vocabulary, lengths=LENGTHS, reporting="validation")
    assert splits.reporting == splits.choosing and "the score flatters" in splits.note
    with pytest.raises(SpotError, match=r"write validation\[::2\] for every other one"):
        load_task(name, "validation[::0]", vocabulary, lengths=LENGTHS)


def test_text_that_only_has_a_loss_is_halved_too(tmp_path, vocabulary):
    np.save(tmp_path / "text.npy", np.arange(100, 600, dtype=np.int32))
    name = f"{tmp_path}/text.npy:prefix_lm"
    both = load_task(name, "train", vocabulary, lengths=LENGTHS, limit=8).examples
    part = load_task(name, "train[1::2]", vocabulary, lengths=LENGTHS, limit=4).examples
    assert [list(map(tuple, pair)) for pair in part] == [
        list(map(tuple, both[i])) for i in (1, 3, 5, 7)
    ]
