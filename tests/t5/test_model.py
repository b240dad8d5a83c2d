"""The model against Google's own, and its variants against each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.dropout import dropout
from spot_jax.t5.importing import convert
from spot_jax.t5.layers import relative_position_buckets
from spot_jax.t5.model import (
    decode,
    decode_step,
    encode,
    init_params,
    stack_layers,
    start_cache,
    unstack_layers,
)

P = 7


@pytest.fixture(scope="module")
def z(golden):
    return np.load(golden / "golden.npz")


@pytest.fixture(scope="module")
def prompted(z):
    """Return the golden inputs behind virtual tokens."""
    ids = np.tile(128 + np.arange(P, dtype=np.int32), (3, 1))
    return np.concatenate([ids, z["encoder_input_tokens"].astype(np.int32)], axis=1)


@functools.partial(jax.jit, static_argnums=1)
def both(params, config, tokens, inputs, targets, table):
    encoded = encode(params, config, tokens, table=table)
    return encoded, decode(params, config, encoded, tokens, inputs, targets)


def run(params, config, z, tokens=None, table=None):
    tokens = z["encoder_input_tokens"] if tokens is None else tokens
    return both(
        params, config, tokens, z["decoder_input_tokens"], z["decoder_target_tokens"], table
    )


def farthest(actual, expected, real):
    return np.abs(np.asarray(actual, np.float32) - expected)[real].max()


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("ckpt_minimal/checkpoint_2", "minimal"),
        ("ckpt_flaxformer/checkpoint_2", "flaxformer"),
        ("ckpt_prompt/checkpoint_5", "prompt"),
        ("ckpt_prompt_orbax/checkpoint_5", "prompt"),
    ],
)
def test_imported_checkpoints_compute_what_google_computed(
    form, name, golden, golden_backbone, z, prompted, tmp_path
):
    config, _ = golden_backbone
    convert(golden / form, tmp_path / "stored")
    params = load_backbone(tmp_path / "stored").params
    tokens, table = (prompted, z["prompt"]) if name == "prompt" else (None, None)
    encoded, logits = run(params, config, z, tokens, table)
    real = (z["encoder_input_tokens"] if tokens is None else tokens) > 0
    assert farthest(encoded, z[f"{name}/encoder_output"], real) < 1e-5
    assert farthest(logits, z[f"{name}/logits"], z["decoder_target_tokens"] > 0) < 1e-5


def test_bfloat16_activations_are_as_close_as_the_references(golden_backbone, z):
    config, params = golden_backbone
    _, logits = run(params, dataclasses.replace(config, dtype="bfloat16"), z)
    assert logits.dtype == jnp.float32
    real = z["decoder_target_tokens"] > 0
    rounding = farthest(z["minimal_bf16act/logits"], z["minimal/logits"], real)
    assert farthest(logits, z["minimal_bf16act/logits"], real) < rounding


def test_scan_and_remat_change_nothing(golden_backbone, z, prompted):
    config, params = golden_backbone
    scanned = dataclasses.replace(config, scan_layers=True, remat=True)

    def loss(table, params, config):
        encoded = encode(params, config, prompted, table=table)
        targets = z["decoder_input_tokens"], z["decoder_target_tokens"]
        logits = decode(params, config, encoded, prompted, *targets)
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1) ** 2), logits

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
    table = jnp.asarray(z["prompt"])
    (_, expected), gradient = grad(table, params, config)
    (_, logits), other = grad(table, stack_layers(params, config), scanned)
    real = z["decoder_target_tokens"] > 0
    assert farthest(logits, expected, real) < 1e-5
    np.testing.assert_allclose(other, gradient, rtol=0, atol=1e-5 * np.abs(gradient).max())


def test_stacked_layers_come_apart_as_they_were(golden_backbone):
    config, params = golden_backbone
    back = unstack_layers(stack_layers(params, config), config)
    assert jax.tree.structure(back) == jax.tree.structure(dict(params))
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("scan", [False, True])
def test_one_token_at_a_time_equals_whole_targets(scan, golden_backbone, z, prompted):
    config, params = golden_backbone
    table = jnp.asarray(z["prompt"])
    encoded, logits = run(params, config, z, prompted, table)
    if scan:
        config = dataclasses.replace(config, scan_layers=True)
        params = stack_layers(params, config)
    cache = start_cache(params, config, encoded, prompted, 6)
    step = jax.jit(decode_step, static_argnums=1)
    for i in range(6):
        next_logits, cache = step(params, config, cache, z["decoder_input_tokens"][:, i], i)
        real = z["decoder_target_tokens"][:, i] > 0
        assert farthest(next_logits, logits[:, i], real) < 1e-5


def test_padding_changes_nothing_before_it(golden_backbone, z):
    config, params = golden_backbone
    tokens = z["encoder_input_tokens"].astype(np.int32)
    longer = np.pad(tokens, ((0, 0), (0, 5)))
    short, wide = (jax.jit(encode, static_argnums=1)(params, config, t) for t in (tokens, longer))
    assert farthest(wide[:, : tokens.shape[1]], short, tokens > 0) < 1e-5


@pytest.mark.parametrize("scan", [False, True])
def test_random_parameters_have_t5x_names_and_shapes(scan, golden_backbone):
    config, params = golden_backbone
    config = dataclasses.replace(config, scan_layers=scan)
    shapes = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, dict(params))


def test_a_tree_of_another_shape_is_refused(golden_backbone):
    config, params = golden_backbone
    other = dataclasses.replace(config, mlp_dim=config.mlp_dim + 1)
    with pytest.raises(ScopeParamShapeError, match="mlp/wi_0"):
        encode(params, other, jnp.ones((1, 4), jnp.int32))


def test_dropout_drops_features_alike_at_all_positions_by_the_row():
    x, keys = jnp.ones((64, 5, 32)), jax.random.split(jax.random.key(0), 64)
    dropped = np.asarray(dropout(x, keys, 0.25, site=0))
    assert (dropped == dropped[:, :1]).all()
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert abs((dropped == 0).mean() - 0.25) < 0.03
    # A row's mask is its key's alone, and differs from its neighbours' and by the site.
    np.testing.assert_array_equal(dropout(x[:2], keys[7:9], 0.25, site=0), dropped[7:9])
    assert (dropped[0] != dropped[1]).any()
    assert (np.asarray(dropout(x, keys, 0.25, site=1)) != dropped).any()


@pytest.mark.parametrize("keys", [False, True])
def test_dropout_needs_both_keys_and_a_rate(keys):
    x = jnp.ones((2, 3, 4))
    rows = jax.random.split(jax.random.key(0), 2) if keys else None
    assert dropout(x, rows, 0.0 if keys else 0.5, site=0) is x


@pytest.mark.slow
def test_dropout_in_the_model_is_each_rows_own_and_the_same_when_scanned(golden_backbone, z):
    config, params = golden_backbone
    tokens, inputs, targets = (
        z[f"{n}_tokens"] for n in ("encoder_input", "decoder_input", "decoder_target")
    )
    _, plain = run(params, config, z)
    config = dataclasses.replace(config, dropout_rate=0.3)

    @functools.partial(jax.jit, static_argnums=1)
    def logits(params, config, rows, keys):
        encoded = encode(params, config, jnp.asarray(tokens)[rows], dropout_keys=keys)
        arrays = jnp.asarray(tokens)[rows], jnp.asarray(inputs)[rows], jnp.asarray(targets)[rows]
        return decode(params, config, encoded, *arrays, dropout_keys=keys)

    keys, real = jax.random.split(jax.random.key(3), 3), targets > 0
    three = logits(params, config, np.arange(3), keys)
    assert farthest(three, plain, real) > 0.1
    # Scanned, and one row without its neighbours: the masks of a layer are of its number and row.
    scanned = dataclasses.replace(config, scan_layers=True)
    single = logits(stack_layers(params, config), scanned, np.arange(1, 2), keys[1:2])
    assert farthest(single, three[1:2], real[1:2]) < 1e-4


@pytest.mark.parametrize(
    ("distance", "bidirectional", "bucket"),
    [
        # (query - key): single distances up to a half, then logarithmic, the last one for all.
        (0, True, 0),
        (7, True, 7),
        (8, True, 8),
        (11, True, 8),
        (12, True, 9),
        (127, True, 15),
        (128, True, 15),
        (199, True, 15),
        (-1, True, 17),
        (-7, True, 23),
        (-199, True, 31),
        (0, False, 0),
        (15, False, 15),
        (16, False, 16),
        (127, False, 31),
        (199, False, 31),
        (-5, False, 0),
    ],
)
def test_relative_position_buckets(distance, bidirectional, bucket):
    buckets = relative_position_buckets(
        np.arange(200)[:, None] - np.arange(200), 32, 128, bidirectional
    )
    row, column = (distance, 0) if distance >= 0 else (0, -distance)
    assert buckets[row, column] == bucket
