"""The pieces that a prompt's rows are nearest to: cosines by plain loops."""

import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.library.nearest_words import nearest_words


def test_they_are_the_largest_cosines_in_order():
    rng = np.random.default_rng(0)
    rows, table = rng.normal(size=(4, 6)), rng.normal(size=(20, 6))
    near = nearest_words(rows, table, 3)
    for row, ids, cosines in zip(rows, near.ids, near.cosines, strict=True):
        every = [row @ v / (np.linalg.norm(row) * np.linalg.norm(v)) for v in table]
        assert ids.tolist() == sorted(range(20), key=lambda i: -every[i])[:3]
        np.testing.assert_allclose(cosines, sorted(every, reverse=True)[:3], rtol=1e-12)
    # Lengths say nothing, and a row of zeros is near to nothing.
    scaled = nearest_words(rows * 7, table * np.arange(1, 21)[:, None], 3)
    np.testing.assert_array_equal(scaled.ids, near.ids)
    assert nearest_words(np.zeros((1, 6)), table, 20).cosines.max() == 0


def test_what_cannot_be_compared_is_one_line():
    rows, table = np.ones((2, 6)), np.ones((9, 4))
    with pytest.raises(SpotError, match=r"expected rows of width 4, found \[2, 6\]"):
        nearest_words(rows, table)
    for k in (0, 10):
        with pytest.raises(SpotError, match="top_k"):
            nearest_words(np.ones((2, 4)), table, k)
