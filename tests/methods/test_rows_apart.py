"""Rows of a prompt encoder: alike by PyTorch's defaults, apart and of embeddings' size here."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.p_tuning import ENCODER, PTuning
from spot_jax.methods.prompt_encoder import PromptEncoder

P, WIDTH = 20, 256
TABLE = 0.7 * jax.random.normal(jax.random.key(7), (50, WIDTH))
BACKBONE = types.SimpleNamespace(
    params={"token_embedder": {"embedding": TABLE}}, config=types.SimpleNamespace(emb_dim=WIDTH)
)


def effective_rank(rows):
    """e to the entropy of the squared singular values' shares: 1 for rows that are all alike."""
    squares = np.linalg.svd(np.asarray(rows), compute_uv=False) ** 2
    shares = squares / squares.sum()
    return np.exp(-np.sum(shares * np.log(shares + 1e-12)))


def rows_of(kind, **settings):
    method = PTuning(length=P, encoder=kind, **settings)
    tree = method.start(jax.random.key(0), BACKBONE, Task())[ENCODER]
    return np.asarray(jax.jit(PromptEncoder(kind, P, WIDTH).__call__)(tree))


@pytest.mark.parametrize("kind", ["lstm", "lstm_wide", "mlp"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_rows_begin_apart_and_of_the_embeddings_size(kind, scale):
    rows = rows_of(kind, row_scale=scale)
    assert effective_rank(rows) > 5
    size = scale * np.sqrt(np.mean(np.square(TABLE)))
    assert np.sqrt(np.mean(np.square(rows))) == pytest.approx(size, rel=1e-3)
    np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=1e-4)


def test_without_a_scale_they_are_the_authors_and_nearly_alike():
    rows = rows_of("lstm", row_scale=None)
    assert effective_rank(rows) < 2 and np.sqrt(np.mean(np.square(rows))) < 0.2
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(SpotError, match="row_scale is .*; give a number above 0"):
            PTuning(length=P, row_scale=scale)


def test_embeddings_as_they_are_stay_as_they_are():
    drawn = rows_of("identity"), rows_of("identity", row_scale=None)
    np.testing.assert_array_equal(*drawn)
    assert jnp.isfinite(drawn[0]).all()
