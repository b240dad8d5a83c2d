from pathlib import Path

import pytest

from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
T5 = ROOT / "tasks" / "t5_spiece.model"


@pytest.fixture(scope="module")
def t5():
    return Vocabulary(T5)


def test_t5_ids_and_back(t5):
    assert (t5.pieces, t5.size) == (32000, 32100)
    assert t5.sha256.startswith("d60acb12")
    assert t5.encode("Hello world") == [8774, 296]
    assert t5.decode([8774, 296, 1, 8774]) == "Hello world"
    assert t5.decode([0, 8774, 0, 296]) == "Hello world"
    assert t5.encode_all(["Hello world", ""]) == [[8774, 296], []]


def test_sentinels_count_down_from_the_top(t5):
    assert t5.sentinel(0) == 32099
    assert t5.piece(32099) == "▁<extra_id_0>" and t5.piece(32000) == "▁<extra_id_99>"
    # seqio's ids: a sentinel has its space in itself and is none without one.
    assert t5.encode("<extra_id_0> Hello <extra_id_1>.") == [32099, 8774, 32098, 5]
    assert t5.sentinel(1) not in t5.encode("Hello<extra_id_1>")
    assert t5.decode([8774, 32098]) == "Hello <extra_id_1>"


def test_ids_beyond_the_vocabulary_are_unknown(t5):
    assert t5.decode([8774, 32127]) == t5.decode([8774, 2])
    assert t5.piece(32127) == "<32127>"


def test_the_small_vocabulary_is_of_the_same_kind():
    mini = Vocabulary(ROOT / "tasks" / "mini_spiece.model")
    assert (mini.pieces, mini.size) == (8000, 8100)
    text = "The quick brown fox, and 17 others."
    assert mini.decode(mini.encode(text)) == text


def test_a_missing_or_damaged_file_is_one_clear_line(tmp_path):
    with pytest.raises(SpotError, match="found No such file"):
        Vocabulary(tmp_path / "none.model")
    path = tmp_path / "v.model"
    for content in (b"", b"no vocabulary", T5.read_bytes()[:100_001]):
        path.write_bytes(content)
        with pytest.raises(SpotError, match="found something else or a truncated file"):
            Vocabulary(path)


def test_half_a_surrogate_pair_is_refused_by_its_text(t5):
    with pytest.raises(SpotError, match=r"text 2 of 2 holds half a surrogate pair, '\\ud83d'"):
        t5.encode_all(["a", "b \ud83d"])
