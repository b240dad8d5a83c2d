"""Caches of features: exact, ragged, and never used when they are not what is asked for."""

import json

import numpy as np
import pytest
from data_cases import BACKBONE, Table, feature_examples

from spot_jax.data import feature_cache
from spot_jax.data.feature_cache import FeatureStore
from spot_jax.errors import SpotError

LENGTH = 6


def store(directory, encoder=None, **options):
    notes = []
    settings = {"shard_bytes": 2048, "notify": notes.append, **options}
    return FeatureStore(directory, encoder or Table(), **settings), notes


def shards(directory):
    return sorted(directory.rglob("shard-*.bin"))


def whole(features):
    return np.concatenate([features[i] for i in range(len(features))])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cached_features_are_the_encoders_rounded(dtype, tmp_path):
    text = feature_examples()
    cache, notes = store(tmp_path, dtype=dtype)
    cached = cache.of("task", "train", text, LENGTH)
    assert len(shards(tmp_path)) > 2 and not notes
    for i, (inputs, _) in enumerate(text):
        expected = Table()(inputs[None, :LENGTH])[0].astype(feature_cache.DTYPES[dtype])
        np.testing.assert_array_equal(cached[i], expected)
    # Nothing is stored but tokens, and the second reading encodes nothing.
    tokens = int(np.minimum(np.diff(text.inputs_offsets), LENGTH).sum())
    assert sum(path.stat().st_size for path in shards(tmp_path)) == tokens * 2 * 3 * 2
    again, _ = store(tmp_path, dtype=dtype, rebuild=False)
    np.testing.assert_array_equal(whole(again.of("task", "train", text, LENGTH)), whole(cached))
    assert again.encoder.rows == 0 and isinstance(cached.shards[0], np.memmap)
    features, lengths = cached.padded([3, 0], 8)
    assert features.shape == (2, 8, 2, 3) and lengths.tolist() == [len(cached[3]), len(cached[0])]
    np.testing.assert_array_equal(features[0, : lengths[0]], cached[3])
    assert not features[0, lengths[0] :].any()


def test_a_killed_build_goes_on_where_it_was(tmp_path):
    text = feature_examples()

    class Killed(Exception):
        pass

    class Dying(Table):
        def __call__(self, tokens):
            if self.rows > 100:
                raise Killed
            return super().__call__(tokens)

    with pytest.raises(Killed):
        store(tmp_path, Dying())[0].of("task", "train", text, LENGTH)
    times = {path.name: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert times
    cache, notes = store(tmp_path)
    cached = cache.of("task", "train", text, LENGTH)
    assert 0 < cache.encoder.rows < len(text) and not notes
    assert all(p.stat().st_mtime_ns == times[p.name] for p in shards(tmp_path) if p.name in times)
    fresh = store(tmp_path / "fresh")[0].of("task", "train", text, LENGTH)
    np.testing.assert_array_equal(whole(cached), whole(fresh))


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def altered(path):
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("damage", "says"), [(cut, "bytes where"), (altered, "altered")])
def test_a_damaged_shard_is_found_and_made_again(damage, says, tmp_path):
    text = feature_examples()
    before = whole(store(tmp_path)[0].of("task", "train", text, LENGTH)).copy()
    damage(shards(tmp_path)[1])
    refusing, _ = store(tmp_path, rebuild=False)
    with pytest.raises(SpotError, match=rf"shard-00001.bin .*{says}") as caught:
        refusing.of("task", "train", text, LENGTH)
    assert "\n" not in str(caught.value)
    cache, notes = store(tmp_path)
    np.testing.assert_array_equal(whole(cache.of("task", "train", text, LENGTH)), before)
    assert 0 < cache.encoder.rows < len(text)
    assert len(notes) == 1 and says in notes[0]


def test_features_of_other_text_are_made_again(tmp_path):
    store(tmp_path)[0].of("task", "train", feature_examples(0), LENGTH)
    other = feature_examples(1)
    with pytest.raises(SpotError, match="other text: the task's data has changed"):
        store(tmp_path, rebuild=False)[0].of("task", "train", other, LENGTH)
    cache, notes = store(tmp_path)
    cached = cache.of("task", "train", other, LENGTH)
    assert cache.encoder.rows == len(other) and "data has changed" in notes[0]
    expected = Table()(other[0][0][None, :LENGTH])[0].astype(np.float16)
    np.testing.assert_array_equal(cached[0], expected)


def test_features_of_another_backbone_are_never_used(tmp_path):
    text = feature_examples(count=20)
    theirs = store(tmp_path)[0].of("task", "train", text, LENGTH)
    other = Table("b" * 64)
    refusing, _ = store(tmp_path, other, rebuild=False)
    with pytest.raises(SpotError, match=f"backbone {'b' * 12}.* found those of {'a' * 12}"):
        refusing.of("task", "train", text, LENGTH)
    store(tmp_path, other)[0].of("task", "train", text, LENGTH)
    assert other.rows == len(text)
    assert len(list(tmp_path.glob("*/features.json"))) == 2
    # A copy in the other's place is found as well.
    of_other, of_ours = sorted(
        tmp_path.glob("*/features.json"), key=lambda p: BACKBONE in p.read_text()
    )
    of_other.write_text(of_ours.read_text())
    with pytest.raises(SpotError, match="encoder = .* is expected"):
        refusing.of("task", "train", text, LENGTH)
    assert len(theirs) == len(text)


def test_each_choice_has_a_cache_of_its_own(tmp_path):
    text = feature_examples(count=20)
    choices = [
        (Table(), "task", "train", text, LENGTH, "float16"),
        (Table(layers=1), "task", "train", text, LENGTH, "float16"),
        (Table(), "other", "train", text, LENGTH, "float16"),
        (Table(), "task", "validation", text, LENGTH, "float16"),
        (Table(), "task", "train", text.first(9), LENGTH, "float16"),
        (Table(), "task", "train", text, LENGTH - 1, "float16"),
        (Table(), "task", "train", text, LENGTH, "bfloat16"),
    ]
    for encoder, *what, dtype in choices:
        cache, notes = store(tmp_path, encoder, dtype=dtype)
        cache.of(*what)
        assert encoder.rows == len(what[2]) and not notes
    assert len({json.dumps(p.name) for p in tmp_path.iterdir()}) == len(choices)


def test_what_float16_cannot_hold_is_refused(tmp_path):
    class Large(Table):
        def __call__(self, tokens):
            return super().__call__(tokens) * 1e5

    text = feature_examples(count=5)
    with (
        np.errstate(over="ignore"),
        pytest.raises(SpotError, match="not finite in float16; use bfloat16"),
    ):
        store(tmp_path, Large())[0].of("task", "train", text, LENGTH)
    assert store(tmp_path, Large(), dtype="bfloat16")[0].of("task", "train", text, LENGTH)
    with pytest.raises(SpotError, match="float16 or bfloat16"):
        store(tmp_path, dtype="int8")


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(SpotError, match="cannot write features") as caught:
        store(tmp_path / "file")[0].of("task", "train", feature_examples(count=3), LENGTH)
    assert "\n" not in str(caught.value)
