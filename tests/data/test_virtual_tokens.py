"""Virtual tokens at a template's places: what is cut, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_jax.data.batches import BatchShape, truncated
from spot_jax.data.examples import Examples
from spot_jax.data.virtual_tokens import TemplateTokens, VirtualTokens, input_writer
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary

V, PLACE, CUT = 100, 90, 91
VOCABULARY = Path(__file__).parents[2] / "tasks" / "mini_spiece.model"


def writer(length, index=0):
    return TemplateTokens(V, length, index, PLACE, CUT)


def ids(*parts):
    return np.array([x for part in parts for x in part], np.int32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 4), st.integers(0, 20), st.integers(0, 4), st.integers(1, 3), st.integers(4, 30)
)
def test_only_the_marked_field_is_cut(before, field, after, places, length):
    first, cut, last = [11] * before, list(range(20, 20 + field)), [12] * after
    inputs = ids([PLACE] * places, first, [CUT], cut, [CUT], last, [PLACE], [1])
    rest = before + after + 1
    write = writer(places + 1, 2)
    assert write.text_length(inputs) == rest + field
    if rest + field > length and rest >= length:
        with pytest.raises(SpotError, match=rf"expected less than {length} .* found {rest};"):
            write.write(inputs, length)
        return
    kept = cut[: length - rest]
    virtual = list(range(V + 2 * (places + 1), V + 3 * (places + 1)))
    expected = ids(virtual[:places], first, kept, last, virtual[places:], [1])
    np.testing.assert_array_equal(write.write(inputs, length), expected)
    assert len(expected) <= length + write.room
    examples = Examples.from_lists([(inputs, [1])])
    assert truncated(examples, BatchShape(1, length, 1), write)[0] == (rest + field > length)


def test_a_text_without_marks_is_cut_at_its_end_as_long_as_its_places_stay():
    np.testing.assert_array_equal(writer(1).write(ids([5, PLACE, 6, 7, 8]), 2), [5, V, 6])
    with pytest.raises(SpotError, match="with 1 places .* found 0"):
        writer(1).write(ids([5, 6, 7, 8, PLACE]), 2)
    np.testing.assert_array_equal(VirtualTokens(V, 2).write(ids([5, 6, 7]), 2), [V, V + 1, 5, 6])


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ([5, 1], "with 2 places .* found 0; give the task a template"),
        ([PLACE, 5, PLACE, PLACE, 1], "with 2 places .* found 3"),
        ([CUT, 5, PLACE, PLACE, 1], "before and after the field .* found it 1 times"),
        ([PLACE, PLACE, V], "ids below 100, .* found 100"),
    ],
)
def test_texts_that_do_not_fit_are_refused(inputs, match):
    with pytest.raises(SpotError, match=match) as caught:
        writer(2).write(ids(inputs), 4)
    assert "\n" not in str(caught.value)


def test_all_examples_are_checked_at_once():
    good = ids([CUT], [5] * 9, [CUT, 6, PLACE, 1])
    bad = ids([CUT], [5] * 9, [CUT], [6] * 4, [PLACE, 1])
    writer(1).check_examples(Examples.from_lists([(good, [1])] * 3), 5)
    mixed = Examples.from_lists([(good, [1]), (bad, [1]), (good, [1])])
    with pytest.raises(SpotError, match="in 1 of 3 texts: expected less than 5 .* found 5; raise"):
        writer(1).check_examples(mixed, 5)
    with pytest.raises(SpotError, match="with 2 places"):
        writer(2).check_examples(mixed, 50)


def test_the_sentinels_are_the_vocabularys():
    vocabulary = Vocabulary(VOCABULARY)
    write = input_writer(8192, 2, 0, "in_template", vocabulary)
    text = "<extra_id_98> a few words <extra_id_98> and <extra_id_99> more <extra_id_99>."
    expected = vocabulary.encode("a few words and more.")
    tokens = write.write(np.asarray(vocabulary.encode(text), np.int32), 50).tolist()
    assert [x for x in tokens if x < 8192] == expected
    assert [x for x in tokens if x >= 8192] == [8192, 8193]
    with pytest.raises(SpotError, match="need the backbone's vocabulary"):
        input_writer(8192, 2, 0, "in_template")
    with pytest.raises(SpotError, match="before or in_template, found 'behind'"):
        input_writer(8192, 2, 0, "behind", vocabulary)
