import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_jax.data.batches import Batches, BatchShape, evaluation_batches, truncated
from spot_jax.data.examples import Example, Examples
from spot_jax.data.packing import FirstFit
from spot_jax.data.sources import Mixture, Shuffled, Stream
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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 40, 700]), st.sampled_from([9, 70]))
def test_rows_are_those_of_first_fit_by_its_definition(seed, rows, targets_length):
    rng = np.random.default_rng(seed)
    inputs = rng.choice([3, 17, 18, 60, 90, 100], 8 * rows + 50).tolist()
    targets = rng.integers(0, 10, len(inputs)).tolist()
    left = np.tile([[100], [targets_length]], rows)
    expected = []
    for sizes in zip(inputs, targets, strict=True):
        fits = (left[0] >= sizes[0]) & (left[1] >= sizes[1])
        if not fits.any():
            break
        expected.append(int(fits.argmax()))
        left[:, expected[-1]] -= sizes
    fit = FirstFit(rows, 100, targets_length)
    # In two parts, as a batch asks for them.
    part = min(len(inputs) // 3, len(expected))
    assert fit.place(inputs[:part], targets[:part]) == expected[:part]
    assert fit.place(inputs[part:], targets[part:]) == expected[part:]


@pytest.mark.parametrize("keeps_eos", [False, True])
def test_examples_of_several_tables_are_cut_and_ordered_as_one_by_one(keeps_eos):
    rng = np.random.default_rng(0)

    def table(first):
        pairs = [
            Example(
                np.array([first + i, *rng.integers(2, 9, rng.integers(0, 14)), 1], np.int32),
                np.array([first + i, *rng.integers(2, 9, rng.integers(0, 6)), 1], np.int32),
                keeps_eos,
            )
            for i in range(23)
        ]
        return Examples.from_lists(pairs)

    parts = {"a": table(100), "b": table(200)}

    def source():
        shuffled = {name: Shuffled(part, 1) for name, part in parts.items()}
        return Mixture(shuffled, {"a": 2.0, "b": 1.0}, 3)

    every = source()
    singly = Stream(lambda: (every.next() for _ in itertools.count()))
    for shape in (BatchShape(5, 8, 4), BatchShape(5, 8, 4, pack=True, packed_inputs_length=30)):
        every.restore(source().state())
        batches = Batches(source(), shape, write=VirtualTokens(V, 2))
        expected = Batches(singly, shape, write=VirtualTokens(V, 2))
        for _ in range(9):
            batch, other = next(batches), next(expected)
            assert all((batch[name] == other[name]).all() for name in other)
        assert batches.truncated_inputs == expected.truncated_inputs > 0
        singly.restore({"count": 0})
