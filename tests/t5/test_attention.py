"""Every form of attention against the plain one: values, gradients, masks, prefixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.split import merge
from spot_jax.t5.attention import (
    Visibility,
    absorbed,
    absorbs,
    attend,
    implementation,
    plain,
    prepare,
)
from spot_jax.t5.config import T5Config
from spot_jax.t5.layers import RelativePositionBias
from spot_jax.t5.model import T5, init_params

HEADS, WIDTH = 3, 8
FUSED = ("blocks", "queries", "triton")
# (queries, keys, causal, with a bias, keys of a prefix); no length is a whole number of blocks.
CASES = {
    "encoder": (200, 200, False, True, 0),
    "cross": (70, 300, False, False, 0),
    "decoder": (130, 130, True, True, 0),
    "prefix": (100, 100, False, True, 10),
}


def inputs(queries, keys, prefix):
    random = jax.random.split(jax.random.key(0), 5)
    shapes = [(2, n, HEADS, WIDTH) for n in (queries, keys + prefix, keys + prefix)]
    qkv = [jax.random.normal(key, shape) for key, shape in zip(random, shapes, strict=False)]
    weight = jax.random.normal(random[3], shapes[0])
    return qkv, weight, jax.random.normal(random[4], (HEADS, 32))


def segments(length):
    """Return a packed row, and one that ends in padding."""
    numbers = np.ones((2, length), np.int32)
    numbers[0, length // 2 :] = 2
    numbers[1, -5:] = 0
    return jnp.asarray(numbers)


@pytest.mark.parametrize("trains_bias", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FUSED)
def test_a_fused_form_equals_the_plain_one(form, case, trains_bias):
    queries, keys, causal, biased, prefix = CASES[case]
    qkv, weight, table = inputs(queries, keys, prefix)
    visibility = Visibility(segments(queries), segments(keys), causal)
    real = (visibility.query_segments > 0)[:, :, None, None]

    def output(form, table, *qkv):
        module = RelativePositionBias(T5Config(num_heads=HEADS), bidirectional=not causal)
        bias = module.apply({"params": {"rel_embedding": table}}, queries, keys) if biased else None
        bias = None if bias is None else prepare(bias, visibility, form)
        return jnp.where(real, attend(*qkv, bias, visibility, form), 0.0)

    def gradient(form):
        def loss(*arguments):
            return jnp.sum(output(form, *arguments) * weight)

        which = range(4) if trains_bias and biased else range(1, 4)
        return jax.jit(jax.grad(loss, tuple(which)))(table, *qkv)

    pairs = [(output(form, table, *qkv), output("plain", table, *qkv))]
    pairs += list(zip(gradient(form), gradient("plain"), strict=True))
    for actual, expected in pairs:
        largest = float(jnp.max(jnp.abs(expected)))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)


def test_a_form_that_does_not_exist_is_named():
    with pytest.raises(SpotError, match="expected 'auto' or one of plain"):
        implementation("flash", 512, "float32")


@pytest.mark.parametrize(("queries", "form"), [(8, "plain"), (512, "triton")])
def test_few_queries_are_plain_whatever_is_asked(queries, form):
    assert implementation("triton", queries, "bfloat16") == form


@pytest.mark.parametrize("dropped", [False, True])
def test_absorbed_attention_is_that_to_keys_and_values(dropped):
    random = jax.random.split(jax.random.key(1), 6)
    depth, queries, keys = 20, 7, 30
    query = jax.random.normal(random[0], (2, queries, HEADS, WIDTH))
    encoded = jax.random.normal(random[1], (2, keys, depth))
    kernels = [jax.random.normal(key, (depth, HEADS * WIDTH)) / 4 for key in random[2:4]]
    weight = jax.random.normal(random[4], query.shape)
    scales = 2.0 * jax.random.bernoulli(random[5], 0.5, (2, keys, HEADS)) if dropped else None
    visibility = Visibility(segments(queries), segments(keys))
    real = (visibility.query_segments > 0)[:, :, None, None]

    def by_keys(query, encoded, *kernels):
        key, value = ((encoded @ x).reshape(2, keys, HEADS, WIDTH) for x in kernels)
        value = value if scales is None else value * scales[..., None]
        return plain.attend(query, key, value, None, visibility.mask())

    def without(query, encoded, *kernels):
        return absorbed.attend(query, encoded, *kernels, visibility.mask(), scales)

    def gradient(form):
        def loss(*arguments):
            return jnp.sum(jnp.where(real, form(*arguments), 0.0) * weight)

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(query, encoded, *kernels)

    for ours, theirs in zip(*map(jax.tree.leaves, map(gradient, (without, by_keys))), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def test_few_queries_are_absorbed_where_it_saves_work():
    assert absorbs(8, 228, 64, 768)
    assert not absorbs(49, 228, 64, 256)  # More than three quarters of the operations.
    assert not absorbs(40, 100, 64, 2048)  # More to hold than twice the keys and values.


@pytest.mark.parametrize(
    ("targets", "leaves", "expected"),
    [
        (3, {}, False),
        (7, {}, True),
        (3, {"key": {"low_rank_in": (1, 16, 2), "low_rank_out": (1, 2, 16)}}, True),
        (3, {"value": {"kernel_scale": (16,)}}, True),
        (3, {"prefix_key": (1, 2, 2, 8), "prefix_value": (1, 2, 2, 8)}, True),
    ],
)
def test_keys_and_values_of_the_encoder_are_made_where_they_are_needed(targets, leaves, expected):
    config = T5Config(
        vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=8,
        num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.0,
    )  # fmt: skip
    params = init_params(jax.random.key(0), config)
    added = jax.tree.map(jnp.ones, leaves, is_leaf=lambda x: isinstance(x, tuple))
    tree = {"decoder": {"layers_0": {"encoder_decoder_attention": added}}}
    words = jnp.ones((1, 20), jnp.int32)
    _, captured = T5(config).apply(
        {"params": merge(tree, params)},
        words,
        words[:, :targets],
        capture_intermediates=lambda module, name: name == "keys_and_values",
        mutable=["intermediates"],
    )
    layer = captured["intermediates"]["decoder"]["layers_0"]
    assert ("encoder_decoder_attention" in layer) == expected and "self_attention" in layer
