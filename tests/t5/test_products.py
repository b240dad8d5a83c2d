"""Products on a CPU whose results lie apart: the same numbers, the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.t5 import products
from spot_jax.t5.target import Target

# Both widths, one, or none are held badly; too few rows for a copy; one by one.
CASES = [(300, 512, 1024), (300, 96, 512), (300, 512, 96), (300, 48, 96), (20, 512, 512), (3, 8, 9)]


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch):
    monkeypatch.setattr(products, "target", lambda: Target("cpu", 1))


@pytest.mark.parametrize(("rows", "depth", "width"), CASES)
def test_a_product_and_its_gradients_are_those_of_matmul(rows, depth, width):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (rows, depth)).reshape(1, rows, depth)
    kernel = jax.random.normal(keys[1], (depth, width)) / 8
    weight = jax.random.normal(keys[2], (1, rows, width))

    def gradients(product):
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(product(*a) * weight), (0, 1)))

    ours, theirs = (gradients(f)(x, kernel) for f in (products.product, jnp.matmul))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def compiled(rows, depth, width):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, depth), (depth, width))]
    grad = jax.grad(lambda x, kernel: jnp.sum(products.product(x, kernel) ** 2))
    return jax.jit(grad).lower(*shapes).compile().as_text()


def test_rows_of_results_lie_apart_where_a_cache_would_hold_them_badly():
    text = compiled(300, 512, 1024)
    assert "f32[300,1040]" in text and "f32[300,528]" in text
    assert "f32[300,1040]" not in compiled(200, 512, 1024)
    assert "f32[300,784]" not in compiled(300, 512, 768)
