"""Optimizers over stacked layers: what they do is what they do with the layers apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.model import stack_layers, unstack_layers
from spot_jax.training.layerwise import ranks
from spot_jax.training.optimizers import Adafactor, AdamW, build

CONFIG = T5Config(
    vocab_size=150,
    emb_dim=128,
    num_heads=2,
    head_dim=64,
    mlp_dim=130,
    num_encoder_layers=3,
    num_decoder_layers=2,
    dropout_rate=0.0,
)
OPTIMIZERS = [
    Adafactor(0.01, weight_decay=1e-3, factored=True, parameter_scale=True),
    Adafactor(0.3, clipping_threshold=0.5),
    AdamW(0.01, weight_decay=0.1, parameter_scale=True),
]


def drawn(seed):
    """A tree whose layers differ in size by powers of ten, so that no mean of them is right."""
    rng, flat = np.random.default_rng(seed), {}
    for i, (name, shape) in enumerate(parameter_shapes(CONFIG).items()):
        scale = 10.0 ** (i % 4 - 2)
        flat[name] = jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)
    return traverse_util.unflatten_dict(flat, sep="/")


def after(optimizer, params, gradients, wrap=lambda tree: tree, count=1, shared=True):
    """What parameters are after one step for each gradient."""
    tx = build(optimizer, count, shared)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    params = wrap(params)
    state = tx.init(params)
    for grads in gradients:
        params, state = step(params, state, wrap(grads))
    return params


@pytest.mark.parametrize(
    "optimizer",
    [OPTIMIZERS[0], *(pytest.param(other, marks=pytest.mark.slow) for other in OPTIMIZERS[1:])],
)
def test_a_step_of_stacked_layers_is_that_of_layers_apart(optimizer):
    params, gradients = drawn(0), [drawn(1), drawn(2)]
    apart = after(optimizer, params, gradients)
    stacked = after(optimizer, params, gradients, lambda tree: stack_layers(tree, CONFIG))
    for (path, a), b in zip(
        jax.tree.leaves_with_path(apart),
        jax.tree.leaves(unstack_layers(stacked, CONFIG)),
        strict=True,
    ):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6, err_msg=jax.tree_util.keystr(path))
        assert np.abs(np.asarray(a)).max() > 0


def test_of_one_prompt_and_of_several_the_same_are_matrices():
    """Scales of a stack are vectors, whatever axes stand before them."""
    rng = np.random.default_rng(0)

    def tree(count):
        leaf = rng.normal(size=(1, 3, 5)).astype(np.float32)
        return {"encoder": {"layers": {"key": {"scale": jnp.asarray(leaf.repeat(count, 0))}}}}

    optimizer = dataclasses.replace(OPTIMIZERS[2], weight_decay=10.0)
    params, grads = tree(1), tree(1)
    alone = after(optimizer, params, [grads], count=1, shared=False)
    several = after(
        optimizer,
        params,
        [grads],
        lambda tree: jax.tree.map(lambda x: jnp.repeat(x, 2, 0), tree),
        count=2,
        shared=False,
    )
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(several), strict=True):
        np.testing.assert_allclose(a[0], b[1], rtol=1e-6)
    assert jax.tree.leaves(ranks(jax.tree.map(lambda x: x[0], params))) == [1]
