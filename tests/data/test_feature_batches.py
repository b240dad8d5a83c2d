"""Batches of features: the order of tokens' batches, an exact place, and labels by their tokens."""

from pathlib import Path

import numpy as np
import pytest

from spot_jax.data.examples import Examples
from spot_jax.data.feature_batches import (
    FeatureBatches,
    LabelledFeatures,
    features_in_order,
    label_numbers,
)
from spot_jax.data.feature_cache import Features
from spot_jax.data.sources import Shuffled
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary

VOCABULARY = Path(__file__).parents[2] / "tasks" / "mini_spiece.model"


def numbered(count, longest=4):
    """Features that say which example they are of, in two shards."""
    lengths = 1 + np.arange(count) % longest
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.repeat(np.arange(count), lengths).astype(np.float16)[:, None, None]
    middle = count // 2
    split = [flat[: offsets[middle]], flat[offsets[middle] :]]
    features = Features(offsets, np.array([0, middle]), split)
    cut = (np.arange(count) % 5 == 0).astype(np.int32)
    return LabelledFeatures(features, np.arange(count, dtype=np.int32) % 3, cut)


def numbers(batch):
    return batch["features"][:, 0, 0, 0].astype(int)


def test_examples_come_in_the_order_of_batches_of_tokens():
    runs, seeds = [numbered(7), numbered(10)], [3, 4]
    batches = FeatureBatches(runs, seeds, 4)
    sources = [
        Shuffled(Examples.from_lists([([i], [1]) for i in range(len(run.labels))]), seed)
        for run, seed in zip(runs, seeds, strict=True)
    ]
    seen = []
    for _ in range(6):
        batch = next(batches)
        expected = [int(source.next()[0][0]) for source in sources for _ in range(4)]
        assert numbers(batch).tolist() == expected
        assert batch["label"].tolist() == [i % 3 for i in expected]
        assert batch["feature_lengths"].tolist() == [1 + i % 4 for i in expected]
        assert batch["features"].shape == (8, 4, 1, 1)
        seen += expected
    assert batches.examples == 48
    assert batches.truncated_inputs == sum(i % 5 == 0 for i in seen)


def test_the_place_is_exact():
    def fresh():
        return FeatureBatches([numbered(7), numbered(10)], [3, 4], 4)

    original = fresh()
    for _ in range(3):
        next(original)
    place, counts = original.state(), (original.examples, original.truncated_inputs)
    rest = [next(original) for _ in range(3)]
    resumed = fresh()
    resumed.restore(place)
    assert (resumed.examples, resumed.truncated_inputs) == counts
    for batch in rest:
        actual = next(resumed)
        assert all(np.array_equal(actual[name], array) for name, array in batch.items())
    with pytest.raises(SpotError, match="data places of 1 runs, found 2"):
        FeatureBatches([numbered(7)], [3], 4).restore(place)


def test_each_process_takes_its_rows():
    runs, seeds = [numbered(7), numbered(10)], [3, 4]
    whole = FeatureBatches(runs, seeds, 4)
    halves = [FeatureBatches(runs, seeds, 4, host_rows=slice(*s)) for s in [(0, 3), (3, 8)]]
    for _ in range(3):
        expected, parts = next(whole), [next(half) for half in halves]
        for name, array in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_in_order_with_rows_that_only_fill():
    batches = list(features_in_order(numbered(7), 3))
    valid = np.concatenate([batch["row_valid"] for batch in batches])
    indices = np.concatenate([numbers(batch) for batch in batches])
    assert valid.sum() == 7 and indices[valid].tolist() == list(range(7))
    here = [numbers(b)[b["row_valid"]] for b in features_in_order(numbered(7), 3, slice(1, 3))]
    assert np.concatenate(here).tolist() == [1, 2, 4, 5]


def test_a_target_outside_the_labels_is_named():
    vocabulary = Vocabulary(VOCABULARY)

    def target(text):
        return [*vocabulary.encode(text), 1]

    pairs = [([5, 1], target("good")), ([6, 1], target("bad")), ([7, 1], target("good"))]
    labels = ["bad", "good"]
    actual = label_numbers(Examples.from_lists(pairs), labels, vocabulary, "reviews train")
    assert actual.tolist() == [1, 0, 1]
    odd = Examples.from_lists([*pairs, ([5, 1], target("so so"))])
    with pytest.raises(SpotError, match=r"example 3 of reviews train: .*'so so' is none of the 2"):
        label_numbers(odd, labels, vocabulary, "reviews train")
