"""Attention with T5's bias, in the form that suits the machine.

`attend` is the entry point, and only `implementation` chooses a form. Where a query is real,
all forms compute what `plain.attend` computes, which the tests check:

* plain: `jax.nn.dot_product_attention`, its weights recomputed in the backward pass. The reference.
* blocks: for CPUs, a few heads at a time, so that a block of weights stays in the cache.
* cudnn: NVIDIA's fused kernel over a [b, h, t, s] sum of bias and mask in bfloat16.
* queries: for accelerators, a block of queries at a time, which a mesh may divide.
* triton: a fused Pallas kernel for GPUs that reads the bias by distance and the mask by segment, so
  that nothing of size [t, s] is ever in memory.

Few queries of the encoder's output need none of its keys and values (`absorbs`, `absorbed.attend`).

No 1/sqrt(k) anywhere: T5 folds it into the initialiser.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spot_jax.errors import SpotError
from spot_jax.t5.attention import blocks, plain, queries
from spot_jax.t5.target import target

IMPLEMENTATIONS = ("plain", "blocks", "queries", "cudnn", "triton")
# Below this many queries (targets, one step of decoding) the weights are small and a fused kernel
# has nothing to save.
_FEW_QUERIES = 64


@struct.dataclass
class Bias:
    """T5's relative position bias of `t` queries on `s` keys; keys and queries count from 0.

    Attributes:
        dense: bias of every pair; of each row's pairs only for the plain form.
        by_distance: bias of every distance, in column (query - key) + s - 1.
        masked: bias where a query sees a key and a number far below any logit elsewhere, computed
            once per stack for the form that reads it (see `prepare`).
        before: bias on the keys of a prefix that stands at positions; None for one that has none.
    """

    dense: Float[Array, "#b h t s"]
    by_distance: Float[Array, "h n"]
    masked: Float[Array, "b h t s"] | None = None
    before: Float[Array, "#b h t p"] | None = None


@struct.dataclass
class Visibility:
    """Which keys each query sees: those of its segment, with `causal` only those not after it.

    Attributes:
        query_segments: number of each query's segment, from 1; 0 is padding.
        key_segments: number of each key's segment.
        causal: whether queries see no later key.
    """

    query_segments: Int[Array, "b t"]
    key_segments: Int[Array, "b s"]
    causal: bool = struct.field(pytree_node=False, default=False)

    def mask(self) -> Bool[Array, "b 1 t s"]:
        """Return True where the query sees the key; a query of padding sees none."""
        queries = self.query_segments[:, None, :, None]
        keys = self.key_segments[:, None, None, :]
        mask = (queries == keys) & (queries > 0)
        if self.causal:
            shape = (self.query_segments.shape[1], self.key_segments.shape[1])
            mask &= jnp.tril(jnp.ones(shape, bool))[None, None]
        return mask


def implementation(choice: str, num_queries: int, dtype: str) -> str:
    """Return the form that `attend` takes.

    Args:
        choice: name of a form (`IMPLEMENTATIONS`), or "auto" for the platform's best.
        num_queries: number of queries per row.
        dtype: dtype of query, key and value.

    Raises:
        SpotError: no such form.
    """
    if choice != "auto":
        if choice not in IMPLEMENTATIONS:
            names = ", ".join(IMPLEMENTATIONS)
            raise SpotError(f"attention {choice!r}: expected 'auto' or one of {names}")
        return choice if num_queries >= _FEW_QUERIES else "plain"
    place = target()
    if num_queries < _FEW_QUERIES:
        return "plain"
    # Kernels are opaque to the partitioner, which would gather what is divided; so are blocks.
    if place.platform == "cpu":
        return "blocks" if place.devices == 1 else "plain"
    if place.devices == 1 and place.platform in ("gpu", "cuda") and dtype == "bfloat16":
        return "cudnn"
    return "queries"


def absorbs(queries: int, keys: int, width: int, depth: int) -> bool:
    """Return whether few enough queries a row are cheaper by `absorbed.attend`.

    Of every position's keys and values it makes t / k of the operations, and holds t d numbers a
    head where they are s k: at most three quarters, and at most twice as many.

    Args:
        queries: number of targets of a row, t.
        keys: number of the encoder's positions of a row, s.
        width: width of a head, k.
        depth: width of the model, d.
    """
    return 4 * queries <= 3 * width and queries * depth <= 2 * keys * width


def prepare(bias: Bias, visibility: Visibility, choice: str) -> Bias:
    """Compute once what every layer of a stack would compute again.

    Args:
        bias: bias of a stack's self-attention.
        visibility: visibility in that self-attention.
        choice: form of attention, see `implementation`.
    """
    dtype = bias.dense.dtype
    if implementation(choice, bias.dense.shape[2], str(dtype)) != "cudnn":
        return bias
    # Far from bfloat16's end: cuDNN multiplies these by log2(e) and subtracts them.
    unseen = jnp.asarray(-(2.0**40), dtype)
    return dataclasses.replace(bias, masked=jnp.where(visibility.mask(), bias.dense, unseen))


def attend(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    bias: Bias | None,
    visibility: Visibility,
    choice: str = "auto",
) -> Float[Array, "b t h k"]:
    """Attend by softmax, without a scale.

    Keys beyond those of `visibility` are a prefix before them, which every query sees, with bias 0,
    as a prefix has no position, or with the bias that is there for it (`Bias.before`).

    Args:
        query: query of every position.
        key: key of every position, those of a prefix first.
        value: value of every key.
        bias: bias of the logits; None in attention to the encoder's output.
        visibility: keys that each query sees.
        choice: form of attention, see `implementation`.

    Returns:
        Weighted means of `value`, in its dtype; without meaning at padding.
    """
    prefix = key.shape[1] - visibility.key_segments.shape[1]
    form = implementation(choice, query.shape[1], str(query.dtype))
    before = None if bias is None else bias.before
    if form == "triton" and before is None:
        # Late: Pallas is a fifth of JAX's import, and for GPUs.
        from spot_jax.t5.attention import triton

        distances = None if bias is None else bias.by_distance
        dense = None if bias is None else bias.dense
        segments = (visibility.query_segments, visibility.key_segments)
        return triton.attend(
            query, key, value, distances, dense, *segments, visibility.causal, prefix
        )
    if form == "cudnn" and not prefix and bias is not None and bias.masked is not None:
        return jax.nn.dot_product_attention(
            query, key, value, bias=bias.masked, scale=1.0, implementation="cudnn"
        )
    dense = None if bias is None else bias.dense
    mask = visibility.mask()
    if prefix:
        room = ((0, 0), (0, 0), (0, 0), (prefix, 0))
        mask = jnp.pad(mask, room, constant_values=True)
        if before is not None and dense is not None:
            dense = jnp.concatenate([before.astype(dense.dtype), dense], axis=-1)
        elif dense is not None:
            dense = jnp.pad(dense, room)
    if form == "cudnn":
        return jax.nn.dot_product_attention(
            query, key, value, bias=dense, mask=mask, scale=1.0, implementation="cudnn"
        )
    form_of = {"blocks": blocks.attend, "queries": queries.attend}
    return form_of.get(form, plain.attend)(query, key, value, dense, mask)
