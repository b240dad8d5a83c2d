"""Attention for CPUs: a few heads at a time, so that a block of weights stays in the cache.

The [t, s] weights of some heads of some rows are computed, masked, exponentiated and used before
the next block is begun. Heads come before time, so that every product is of whole matrices. The
backward pass keeps the softmax's normaliser and recomputes the weights, block by block again;
nothing of size [b, h, t, s] is ever in memory.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Heads come before time here.
Query = Float[Array, "b h t k"]
Keys = Float[Array, "b h s k"]
Bias = Float[Array, "1 h t s"]
Mask = Bool[Array, "b 1 t s"]
LogSum = Float[Array, "b h t 1"]

# Bytes of one block's weights: about what a core's second cache and its share of the third hold.
_BLOCK_BYTES = 3 * 2**19
_UNSEEN = -1e30


def attend(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    bias: Bias | None,
    mask: Mask,
) -> Float[Array, "b t h k"]:
    """Attend where `mask` is True."""
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    return jnp.swapaxes(_attend(query, key, value, bias, mask), 1, 2)


@jax.custom_vjp
def _attend(query: Query, key: Keys, value: Keys, bias: Bias | None, mask: Mask) -> Query:
    return _forward(query, key, value, bias, mask)[0]


def _attend_forward(
    query: Any, key: Any, value: Any, bias: Any, mask: Any
) -> tuple[Query, tuple[Array | None, ...]]:
    # With `symbolic_zeros` every argument says whether it is differentiated.
    trained = bias is not None and bias.perturbed
    query, key, value, mask = query.value, key.value, value.value, mask.value
    bias = None if bias is None else bias.value
    out, log_sum = _forward(query, key, value, bias, mask)
    flag = jnp.zeros(()) if trained else None
    return out, (query, key, value, bias, mask, out, log_sum, flag)


def _attend_backward(residuals: Sequence[Any], gradient: Query) -> tuple[Array | None, ...]:
    query, key, value, bias, mask, out, log_sum, flag = residuals
    dq, dk, dv, d_bias = _backward(
        query, key, value, bias, mask, out, log_sum, gradient, flag is not None
    )
    return dq, dk, dv, d_bias, None


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


def _blocks(rows: int, heads: int, queries: int, keys: int) -> tuple[int, int]:
    """Return the rows and heads of a block: whole rows where a row's heads fit."""
    fit = max(1, _BLOCK_BYTES // (4 * queries * keys))
    if fit < heads:
        return 1, _divisor(heads, fit)
    return _divisor(rows, fit // heads), heads


def _divisor(number: int, most: int) -> int:
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)


class _Layout:
    """Cuts [b, h, ...] arrays into blocks of rows and heads and joins them again."""

    def __init__(self, query: Array, key: Array):
        self.rows, self.heads, queries, _ = query.shape
        self.row, self.head = _blocks(self.rows, self.heads, queries, key.shape[2])
        self.count = (self.rows // self.row) * (self.heads // self.head)

    def cut(self, x: Array) -> Array:
        return x.reshape(self.count, self.row, self.head, *x.shape[2:])

    def join(self, x: Array) -> Array:
        return x.reshape(self.rows, self.heads, *x.shape[3:])

    def part(self, bias: Array | None, mask: Array, number: Array) -> tuple[Array | None, Array]:
        """Return the bias [1, head, t, s] and the mask [row, 1, t, s] of block `number`."""
        groups = self.heads // self.head
        row, head = number // groups * self.row, number % groups * self.head
        mask = jax.lax.dynamic_slice_in_dim(mask, row, self.row, axis=0)
        if bias is not None:
            bias = jax.lax.dynamic_slice_in_dim(bias, head, self.head, axis=1)
        return bias, mask


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _logits(
    query: Float[Array, "r h t k"],
    key: Float[Array, "r h s k"],
    bias: Bias | None,
    mask: Bool[Array, "r 1 t s"],
) -> Float[Array, "r h t s"]:
    logits: Array = _product("rhtk,rhsk->rhts", query, key)
    if bias is not None:
        logits += bias.astype(jnp.float32)
    return jnp.where(mask, logits, _UNSEEN)


def _forward(
    query: Query, key: Keys, value: Keys, bias: Bias | None, mask: Mask
) -> tuple[Query, LogSum]:
    """Return the output, and each row's logarithm of the softmax's sum."""
    layout = _Layout(query, key)

    def block(inputs: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        query, key, value, number = inputs
        logits = _logits(query, key, *layout.part(bias, mask, number))
        largest = jnp.max(logits, axis=3, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = jnp.sum(weights, axis=3, keepdims=True)
        out = _product("rhts,rhsk->rhtk", weights.astype(value.dtype), value) / total
        return out.astype(query.dtype), largest + jnp.log(total)

    cut = [layout.cut(x) for x in (query, key, value)]
    out, log_sum = jax.lax.map(block, (*cut, jnp.arange(layout.count)))
    return layout.join(out), layout.join(log_sum)


def _backward(
    query: Query,
    key: Keys,
    value: Keys,
    bias: Bias | None,
    mask: Mask,
    out: Query,
    log_sum: LogSum,
    gradient: Query,
    trains_bias: bool,
) -> tuple[Query, Keys, Keys, Bias | None]:
    layout = _Layout(query, key)
    products = gradient.astype(jnp.float32) * out.astype(jnp.float32)
    delta = jnp.sum(products, axis=3, keepdims=True)

    def block(
        d_bias: Array | None, inputs: Sequence[Array]
    ) -> tuple[Array | None, tuple[Array, Array, Array]]:
        query, key, value, log_sum, delta, gradient, number = inputs
        weights = jnp.exp(_logits(query, key, *layout.part(bias, mask, number)) - log_sum)
        dv = _product("rhts,rhtk->rhsk", weights.astype(gradient.dtype), gradient)
        d_logits = weights * (_product("rhtk,rhsk->rhts", gradient, value) - delta)
        if d_bias is not None:
            head = number % (layout.heads // layout.head) * layout.head
            sums = jnp.sum(d_logits, axis=0, keepdims=True)
            before = jax.lax.dynamic_slice_in_dim(d_bias, head, layout.head, axis=1)
            d_bias = jax.lax.dynamic_update_slice_in_dim(d_bias, before + sums, head, axis=1)
        narrow = d_logits.astype(query.dtype)
        dq = _product("rhts,rhsk->rhtk", narrow, key).astype(query.dtype)
        dk = _product("rhts,rhtk->rhsk", narrow, query).astype(key.dtype)
        return d_bias, (dq, dk, dv.astype(value.dtype))

    cut = [layout.cut(x) for x in (query, key, value, log_sum, delta, gradient)]
    trained = bias if trains_bias else None
    start = None if trained is None else jnp.zeros(trained.shape, jnp.float32)
    d_bias, gradients = jax.lax.scan(block, start, (*cut, jnp.arange(layout.count)))
    if trained is not None and d_bias is not None:
        d_bias = d_bias.astype(trained.dtype)
    dq, dk, dv = (layout.join(x) for x in gradients)
    return dq, dk, dv, d_bias
