"""The parts of a T5 layer, as Flax Linen modules with T5X's parameter names.

Shapes use one legend: b batch, t query tokens, s key tokens, h heads, k head width, d model width.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from spot_jax.t5.attention import Bias, Visibility, attend, prepare
from spot_jax.t5.config import T5Config

KeyValue = tuple[Float[Array, "b _s h k"], Float[Array, "b _s h k"]]

_ACTIVATIONS = {
    # T5's GELU is the tanh approximation, in T5X and in Hugging Face's "gelu_new" alike.
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "linear": lambda x: x,
}
_fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_fan_in_truncated = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def fold_in_rows(keys: Key[Array, " b"] | None, data: Any) -> Key[Array, " b"] | None:
    """Fold one number into every row's key; None (no dropout) stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def dropout(
    x: Float[Array, "b t ..."], keys: Key[Array, " b"] | None, rate: float, site: int
) -> Float[Array, "b t ..."]:
    """Drop features, the same ones at every position of a row (T5X's `broadcast_dims=(-2,)`).

    Each row has its own key, so that a row's mask depends neither on the rows beside it nor
    on how the batch is sharded: N prompts tuned together see the masks they would see alone.

    Args:
        x: activations; the mask is broadcast over the second axis.
        keys: one key per row, or None for no dropout.
        rate: probability of dropping, 0 to 1.
        site: number that distinguishes this use from others of the same keys.
    """
    if keys is None or rate == 0.0:
        return x
    shape = (1, *x.shape[2:])
    rows = fold_in_rows(keys, site)
    mask = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(rows)
    return jnp.where(mask, x / (1.0 - rate), jnp.zeros_like(x))


def _recomputed(function: Callable[..., Array]) -> Callable[..., Array]:
    """Hold an elementwise function's inputs for the backward pass, none of its steps between.

    On the CPU such steps are cheap to hold and the compiled program's arithmetic is left alone.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Array:
        cheap = jax.default_backend() != "cpu"
        return (jax.checkpoint(function) if cheap else function)(*arguments)

    return call


class RMSNorm(nn.Module):
    """T5's layer norm: no mean, no bias, variance in float32."""

    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Scale each position to unit root mean square, then by the learnt `scale`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))

        @_recomputed
        def normed(x: Array, scale: Array) -> Array:
            x = x.astype(jnp.float32)
            variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
            y = (x * jax.lax.rsqrt(variance + self.epsilon)).astype(self.dtype)
            return y * scale.astype(self.dtype)[None, None, :]

        return normed(x, scale)


class Dense(nn.Module):
    """A matrix product without bias; the kernel is 2-D, as T5X stores it.

    Four more leaves are read where the tree has them (`spot_jax.t5.kernels` puts them there), with
    a leading axis n = 1 for what all rows share or n = b for rows with their own: `input_scale`
    [n, d] and `output_scale` [n, f], `low_rank_in` [n, d, r] and `low_rank_out` [n, r, f]. So is
    `kernel_scale` [f], beside a kernel of integers (`spot_jax.t5.int8`).
    """

    features: int
    dtype: str
    kernel_init: Any = _fan_in_normal

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t f"]:
        """Multiply the last axis by `kernel` in `dtype`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        x = x.astype(self.dtype)
        if (scale := self._addition("input_scale")) is not None:
            x = x * scale[:, None]
        y = jnp.matmul(x, kernel.astype(self.dtype))
        if (scale := self._addition("kernel_scale")) is not None:
            y = y * scale[None, None]
        low_rank = self._addition("low_rank_in"), self._addition("low_rank_out")
        if low_rank[0] is not None and low_rank[1] is not None:
            y = y + jnp.matmul(jnp.matmul(x, low_rank[0]), low_rank[1])
        if (scale := self._addition("output_scale")) is not None:
            y = y * scale[:, None]
        return y

    def _addition(self, name: str) -> Array | None:
        if not self.has_variable("params", name):
            return None
        return self.get_variable("params", name).astype(self.dtype)


def relative_position_buckets(
    distance: np.ndarray, buckets: int, max_distance: int, bidirectional: bool
) -> np.ndarray:
    """Number the bias of each distance, int32 of the same shape (Raffel 2020, §2.1).

    Half of the buckets are for single distances, the rest grow logarithmically up to
    `max_distance`; with `bidirectional` half of all are for keys after the query.

    Args:
        distance: position of the query minus that of the key.
        buckets: number of buckets.
        max_distance: distance from which on all share the last bucket.
        bidirectional: whether keys after the query have their own buckets.
    """
    offset = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance < 0) * buckets
        distance = np.abs(distance)
    else:
        distance = np.maximum(distance, 0)
    exact = buckets // 2
    # float32 and its epsilon, as in the reference: a bucket's edge must not move by rounding.
    ratio = np.log(distance.astype(np.float32) / exact + np.finfo(np.float32).eps)
    large = exact + (ratio / np.log(max_distance / exact) * (buckets - exact)).astype(np.int32)
    large = np.minimum(large, buckets - 1)
    return (offset + np.where(distance < exact, distance, large)).astype(np.int32)


class RelativePositionBias(nn.Module):
    """The bias on attention logits: of a stack, shared by its layers, or of one layer (umT5).

    Where the tree has `prefix_positions` [p] (`spot_jax.t5.prefix` puts it there), a prefix's keys
    stand at the p positions before the first.
    """

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, queries: int, keys: int) -> Bias:
        """Return the bias of `queries` positions on `keys` positions, both counted from 0."""
        c = self.config
        table = self.param(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (c.num_heads, c.relative_attention_num_buckets),
        )
        table = table.astype(c.dtype)

        def biases(distance: np.ndarray) -> Array:
            buckets = c.relative_attention_num_buckets, c.relative_attention_max_distance
            numbers = relative_position_buckets(distance, *buckets, self.bidirectional)
            return jnp.take(table, numbers, axis=1)

        # Whichever of the two no form of attention reads is never computed.
        places = np.arange(queries)[:, None]
        dense, before = biases(places - np.arange(keys)[None])[None], None
        if self.has_variable("params", "prefix_positions"):
            positions: Array = self.get_variable("params", "prefix_positions")
            before = biases(places - np.arange(-len(positions), 0)[None])[None]
        return Bias(dense, biases(np.arange(1 - keys, queries)), before=before)


class Attention(nn.Module):
    """Multi-head attention with T5X's parameters: query, key, value, out.

    Two more are read where the tree has them (`spot_jax.t5.prefix` puts them there): `prefix_key`
    and `prefix_value` [n, p, heads, head_dim], n = 1 for a prefix that all rows share or n = b for
    one per row. They precede the keys and values of `x`.
    """

    config: T5Config

    def setup(self) -> None:
        """Create kernels [d, heads * head_dim] and back; the two need not be equal."""
        c = self.config
        joined = c.num_heads * c.head_dim

        def query_init(*args: Any) -> Array:
            return _fan_in_normal(*args) / np.sqrt(c.head_dim)

        self.query = Dense(joined, c.dtype, query_init)
        self.key = Dense(joined, c.dtype)
        self.value = Dense(joined, c.dtype)
        self.out = Dense(c.emb_dim, c.dtype)

    def _heads(self, x: Float[Array, "b t f"]) -> Float[Array, "b t h k"]:
        return x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)

    def own_keys_and_values(self, x: Float[Array, "b s d"]) -> KeyValue:
        """Return keys and values of `x` alone."""
        return self._heads(self.key(x)), self._heads(self.value(x))

    def keys_and_values(self, x: Float[Array, "b s d"]) -> KeyValue:
        """Return what all queries attend to: keys and values [b, p + s, h, k] after a prefix."""
        return self._after_prefix(self.own_keys_and_values(x))

    def empty_cache(self, rows: int, length: int) -> KeyValue:
        """Return zeros for the keys and values of `length` positions, after the prefix."""
        shape = (rows, length, self.config.num_heads, self.config.head_dim)
        zeros = jnp.zeros(shape, self.config.dtype)
        return self._after_prefix((zeros, zeros))

    def _after_prefix(self, keys_values: KeyValue) -> KeyValue:
        if not self.has_variable("params", "prefix_key"):
            return keys_values

        def joined(name: str, x: Array) -> Array:
            prefix: Array = self.get_variable("params", name).astype(x.dtype)
            prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape[1:]))
            return jnp.concatenate([prefix, x], axis=1)

        key, value = keys_values
        return joined("prefix_key", key), joined("prefix_value", value)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        keys_values: KeyValue,
        bias: Bias | None,
        visibility: Visibility,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Attend from `x` to keys and values, those of a prefix first (see `attend`)."""
        key, value = keys_values
        # T5X drops attention weights with one mask for all queries, that is, whole keys of a
        # head: the same as dropping their values, which needs no [b, h, t, s] mask.
        if dropout_keys is not None and self.config.dropout_rate > 0.0:
            folded = value.reshape(value.shape[0], 1, -1, value.shape[-1])
            whole = jnp.ones((*folded.shape[:-1], 1), value.dtype)
            scales = dropout(whole, dropout_keys, self.config.dropout_rate, site=0)
            value = (folded * scales).reshape(value.shape)
        query = self._heads(self.query(x))
        y = attend(query, key, value, bias, visibility, self.config.attention)
        return self.out(y.reshape(*y.shape[:2], -1))


class MLP(nn.Module):
    """Feed-forward layer, gated when the config names two activations."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], dropout_keys: Key[Array, " b"] | None = None
    ) -> Float[Array, "b t d"]:
        """Multiply the activations' branches, drop, and project back to width d."""
        c = self.config
        gates = len(c.mlp_activations)
        branches = []
        for i in range(gates):
            name = "wi" if gates == 1 else f"wi_{i}"
            branches.append(Dense(c.mlp_dim, c.dtype, _fan_in_truncated, name=name)(x))

        @_recomputed
        def gated(*branches: Array) -> Array:
            activations = [_ACTIVATIONS[name] for name in c.mlp_activations]
            activated = [f(x) for f, x in zip(activations, branches, strict=True)]
            return functools.reduce(operator.mul, activated)

        hidden = gated(*branches)
        hidden = dropout(hidden, dropout_keys, c.dropout_rate, site=0)
        return Dense(c.emb_dim, c.dtype, _fan_in_truncated, name="wo")(hidden)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normed before and added after."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        bias: Bias | None,
        visibility: Visibility,
        dropout_keys: Key[Array, " b"] | None,
        layer: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "b t d"], None]:
        """Run one layer; `layer` is its number, for dropout. The second result is for scan.

        Without a bias of the stack the layer has its own.
        """
        c = self.config
        if bias is None:
            biases = RelativePositionBias(c, bidirectional=True, name="relpos_bias")
            bias = prepare(biases(*[x.shape[1]] * 2), visibility, c.attention)
        keys = [fold_in_rows(fold_in_rows(dropout_keys, layer), i) for i in range(4)]
        attention = Attention(c, name="attention")
        y = RMSNorm(c.layer_norm_epsilon, c.dtype, name="pre_attention_layer_norm")(x)
        y = attention(y, attention.keys_and_values(y), bias, visibility, keys[0])
        x = x + dropout(y, keys[1], c.dropout_rate, site=1)
        y = RMSNorm(c.layer_norm_epsilon, c.dtype, name="pre_mlp_layer_norm")(x)
        y = MLP(c, name="mlp")(y, keys[2])
        return x + dropout(y, keys[3], c.dropout_rate, site=1), None


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward."""

    config: T5Config

    def setup(self) -> None:
        """Create the sublayers under T5X's names."""
        c = self.config

        def norm() -> RMSNorm:
            return RMSNorm(c.layer_norm_epsilon, c.dtype)

        self.pre_self_attention_layer_norm = norm()
        self.self_attention = Attention(c)
        self.pre_cross_attention_layer_norm = norm()
        self.encoder_decoder_attention = Attention(c)
        self.pre_mlp_layer_norm = norm()
        self.mlp = MLP(c)
        if c.relative_bias_per_layer:
            self.relpos_bias = RelativePositionBias(c, bidirectional=False)

    def position_bias(self, length: int) -> Bias:
        """Return this layer's own bias of `length` targets; a T5 with one a stack has none."""
        return self.relpos_bias(length, length)

    def empty_cache(self, rows: int, length: int) -> KeyValue:
        """Return an empty cache for decoding `length` positions."""
        return self.self_attention.empty_cache(rows, length)

    def cross_keys_and_values(self, encoded: Float[Array, "b s d"]) -> KeyValue:
        """Return keys and values of the encoder's output, which decoding computes once."""
        return self.encoder_decoder_attention.keys_and_values(encoded)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        encoded: Float[Array, "b s d"],
        bias: Bias | None,
        visibility: Visibility,
        cross_visibility: Visibility,
        dropout_keys: Key[Array, " b"] | None,
        layer: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "b t d"], None]:
        """Run one layer over whole sequences; the second result is for scan.

        Without a bias of the stack the layer has its own.
        """
        bias = self.position_bias(x.shape[1]) if bias is None else bias
        cross = self.cross_keys_and_values(encoded)
        return self.forward(x, cross, bias, visibility, cross_visibility, dropout_keys, layer), None

    def forward(
        self,
        x: Float[Array, "b t d"],
        cross: KeyValue,
        bias: Bias,
        visibility: Visibility,
        cross_visibility: Visibility,
        dropout_keys: Key[Array, " b"] | None,
        layer: Int[Array, ""] | int,
    ) -> Float[Array, "b t d"]:
        """Run one layer over whole sequences, given the encoder's keys and values."""
        rate = self.config.dropout_rate
        keys = [fold_in_rows(fold_in_rows(dropout_keys, layer), i) for i in range(6)]
        y = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_and_values(y)
        y = self.self_attention(y, keys_values, bias, visibility, keys[0])
        x = x + dropout(y, keys[1], rate, site=1)
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, cross, None, cross_visibility, keys[2])
        x = x + dropout(y, keys[3], rate, site=1)
        y = self.mlp(self.pre_mlp_layer_norm(x), keys[4])
        return x + dropout(y, keys[5], rate, site=1)

    def step(
        self,
        x: Float[Array, "b 1 d"],
        cache: KeyValue,
        cross: KeyValue,
        bias: Bias,
        position: Int[Array, ""],
        cross_visibility: Visibility,
    ) -> tuple[Float[Array, "b 1 d"], KeyValue]:
        """Run one layer at one position; keys and values so far are in the cache it returns.

        A prefix fills the cache's first places, those beyond the positions of `bias`.
        """
        y = self.pre_self_attention_layer_norm(x)
        new = self.self_attention.own_keys_and_values(y)
        length = bias.dense.shape[-1]
        place = position + cache[0].shape[1] - length
        key, value = (
            jax.lax.dynamic_update_slice_in_dim(old, now.astype(old.dtype), place, axis=1)
            for old, now in zip(cache, new, strict=True)
        )
        filled = (jnp.arange(length) <= position).astype(jnp.int32)
        rows = x.shape[0]
        visibility = Visibility(
            jnp.ones((rows, 1), jnp.int32), jnp.broadcast_to(filled[None], (rows, length))
        )
        x = x + self.self_attention(y, (key, value), bias, visibility)
        y = self.pre_cross_attention_layer_norm(x)
        x = x + self.encoder_decoder_attention(y, cross, None, cross_visibility)
        return x + self.mlp(self.pre_mlp_layer_norm(x)), (key, value)
