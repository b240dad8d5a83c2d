"""Similarities against the paper's sums, written out."""

import numpy as np
import pytest
from shape_checking import wrong_shapes

from spot_jax.errors import SpotError
from spot_jax.library import similarity


def _prompts(seed=0, p=7, q=5, d=24):
    draw = np.random.default_rng(seed)
    return draw.normal(0.3, 1, (p, d)).astype("f"), draw.normal(-0.1, 2, (q, d)).astype("f")


def _cosine(x, y):
    x, y = np.float64(x), np.float64(y)
    return x @ y / np.sqrt((x @ x) * (y @ y))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e18])
@pytest.mark.parametrize("seed", range(5))
def test_per_token_is_the_double_sum(seed, scale):
    a, b = _prompts(seed)
    a = a * np.float32(scale)
    double_sum = np.mean([[_cosine(x, y) for y in b] for x in a])
    assert similarity.per_token(a, b) == pytest.approx(double_sum, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_average_tokens_is_the_cosine_of_the_means(seed):
    a, b = _prompts(seed)
    expected = _cosine(np.float64(a).mean(0), np.float64(b).mean(0))
    assert similarity.average_tokens(a, b) == pytest.approx(expected, abs=1e-12)


def test_the_metrics_differ_where_tokens_differ_in_length():
    a = np.array([[100.0, 0], [0, 1]], "f")
    b = np.array([[1.0, 0]], "f")
    assert similarity.average_tokens(a, b) == pytest.approx(1, abs=1e-4)
    assert similarity.per_token(a, b) == pytest.approx(0.5)


def test_scaling_a_token_changes_nothing_per_token():
    a, b = _prompts()
    scaled = a * np.arange(1, len(a) + 1, dtype="f")[:, None]
    assert similarity.per_token(scaled, b) == pytest.approx(similarity.per_token(a, b), abs=1e-7)


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_matrix_of_signatures_is_every_similarity(metric):
    a = [_prompts(seed)[0] for seed in range(3)]
    b = [_prompts(seed)[1] for seed in range(4)]
    actual = similarity.matrix(
        np.stack([similarity.signature(x, metric) for x in a]),
        np.stack([similarity.signature(x, metric) for x in b]),
    )
    measure = getattr(similarity, metric)
    np.testing.assert_allclose(actual, [[measure(x, y) for y in b] for x in a], atol=1e-12)


def test_a_prompt_is_as_like_itself_as_can_be():
    a, _ = _prompts()
    assert similarity.average_tokens(a, a) == pytest.approx(1, abs=1e-12)
    assert similarity.average_tokens(a, a) <= 1
    row = a[:1].repeat(3, axis=0)
    assert similarity.per_token(row, row) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_a_zero_prompt_is_named(metric):
    with pytest.raises(SpotError, match="prompt of spam.*all zero"):
        similarity.signature(np.zeros((3, 4), "f"), metric, name="the prompt of spam")


def test_a_zero_token_and_a_zero_mean_each_stop_their_metric_only():
    zero_token = np.array([[1, 2], [0, 0]], "f")
    with pytest.raises(SpotError, match="token 1 is all zero"):
        similarity.signature(zero_token, "per_token")
    similarity.signature(zero_token, "average_tokens")
    zero_mean = np.array([[1, 2], [-1, -2]], "f")
    with pytest.raises(SpotError, match="average token is all zero"):
        similarity.signature(zero_mean, "average_tokens")
    similarity.signature(zero_mean, "per_token")


@wrong_shapes
def test_a_prompt_of_another_shape_is_refused():
    with pytest.raises(SpotError, match=r"expected \[tokens, width\], found shape \[3\]"):
        similarity.signature(np.ones(3))
    with pytest.raises(SpotError, match="one width"):
        similarity.per_token(np.ones((2, 3)), np.ones((2, 4)))


def test_what_cannot_be_compared():
    with pytest.raises(SpotError, match="NaN"):
        similarity.signature(np.full((2, 2), np.nan))
    with pytest.raises(SpotError, match="no metric 'cosine'; choose one of per_token"):
        similarity.signature(np.ones((2, 2)), "cosine")
