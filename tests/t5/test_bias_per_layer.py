"""A relative position bias for each layer, as umT5 has it, in every way of running the model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.t5.backbone import flatten, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.model import (
    decode,
    decode_cached,
    decode_step,
    decode_tree,
    encode,
    init_params,
    stack_layers,
    start_cache,
)

SHARED = T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
)
OWN = dataclasses.replace(SHARED, relative_bias_per_layer=True)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(2, 32, (2, 7)))
INPUTS = jnp.asarray([[0, 5, 9, 7], [0, 8, 3, 4]])


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    return unflatten(
        {
            name: jnp.asarray(rng.normal(size=shape) * (0.4 if "kernel" in name else 1), np.float32)
            for name, shape in parameter_shapes(OWN).items()
        }
    )


def logits(params, config):
    @jax.jit
    def forward(params):
        encoded = encode(params, config, TOKENS)
        return decode(params, config, encoded, TOKENS, INPUTS, jnp.ones_like(INPUTS))

    return np.asarray(forward(params))


def test_alike_in_all_layers_it_is_the_shared_bias(params):
    leaves = dict(flatten(params))
    shared = {}
    for name, shape in parameter_shapes(SHARED).items():
        side = name.split("/")[0]
        first = f"{side}/layers_0/relpos_bias/rel_embedding"
        shared[name] = leaves[first] if name.endswith("rel_embedding") else leaves[name]
        assert shared[name].shape == shape
    alike = {
        name: shared[f"{name.split('/')[0]}/relpos_bias/rel_embedding"]
        if name.endswith("rel_embedding")
        else leaf
        for name, leaf in leaves.items()
    }
    expected = logits(unflatten(shared), SHARED)
    np.testing.assert_allclose(logits(unflatten(alike), OWN), expected, atol=1e-5)
    assert np.max(np.abs(logits(params, OWN) - expected)) > 1e-2


@pytest.mark.slow
def test_cached_by_steps_in_trees_and_scanned_decoding_is_the_same(params):
    expected = logits(params, OWN)
    scanned = dataclasses.replace(OWN, scan_layers=True, remat=True)
    np.testing.assert_allclose(logits(stack_layers(params, OWN), scanned), expected, atol=1e-5)
    encoded = encode(params, OWN, TOKENS)
    cache = start_cache(params, OWN, encoded, TOKENS, 4)
    cached = decode_cached(params, OWN, cache, INPUTS, jnp.ones_like(INPUTS))
    np.testing.assert_allclose(cached, expected, atol=1e-5)
    chain = jnp.broadcast_to(jnp.tril(jnp.ones((4, 4), bool)), (2, 4, 4))
    depths = jnp.broadcast_to(jnp.arange(4), (2, 4))
    tree = decode_tree(params, OWN, cache, INPUTS, depths, chain, 5)
    np.testing.assert_allclose(tree, expected, atol=1e-5)
    for position in range(4):
        step, cache = decode_step(params, OWN, cache, INPUTS[:, position], position)
        np.testing.assert_allclose(step, expected[:, position], atol=1e-5)


@pytest.mark.slow
def test_shapes_are_the_modules_and_other_fingerprints_do_not_know_of_it():
    shapes = {name: leaf.shape for name, leaf in flatten(init_params(jax.random.key(0), OWN))}
    assert shapes == parameter_shapes(OWN)
    assert "relative_bias_per_layer" not in SHARED.shape_fields()
    assert OWN.shape_fields()["relative_bias_per_layer"] is True


def test_every_layers_bias_has_a_gradient(params):
    batch = {
        "encoder_input_tokens": TOKENS,
        "decoder_input_tokens": INPUTS,
        "decoder_target_tokens": INPUTS + 1,
        "decoder_loss_weights": jnp.ones(INPUTS.shape),
    }
    method = ModelTuning()

    def loss(tree):
        return method.batch_loss(tree, {}, batch, None, config=OWN, tasks=(None,))[0]

    gradients = dict(flatten(jax.jit(jax.grad(loss))(params)))
    biases = [leaf for name, leaf in gradients.items() if name.endswith("rel_embedding")]
    assert len(biases) == 4 and all(np.abs(leaf).max() > 0 for leaf in biases)
