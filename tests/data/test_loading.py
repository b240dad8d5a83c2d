import sys
from pathlib import Path

import numpy as np
import pytest

from spot_jax.data import loading
from spot_jax.data.examples import Examples
from spot_jax.data.text_tokens import save_tokens
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary

MINI = Path(__file__).parents[2] / "tasks" / "mini_spiece.model"


def test_arrays_are_read_without_seqio(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for split, first in (("train", 5), ("validation", 6)):
        Examples.from_lists([([first, 1], [3, 1])] * 4).save(tmp_path / f"e-{split}.npz")
    name = str(tmp_path / "e-{split}.npz")
    assert loading.training_source(name, None, 0).next()[0].tolist() == [5, 1]
    assert loading.load_examples(name, "validation", None, limit=2)[1][0].tolist() == [6, 1]
    assert len(loading.load_examples(name, "validation", None, limit=2)) == 2

    tokens = save_tokens(tmp_path / "t.npy", np.arange(3, 903, dtype=np.uint16))
    source = loading.training_source(
        f"{tokens}:prefix_lm", Vocabulary(MINI), 0, lengths={"inputs": 20, "targets": 5}
    )
    assert all(len(source.next()[1]) <= 5 for _ in range(30))


def test_tokens_of_another_vocabulary_are_not_trained_on(tmp_path):
    mini = Vocabulary(MINI)
    tokens = save_tokens(tmp_path / "t.npy", np.arange(3, 903, dtype=np.uint16), mini)
    name, lengths = f"{tokens}:span_corruption", {"inputs": 20, "targets": 9}
    assert loading.training_source(name, mini, 0, lengths=lengths)
    other = Vocabulary(MINI.with_name("t5_spiece.model"))
    with pytest.raises(SpotError, match="found those of mini_spiece.model"):
        loading.training_source(name, other, 0, lengths=lengths)


def test_a_task_without_seqio_is_one_clear_line(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("spot_jax.data.seqio")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("spot_jax.data.seqio_tasks", raising=False)
    monkeypatch.setitem(sys.modules, "seqio", None)
    with pytest.raises(SpotError, match="expected seqio and tensorflow"):
        loading.load_examples("bundled_sms_spam", "train", Vocabulary(MINI))


def test_a_split_without_a_file_of_its_own_is_refused(tmp_path):
    path = Examples.from_lists([([5, 1], [3, 1])]).save(tmp_path / "e.npz")
    assert len(loading.load_examples(str(path), "train", None)) == 1
    with pytest.raises(SpotError, match="expected {split} in the file name"):
        loading.load_examples(str(path), "validation", None)


def test_other_mistakes(tmp_path):
    with pytest.raises(SpotError, match="a backbone with a vocabulary"):
        loading.load_examples("bundled_sms_spam", "train", None)
    with pytest.raises(SpotError, match="a number of examples to take"):
        loading.load_examples("t.npy:prefix_lm", "train", None)
    with pytest.raises(SpotError, match="feature lengths"):
        loading.training_source("t.npy:prefix_lm", None, 0)
