"""Fused attention for GPUs, in Pallas over Triton: FlashAttention-2 (Dao 2023) with T5's bias.

The bias of a pair depends on its distance alone, so the kernels read a vector per head in place of
a [t, s] matrix, and compare segment numbers in place of a mask. The backward pass keeps the
softmax's normaliser and recomputes the weights block by block, once for the gradients of the keys
and once for those of the queries.

A bias that is itself trained (model tuning) needs the weights' gradient summed over the batch,
which these kernels do not compute: `plain` does the backward pass then.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float, Int

from spot_jax.t5.attention import plain

Query = Float[Array, "b t h k"]
Keys = Float[Array, "b s h k"]
Distances = Float[Array, "h n"]
Dense = Float[Array, "1 h t r"]
QuerySegments = Int[Array, "b t"]
KeySegments = Int[Array, "b r"]
# A reference to an array in the GPU's memory, and an array that a kernel holds: Pallas's own.
Ref = Any
Block = Any

_LOG2E = math.log2(math.e)
# Far below any logit and far from float32's end, so that a row without a key has no NaN.
_UNSEEN = -1e30


def attend(
    query: Query,
    key: Keys,
    value: Keys,
    distances: Distances | None,
    dense: Dense | None,
    query_segments: QuerySegments,
    key_segments: KeySegments,
    causal: bool,
    prefix: int,
) -> Query:
    """Attend as `spot_jax.t5.attention.attend` does; `s` is a prefix and then `r` keys."""
    return _attend(
        query, key, value, distances, dense, query_segments, key_segments, causal, prefix
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _attend(
    query: Query, key: Keys, value: Keys, distances: Distances | None, dense: Dense | None,
    query_segments: QuerySegments, key_segments: KeySegments, causal: bool, prefix: int,
) -> Query:  # fmt: skip
    segments = query_segments, key_segments
    return _forward(query, key, value, distances, *segments, causal, prefix)[0]


def _attend_forward(
    query: Any, key: Any, value: Any, distances: Any, dense: Any,
    query_segments: Any, key_segments: Any, causal: bool, prefix: int,
) -> tuple[Query, tuple[Array | None, ...]]:  # fmt: skip
    # With `symbolic_zeros` every argument says whether it is differentiated.
    biased = distances is not None
    trained = biased and (distances.perturbed or dense.perturbed)
    query, key, value = query.value, key.value, value.value
    query_segments, key_segments = query_segments.value, key_segments.value
    distances = distances.value if biased else None
    dense = dense.value if trained else None
    out, log_sum = _forward(
        query, key, value, distances, query_segments, key_segments, causal, prefix
    )
    residuals = (query, key, value, distances, dense, query_segments, key_segments, out, log_sum)
    return out, residuals


def _attend_backward(
    causal: bool, prefix: int, residuals: Sequence[Any], gradient: Query
) -> tuple[Array | None, ...]:
    query, key, value, distances, dense, query_segments, key_segments, out, log_sum = residuals
    if dense is not None:
        mask = _mask(query_segments, key_segments, causal, prefix)

        def again(query: Query, key: Keys, value: Keys, dense: Dense) -> Query:
            bias = jnp.pad(dense, ((0, 0), (0, 0), (0, 0), (prefix, 0)))
            return plain.attend(query, key, value, bias, mask)

        # `dense` and `distances` are made of one table: all of its gradient goes by `dense`.
        dq, dk, dv, d_dense = jax.vjp(again, query, key, value, dense)[1](gradient)
        return dq, dk, dv, jnp.zeros_like(distances), d_dense, None, None
    dq, dk, dv = _backward(
        query, key, value, distances, query_segments, key_segments, out, log_sum, gradient,
        causal, prefix,
    )  # fmt: skip
    return dq, dk, dv, None, None, None, None


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


def _mask(
    query_segments: QuerySegments, key_segments: KeySegments, causal: bool, prefix: int
) -> Bool[Array, "b 1 t s"]:
    mask = query_segments[:, None, :, None] == key_segments[:, None, None, :]
    if causal:
        mask &= jnp.tril(jnp.ones(mask.shape[2:], bool))[None, None]
    return jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (prefix, 0)), constant_values=True)


class _Tile:
    """What the kernels share: masked loads of rows, and the logits of a block of pairs."""

    def __init__(
        self, refs: tuple[Ref, Ref, Ref], queries: int, keys: int, causal: bool, prefix: int
    ) -> None:
        self.distances, self.query_segments, self.key_segments = refs
        self.queries, self.keys, self.causal, self.prefix = queries, keys, causal, prefix

    def rows(self, ref: Ref, start: Block, count: int, length: int) -> Block:
        """Load rows of a [length, k] array, zeros past its end."""
        real = (start + jnp.arange(count) < length)[:, None]
        return plgpu.load(ref.at[pl.ds(start, count), :], mask=real, other=0.0)

    def numbers(self, ref: Ref, start: Block, count: int, length: int, other: float) -> Block:
        """Load entries of a vector, `other` past its end."""
        real = start + jnp.arange(count) < length
        return plgpu.load(ref.at[pl.ds(start, count)], mask=real, other=other)

    def logits(self, q: Block, k: Block, first_query: Block, first_key: Block) -> Block:
        """Return base-2 logits of a block, `_UNSEEN` for pairs that do not see each other."""
        block = (q.shape[0], k.shape[0])
        logits = plgpu.dot(q, k.T).astype(jnp.float32) * _LOG2E
        # Keys count from the end of the prefix, so that a prefix's are below 0.
        at_query = first_query + jax.lax.broadcasted_iota(jnp.int32, block, 0)
        at_key = first_key - self.prefix + jax.lax.broadcasted_iota(jnp.int32, block, 1)
        positioned = at_key >= 0
        if self.distances is not None:
            size = self.distances.shape[0]
            column = at_query - at_key + (self.keys - self.prefix - 1)
            inside = positioned & (column >= 0) & (column < size)
            column = jnp.clip(column, 0, size - 1)
            bias = plgpu.load(self.distances.at[column], mask=inside, other=0.0)
            logits += bias.astype(jnp.float32) * _LOG2E
        numbers = self.numbers(self.query_segments, first_query, block[0], self.queries, -2)
        others = self.numbers(self.key_segments, first_key, block[1], self.keys, -1)
        # Segment -3 is a prefix, which all see.
        seen = (numbers[:, None] == others[None, :]) | (others == -3)[None, :]
        if self.causal:
            seen &= (at_query >= at_key) | ~positioned
        return jnp.where(seen, logits, _UNSEEN)


def _forward_kernel(
    distances: Ref, query_segments: Ref, key_segments: Ref, q_ref: Ref, k_ref: Ref, v_ref: Ref,
    out_ref: Ref, log_sum_ref: Ref, *, block_q: int, block_k: int, causal: bool, prefix: int,
) -> None:  # fmt: skip
    queries, keys = q_ref.shape[0], k_ref.shape[0]
    tile = _Tile((distances, query_segments, key_segments), queries, keys, causal, prefix)
    first_query = pl.program_id(0) * block_q
    q = tile.rows(q_ref, first_query, block_q, queries)

    def body(i: Block, carry: tuple[Block, Block, Block]) -> tuple[Block, Block, Block]:
        total, largest, out = carry
        k = tile.rows(k_ref, i * block_k, block_k, keys)
        v = tile.rows(v_ref, i * block_k, block_k, keys)
        logits = tile.logits(q, k, first_query, i * block_k)
        highest = jnp.maximum(largest, jnp.max(logits, axis=1))
        shrink = jnp.exp2(largest - highest)
        weights = jnp.exp2(logits - highest[:, None])
        total = total * shrink + jnp.sum(weights, axis=1)
        out = out * shrink[:, None] + plgpu.dot(weights.astype(v.dtype), v)
        return total, highest, out

    start = (
        jnp.zeros(block_q, jnp.float32),
        jnp.full(block_q, _UNSEEN, jnp.float32),
        jnp.zeros((block_q, q_ref.shape[1]), jnp.float32),
    )
    total, largest, out = jax.lax.fori_loop(0, pl.cdiv(keys, block_k), body, start)
    real = first_query + jnp.arange(block_q) < queries
    rows = pl.ds(first_query, block_q)
    out = (out / total[:, None]).astype(out_ref.dtype)
    plgpu.store(out_ref.at[rows, :], out, mask=real[:, None])
    plgpu.store(log_sum_ref.at[rows], largest + jnp.log2(total), mask=real)


def _key_kernel(
    distances: Ref, query_segments: Ref, key_segments: Ref, q_ref: Ref, k_ref: Ref, v_ref: Ref,
    g_ref: Ref, log_sum_ref: Ref, delta_ref: Ref, dk_ref: Ref, dv_ref: Ref,
    *, block_q: int, block_k: int, causal: bool, prefix: int,
) -> None:  # fmt: skip
    queries, keys = q_ref.shape[0], k_ref.shape[0]
    tile = _Tile((distances, query_segments, key_segments), queries, keys, causal, prefix)
    first_key = pl.program_id(0) * block_k
    k = tile.rows(k_ref, first_key, block_k, keys)
    v = tile.rows(v_ref, first_key, block_k, keys)

    def body(i: Block, carry: tuple[Block, Block]) -> tuple[Block, Block]:
        dk, dv = carry
        q = tile.rows(q_ref, i * block_q, block_q, queries)
        g = tile.rows(g_ref, i * block_q, block_q, queries)
        log_sum = tile.numbers(log_sum_ref, i * block_q, block_q, queries, 0.0)
        delta = tile.numbers(delta_ref, i * block_q, block_q, queries, 0.0)
        weights = jnp.exp2(tile.logits(q, k, i * block_q, first_key) - log_sum[:, None])
        dv = dv + plgpu.dot(weights.astype(g.dtype).T, g)
        d_logits = weights * (plgpu.dot(g, v.T) - delta[:, None])
        return dk + plgpu.dot(d_logits.astype(q.dtype).T, q), dv

    zeros = jnp.zeros((block_k, k_ref.shape[1]), jnp.float32)
    dk, dv = jax.lax.fori_loop(0, pl.cdiv(queries, block_q), body, (zeros, zeros))
    real = (first_key + jnp.arange(block_k) < keys)[:, None]
    rows = pl.ds(first_key, block_k)
    plgpu.store(dk_ref.at[rows, :], dk.astype(dk_ref.dtype), mask=real)
    plgpu.store(dv_ref.at[rows, :], dv.astype(dv_ref.dtype), mask=real)


def _query_kernel(
    distances: Ref, query_segments: Ref, key_segments: Ref, q_ref: Ref, k_ref: Ref, v_ref: Ref,
    g_ref: Ref, log_sum_ref: Ref, delta_ref: Ref, dq_ref: Ref,
    *, block_q: int, block_k: int, causal: bool, prefix: int,
) -> None:  # fmt: skip
    queries, keys = q_ref.shape[0], k_ref.shape[0]
    tile = _Tile((distances, query_segments, key_segments), queries, keys, causal, prefix)
    first_query = pl.program_id(0) * block_q
    q = tile.rows(q_ref, first_query, block_q, queries)
    g = tile.rows(g_ref, first_query, block_q, queries)
    log_sum = tile.numbers(log_sum_ref, first_query, block_q, queries, 0.0)
    delta = tile.numbers(delta_ref, first_query, block_q, queries, 0.0)

    def body(i: Block, dq: Block) -> Block:
        k = tile.rows(k_ref, i * block_k, block_k, keys)
        v = tile.rows(v_ref, i * block_k, block_k, keys)
        weights = jnp.exp2(tile.logits(q, k, first_query, i * block_k) - log_sum[:, None])
        d_logits = weights * (plgpu.dot(g, v.T) - delta[:, None])
        return dq + plgpu.dot(d_logits.astype(k.dtype), k)

    zeros = jnp.zeros((block_q, q_ref.shape[1]), jnp.float32)
    dq = jax.lax.fori_loop(0, pl.cdiv(keys, block_k), body, zeros)
    real = (first_query + jnp.arange(block_q) < queries)[:, None]
    plgpu.store(dq_ref.at[pl.ds(first_query, block_q), :], dq.astype(dq_ref.dtype), mask=real)


def _call(
    kernel: Callable[..., None], arrays: Sequence[Array | None],
    outputs: Sequence[jax.ShapeDtypeStruct], *, along: str, block_q: int, block_k: int,
    warps: int, stages: int, **settings: bool | int,
) -> list[Array]:  # fmt: skip
    """Run a kernel for every block `along` queries or keys, row of the batch and head."""
    block = block_q if along == "queries" else block_k
    query, key = arrays[3:5]
    assert query is not None and key is not None
    rows, _, heads, _ = query.shape
    length = (query if along == "queries" else key).shape[1]

    def spec(x: Any) -> pl.BlockSpec | None:
        if x is None:
            return None
        shapes = {
            "distances": ((None, x.shape[1]), lambda i, b, h: (h, 0)),
            "segments": ((None, x.shape[1]), lambda i, b, h: (b, 0)),
            "numbers": ((None, None, x.shape[-1]), lambda i, b, h: (b, h, 0)),
            "heads": ((None, x.shape[1], None, x.shape[-1]), lambda i, b, h: (b, 0, h, 0)),
        }
        kind = {3: "numbers", 4: "heads"}.get(x.ndim) or (
            "segments" if jnp.issubdtype(x.dtype, jnp.integer) else "distances"
        )
        return pl.BlockSpec(*shapes[kind])

    return pl.pallas_call(
        functools.partial(kernel, block_q=block_q, block_k=block_k, **settings),
        grid=(pl.cdiv(length, block), rows, heads),
        in_specs=[spec(x) for x in arrays],
        out_specs=[spec(x) for x in outputs],
        out_shape=outputs,
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=stages),
        interpret=jax.default_backend() not in ("gpu", "cuda"),
        name=kernel.__name__.strip("_"),
    )(*arrays)


def _leading(
    distances: Distances | None, query_segments: QuerySegments, key_segments: KeySegments,
    prefix: int,
) -> tuple[Distances | None, QuerySegments, Int[Array, "b s"]]:  # fmt: skip
    keys = jnp.pad(key_segments, ((0, 0), (prefix, 0)), constant_values=-3)
    return distances, query_segments.astype(jnp.int32), keys.astype(jnp.int32)


def _forward(
    query: Query, key: Keys, value: Keys, distances: Distances | None,
    query_segments: QuerySegments, key_segments: KeySegments, causal: bool, prefix: int,
) -> tuple[Query, Float[Array, "b h t"]]:  # fmt: skip
    """Return the output, and the base-2 logarithm of each row's softmax sum."""
    rows, queries, heads, _ = query.shape
    log_sum = jax.ShapeDtypeStruct((rows, heads, queries), jnp.float32)
    arrays = [*_leading(distances, query_segments, key_segments, prefix), query, key, value]
    outputs = [jax.ShapeDtypeStruct(query.shape, query.dtype), log_sum]
    out, log_sums = _call(
        _forward_kernel, arrays, outputs, along="queries", block_q=128, block_k=64,
        warps=4, stages=3, causal=causal, prefix=prefix,
    )  # fmt: skip
    return out, log_sums


def _backward(
    query: Query, key: Keys, value: Keys, distances: Distances | None,
    query_segments: QuerySegments, key_segments: KeySegments, out: Query,
    log_sum: Float[Array, "b h t"], gradient: Query, causal: bool, prefix: int,
) -> tuple[Query, Keys, Keys]:  # fmt: skip
    gradient = gradient.astype(out.dtype)
    products = gradient.astype(jnp.float32) * out.astype(jnp.float32)
    delta = jnp.transpose(jnp.sum(products, axis=3), (0, 2, 1))
    arrays = [*_leading(distances, query_segments, key_segments, prefix)]
    arrays += [query, key, value, gradient, log_sum, delta]
    same = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, value)]
    settings = {"causal": causal, "prefix": prefix}
    dk, dv = _call(
        _key_kernel, arrays, same[1:], along="keys", block_q=64, block_k=128,
        warps=8, stages=2, **settings,
    )  # fmt: skip
    (dq,) = _call(
        _query_kernel, arrays, same[:1], along="queries", block_q=128, block_k=64,
        warps=8, stages=2, **settings,
    )  # fmt: skip
    return dq, dk, dv
