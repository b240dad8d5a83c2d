import numpy as np
import pytest

from spot_jax.data.examples import Examples
from spot_jax.errors import SpotError

PAIRS = [([3, 4, 5, 1], [7, 1]), ([], [1]), ([9, 1], [8, 8, 1])]


def as_lists(examples):
    return [(inputs.tolist(), targets.tolist()) for inputs, targets in examples]


def test_saved_and_loaded_examples_are_the_ones_given(tmp_path):
    path = Examples.from_lists(PAIRS, task="t").save(tmp_path / "deep" / "e.npz")
    loaded = Examples.load(path)
    assert as_lists(loaded) == PAIRS
    assert loaded.task == "t"
    assert loaded.longest() == (4, 3)
    assert as_lists(loaded.first(2)) == PAIRS[:2]
    assert list(path.parent.iterdir()) == [path]


def test_an_index_outside_is_refused():
    with pytest.raises(IndexError):
        Examples.from_lists(PAIRS)[3]


def test_no_examples_is_an_error():
    with pytest.raises(SpotError, match="at least one example in t, found none"):
        Examples.from_lists([], task="t")


def test_a_missing_or_damaged_file_is_an_error(tmp_path):
    with pytest.raises(SpotError, match="found no file"):
        Examples.load(tmp_path / "none.npz")
    path = Examples.from_lists(PAIRS).save(tmp_path / "e.npz")
    whole = path.read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(SpotError, match="found a damaged file"):
            Examples.load(path)
    np.savez(path, inputs=np.zeros(3))
    with pytest.raises(SpotError, match="found no array inputs_offsets"):
        Examples.load(path)


def test_offsets_that_do_not_fit_are_an_error(tmp_path):
    good = Examples.from_lists(PAIRS)
    for offsets in ([0, 4, 4, 7], [0, 5, 4, 6], [1, 4, 4, 6]):
        bad = Examples(good.inputs, np.array(offsets), good.targets, good.targets_offsets)
        with pytest.raises(SpotError, match="offsets that do not fit"):
            Examples.load(bad.save(tmp_path / "e.npz"))


def test_what_grows_beyond_what_examples_do_is_refused_by_its_numbers(tmp_path):
    import numpy as np

    zeros = np.zeros(17_000_000, np.int32)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, inputs=zeros)
    with pytest.raises(SpotError, match=r"inputs.npy grows from [\d,]+ to 68,000,128 bytes"):
        Examples.load(path)


def test_targets_that_are_all_empty_are_refused(tmp_path):
    Examples.from_lists([([3, 1], []), ([4, 1], [])]).save(tmp_path / "a.npz")
    with pytest.raises(SpotError, match="targets that are all empty"):
        Examples.load(tmp_path / "a.npz")


def test_ids_beyond_the_embedding_are_refused():
    examples = Examples.from_lists([([3, 1], [64, 1])])
    examples.check_ids(65, "task")
    with pytest.raises(SpotError, match="^task: expected token ids below 64, .* found 64"):
        examples.check_ids(64, "task")
