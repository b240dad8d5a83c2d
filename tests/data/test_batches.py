import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_jax.data.batches import Batches, BatchShape, evaluation_batches, truncated
from spot_jax.data.examples import Examples
from spot_jax.data.sources import Shuffled, Stream
from spot_jax.data.virtual_tokens import VirtualTokens
from spot_jax.errors import SpotError

V = 1000
lengths = st.lists(st.tuples(st.integers(1, 14), st.integers(1, 6)), min_size=1, max_size=40)


def examples_of(sizes):
    """Examples whose first ids name them: inputs [10 + i, 2, ...], targets [10 + i, 3, ...]."""
    return Examples.from_lists(
        [([10 + i] + [2] * (a - 1), [10 + i] + [3] * (b - 1)) for i, (a, b) in enumerate(sizes)]
    )


def in_order(examples):
    return Stream(lambda: itertools.cycle(iter(examples)))


def segments(batch):
    """The (inputs, targets) of a packed batch, by row and segment."""
    pairs = []
    for row in range(len(batch["encoder_input_tokens"])):
        ids, others = batch["encoder_segment_ids"][row], batch["decoder_segment_ids"][row]
        for segment in range(1, ids.max() + 1):
            inputs_at, targets_at = (
                np.flatnonzero(ids == segment),
                np.flatnonzero(others == segment),
            )
            assert (np.diff(inputs_at) == 1).all() and (np.diff(targets_at) == 1).all()
            assert (batch["encoder_positions"][row, inputs_at] == np.arange(len(inputs_at))).all()
            assert (batch["decoder_positions"][row, targets_at] == np.arange(len(targets_at))).all()
            targets = batch["decoder_target_tokens"][row, targets_at]
            moved = np.concatenate([[0], targets[:-1]])
            assert (batch["decoder_input_tokens"][row, targets_at] == moved).all()
            pairs.append((batch["encoder_input_tokens"][row, inputs_at], targets))
        for side, segment_ids in (("encoder", ids), ("decoder", others)):
            unused = segment_ids == 0
            assert not batch[f"{side}_positions"][row, unused].any()
            assert not batch[f"{side}_input_tokens"][row, unused].any()
        assert (batch["decoder_loss_weights"][row] == (others > 0)).all()
    return pairs


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 4), st.integers(0, 5))
def test_packing_keeps_every_example_once_and_in_order(sizes, rows, room):
    shape = BatchShape(rows, 10, 4, pack=True, packed_inputs_length=24, packed_targets_length=9)
    write = VirtualTokens(V, room) if room else None
    examples = examples_of(sizes)
    batches = Batches(in_order(examples), shape, write=write)
    seen, cut = [], 0
    while len(seen) < len(sizes):
        batch = next(batches)
        pairs = segments(batch)
        cut += sum(sizes[(len(seen) + i) % len(sizes)][0] > 10 for i in range(len(pairs)))
        # First fit spreads examples over the rows; none is left out or taken from later on.
        expected = [10 + (len(seen) + i) % len(sizes) for i in range(len(pairs))]
        assert sorted(int(targets[0]) for _, targets in pairs) == sorted(expected)
        for inputs, targets in pairs:
            a, b = sizes[targets[0] - 10]
            assert inputs[:room].tolist() == list(range(V, V + room))
            assert inputs[room:].tolist() == [targets[0]] + [2] * (min(a, 10) - 1)
            assert len(targets) == min(b, 4)
        seen.extend(expected)
    assert (batches.examples, batches.truncated_inputs) == (len(seen), cut)


@settings(max_examples=25, deadline=None)
@given(lengths, st.booleans(), st.integers(0, 5))
def test_restore_gives_the_batches_that_followed(sizes, pack, before):
    def make():
        packed = {"packed_inputs_length": 20, "packed_targets_length": 9} if pack else {}
        shape = BatchShape(3, 10, 4, pack=pack, **packed)
        return Batches(Shuffled(examples_of(sizes), 0), shape, write=VirtualTokens(V, 2))

    original, resumed = make(), make()
    for _ in range(before):
        next(original)
    state = json.loads(json.dumps(original.state()))
    next(resumed)
    resumed.restore(state)
    assert resumed.state() == state
    for _ in range(4):
        expected, actual = next(original), next(resumed)
        assert all((expected[name] == actual[name]).all() for name in expected)
    assert original.state() == resumed.state()


def test_padded_rows_by_hand():
    examples = Examples.from_lists([([5, 6, 7, 1], [8, 9, 1]), ([4, 1], [3, 1])])
    shape = BatchShape(2, 3, 2)
    batches = Batches(in_order(examples), shape, write=VirtualTokens(V, 2, index=3))
    batch = next(batches)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "encoder_input_tokens": [[1006, 1007, 5, 6, 7], [1006, 1007, 4, 1, 0]],
        "decoder_input_tokens": [[0, 8], [0, 3]],
        "decoder_target_tokens": [[8, 9], [3, 1]],
        "decoder_loss_weights": [[1.0, 1.0], [1.0, 1.0]],
    }
    assert {str(array.dtype) for array in batch.values()} == {"int32", "float32"}
    assert (batches.examples, batches.truncated_inputs, batches.truncated_targets) == (2, 1, 1)
    assert truncated(examples, shape) == (1, 1)


def test_a_packed_batch_closes_when_the_next_example_fits_nowhere():
    sizes = [(6, 1), (3, 1), (4, 1), (2, 1), (1, 1)]  # rows of 8: [6, 2], [3, 4, 1]
    batches = Batches(in_order(examples_of(sizes)), BatchShape(2, 8, 8, pack=True))
    rows = next(batches)["encoder_segment_ids"].tolist()
    assert rows == [[1] * 6 + [2] * 2, [1] * 3 + [2] * 4 + [3]]
    assert next(batches)["decoder_target_tokens"][0, 0] == 10


@pytest.mark.parametrize("pack", [False, True])
def test_hosts_share_one_plan(pack):
    examples = examples_of([(3, 2), (9, 1), (5, 4), (2, 2), (8, 3), (4, 1), (7, 2)])

    def batches(rows):
        shape = BatchShape(4, 10, 4, pack=pack)
        return Batches(Shuffled(examples, 0), shape, write=VirtualTokens(V, 2), host_rows=rows)

    whole, first, second = batches(None), batches(slice(0, 2)), batches(slice(2, 4))
    for _ in range(5):
        expected, parts = next(whole), (next(first), next(second))
        for name in expected:
            assert (expected[name] == np.concatenate([part[name] for part in parts])).all()
    assert whole.state() == first.state() == second.state()


def test_evaluation_holds_every_example_once_and_marks_what_only_fills():
    examples = examples_of([(3, 2), (9, 1), (5, 4), (2, 2), (8, 3)])
    batches = list(evaluation_batches(examples, BatchShape(2, 10, 4), VirtualTokens(V, 2)))
    first = np.concatenate([batch["decoder_target_tokens"][:, 0] for batch in batches])
    valid = np.concatenate([batch["row_valid"] for batch in batches])
    number = np.concatenate([batch["row_number"] for batch in batches])
    assert first[valid].tolist() == (10 + number[valid]).tolist()
    assert sorted(number[valid]) == [0, 1, 2, 3, 4]
    assert valid.tolist() == [True] * 5 + [False]
    assert not batches[-1]["encoder_input_tokens"][1].any()
    assert not batches[-1]["decoder_loss_weights"][1].any()


def test_evaluation_pads_short_texts_less():
    lengths = [(2, 1)] * 11 + [(30, 2)] * 5 + [(15, 1), (40, 3)] + [(13, 4)] * 9
    examples, prompt = examples_of(lengths), VirtualTokens(V, 2)
    batches = list(evaluation_batches(examples, BatchShape(2, 40, 4), prompt))
    # Five batches of texts of up to 10 tokens, five of up to 20; the three of up to 30 are too few
    # for a width of their own and share that of the longest.
    widths = [batch["encoder_input_tokens"].shape[1] - 2 for batch in batches]
    assert widths == [10] * 5 + [20] * 5 + [40] * 4
    for batch in batches:
        for row, number in enumerate(batch["row_number"][batch["row_valid"]]):
            tokens = batch["encoder_input_tokens"][row]
            assert (tokens > 0).sum() == 2 + lengths[number][0]
            assert (batch["decoder_target_tokens"][row] > 0).sum() == lengths[number][1]


@pytest.mark.parametrize("side", ["inputs", "targets"])
def test_ids_of_another_vocabulary_are_refused(side):
    pair = ([V, 1], [5, 1]) if side == "inputs" else ([5, 1], [V, 1])
    batches = Batches(
        in_order(Examples.from_lists([pair])), BatchShape(1, 4, 4), write=VirtualTokens(V, 2)
    )
    with pytest.raises(SpotError, match="ids below 1000, .* found 1000"):
        next(batches)


def test_shapes_that_cannot_be_are_refused():
    for rows in (0, -4, 3_000_000_000):
        with pytest.raises(SpotError, match="a batch of 1 to 1,000,000 rows"):
            BatchShape(rows, 4, 4)
    with pytest.raises(SpotError, match="at least 1"):
        BatchShape(1, 4, 0)
    with pytest.raises(SpotError, match="only when packing"):
        BatchShape(1, 4, 4, packed_inputs_length=8)
    with pytest.raises(SpotError, match="longer than the prompt's 8"):
        Batches(
            in_order(examples_of([(1, 1)])),
            BatchShape(1, 4, 4, pack=True, packed_inputs_length=8),
            write=VirtualTokens(V, 8),
        )
