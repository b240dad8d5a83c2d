"""The losses of targets block by block, against those from the logits of all positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_text import CONFIG

from spot_jax.methods import token_losses
from spot_jax.methods.token_losses import target_losses
from spot_jax.t5.model import init_params
from spot_jax.t5.target import Target

ROWS, LENGTH = 5, 40


@pytest.fixture
def form(monkeypatch):
    """Return what chooses the form of a machine of so many CPUs."""

    def choose(devices):
        monkeypatch.setattr(token_losses, "target", lambda: Target("cpu", devices))

    return choose


@pytest.fixture(scope="module")
def params():
    return init_params(jax.random.key(0), CONFIG)


def case(real, states=None):
    """Return states, ids and weights of rows whose first targets are real."""
    key = jax.random.key(1)
    if states is None:
        states = jax.random.normal(key, (ROWS, LENGTH, CONFIG.emb_dim))
    targets = jax.random.randint(key, (ROWS, LENGTH), 1, CONFIG.vocab_size)
    weights = (jnp.arange(LENGTH)[None] < jnp.asarray(real)[:, None]).astype(jnp.float32)
    return states, targets, weights


def summed(params, states, targets, weights, smoothing):
    """Return the loss as training sums it, with targets of different weight, and the measures."""
    measures = target_losses(params, CONFIG, states, targets, weights, 0.01, smoothing)
    each = jnp.arange(1.0, 1.0 + targets.size).reshape(targets.shape) * weights
    return jnp.sum(measures[0] * each), [x * weights for x in measures]


REAL = {
    "few": [3, 0, 2, 1, 4],
    "all": [LENGTH] * ROWS,
    "none": [0] * ROWS,
    "some": [40, 7, 0, 9, 40],
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("real", list(REAL.values()), ids=list(REAL))
def test_blocks_have_the_losses_and_gradients_of_whole_logits(form, params, real, smoothing):
    states, targets, weights = case(real)

    def both(params, states):
        return summed(params, states, targets, weights, smoothing)

    results = []
    for devices in (8, 1):
        form(devices)
        # Of the states alone, as where the backbone is frozen; then of the head's matrix too.
        frozen = jax.jit(jax.value_and_grad(lambda x: both(params, x), has_aux=True))(states)
        tuned = jax.jit(jax.value_and_grad(both, (0, 1), has_aux=True))(params, states)
        results.append((both(params, states), frozen, tuned))
    whole, blocks = map(jax.tree.leaves, results)
    assert len(whole) == len(blocks) > 8
    for a, b in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * float(jnp.abs(a).max() + 1e-9))


def test_a_block_of_padding_is_not_computed(form, params):
    states, targets, weights = case(REAL["few"])
    marked = jnp.where(weights[..., None] > 0, states, jnp.nan)
    form(1)
    losses, _, _ = jax.jit(lambda x: target_losses(params, CONFIG, x, targets, weights, 0.0))(
        marked
    )
    assert np.isfinite(losses[weights > 0]).all()
    # The real targets fill a part of one block; the other blocks were left out.
    assert 0 < np.isnan(losses).sum() <= token_losses._BLOCK - sum(REAL["few"])


def test_logits_of_all_positions_are_nowhere(form, params):
    states, targets, weights = case(REAL["some"])
    positions, ids = targets.size, CONFIG.vocab_size

    def sizes(devices):
        form(devices)
        step = jax.jit(jax.grad(lambda x: summed(params, x, targets, weights, 0.0)[0]))
        text = step.lower(states).as_text()
        return f"{positions}x{ids}xf32" in text or f"{ROWS}x{LENGTH}x{ids}xf32" in text

    assert sizes(8)
    assert not sizes(1)


@pytest.mark.parametrize("leaf", ["kernel_scale", "input_scale", "low_rank_in"])
def test_a_head_that_a_method_changes_is_not_taken_apart(form, params, leaf):
    form(1)
    head = {**params["decoder"]["logits_dense"], leaf: jnp.ones(1)}
    changed = {**params, "decoder": {**params["decoder"], "logits_dense": head}}
    assert token_losses._kernel(params, CONFIG) is not None
    assert token_losses._kernel(changed, CONFIG) is None
    tied = dataclasses.replace(CONFIG, logits_via_embedding=True)
    assert token_losses._kernel(params, tied) is None
