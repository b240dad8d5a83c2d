"""Attention for accelerators without a fused kernel: a block of queries at a time.

Each block's weights over all keys are computed, used and forgotten, and computed again in the
backward pass, which needs query, key and value alone: neither the output nor the softmax's
normaliser. Rows and heads stay whole axes, so that a mesh may divide them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Query = Float[Array, "b t h k"]
Keys = Float[Array, "b s h k"]
Bias = Float[Array, "#b h t s"]
Mask = Bool[Array, "b 1 t s"]

_BLOCK = 64
_UNSEEN = -1e30
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend(query: Query, key: Keys, value: Keys, bias: Bias | None, mask: Mask) -> Query:
    """Attend where `mask` is True."""
    queries = query.shape[1]
    room = -queries % min(_BLOCK, queries)
    if room:
        # A query that is none sees no key; its output is cut off again.
        query = jnp.pad(query, ((0, 0), (0, room), (0, 0), (0, 0)))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, room), (0, 0)))
        bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, room), (0, 0)))
    return _attend(query, key, value, bias, mask)[:, :queries]


@jax.custom_vjp
def _attend(query: Query, key: Keys, value: Keys, bias: Bias | None, mask: Mask) -> Query:
    block, count = _blocks(query)

    def attended(_: None, number: Array) -> tuple[None, Array]:
        part, weights = _weights(query, key, bias, mask, number, block)
        out = _product("bhts,bshk->bthk", weights.astype(value.dtype), value)
        return None, out.astype(query.dtype)

    _, out = jax.lax.scan(attended, None, jnp.arange(count))
    return jnp.moveaxis(out, 0, 1).reshape(query.shape)


def _attend_forward(
    query: Any, key: Any, value: Any, bias: Any, mask: Any
) -> tuple[Query, tuple[Array | None, ...]]:
    # With `symbolic_zeros` every argument says whether it is differentiated.
    flag = jnp.zeros(()) if bias is not None and bias.perturbed else None
    bias = None if bias is None else bias.value
    arrays = query.value, key.value, value.value, bias, mask.value
    return _attend(*arrays), (*arrays, flag)


def _attend_backward(residuals: Sequence[Any], gradient: Query) -> tuple[Array | None, ...]:
    query, key, value, bias, mask, flag = residuals
    block, count = _blocks(query)

    def differentiated(sums: Any, number: Array) -> tuple[Any, Any]:
        part, weights = _weights(query, key, bias, mask, number, block)
        g = _part(gradient, number, block, axis=1)
        dv = _product("bhts,bthk->bshk", weights.astype(g.dtype), g)
        d_weights = _product("bthk,bshk->bhts", g, value)
        d_logits = weights * (d_weights - jnp.sum(weights * d_weights, axis=3, keepdims=True))
        narrow = d_logits.astype(query.dtype)
        dq = _product("bhts,bshk->bthk", narrow, key).astype(query.dtype)
        dk = _product("bhts,bthk->bshk", narrow, part)
        d_bias = None
        if flag is not None:
            d_bias = d_logits if bias.shape[0] > 1 else jnp.sum(d_logits, axis=0, keepdims=True)
            d_bias = d_bias.astype(bias.dtype)
        return (sums[0] + dk, sums[1] + dv), (dq, d_bias)

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (key, value))
    (dk, dv), (dq, d_bias) = jax.lax.scan(differentiated, zeros, jnp.arange(count))
    if d_bias is not None:
        d_bias = jnp.moveaxis(d_bias, 0, 2).reshape(bias.shape)
    dq = jnp.moveaxis(dq, 0, 1).reshape(query.shape)
    return dq, dk.astype(key.dtype), dv.astype(value.dtype), d_bias, None


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


def _blocks(query: Query) -> tuple[int, int]:
    """Return the queries of a block, and how many blocks there are."""
    block = min(_BLOCK, query.shape[1])
    return block, query.shape[1] // block


def _part(x: Array, number: Array, block: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, number * block, block, axis=axis)


def _weights(
    query: Query, key: Keys, bias: Bias | None, mask: Mask, number: Array, block: int
) -> tuple[Float[Array, "b c h k"], Float[Array, "b h c s"]]:
    """Return the queries of a block, and their weights in float32."""
    part = _part(query, number, block, axis=1)
    logits: Array = _product("bthk,bshk->bhts", part, key)
    if bias is not None:
        logits += _part(bias, number, block, axis=2).astype(jnp.float32)
    logits = jnp.where(_part(mask, number, block, axis=2), logits, _UNSEEN)
    return part, jax.nn.softmax(logits, axis=-1)
