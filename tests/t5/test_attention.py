"""Every form of attention against the plain one: values, gradients, masks, prefixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.t5.attention import Visibility, attend, implementation, prepare
from spot_jax.t5.config import T5Config
from spot_jax.t5.layers import RelativePositionBias

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
