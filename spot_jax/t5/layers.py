"""The parts of a T5 layer, as Flax Linen modules with T5X's parameter names.

Shapes use one legend: b batch, t query tokens, s key tokens, h heads, k head width, d model width.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from spot_jax.t5.attention import Bias, Visibility, absorbs, attend, prepare
from spot_jax.t5.attention.absorbed import attend as attend_absorbed
from spot_jax.t5.config import T5Config
from spot_jax.t5.dropout import Masks, Place, drop, recomputed
from spot_jax.t5.products import product
from spot_jax.t5.target import divide, gather, scatter

KeyValue = tuple[Float[Array, "b _s h k"], Float[Array, "b _s h k"]]
# What a layer that recomputes little holds for the backward pass, beside its input: the inputs of
# attention, what comes out of it, and one of the two branches of a gated feed-forward layer. The
# other branch is computed again, and so are keys and values of the encoder's output.
HELD = ("query", "key", "value", "attended", "hidden")

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


def parameter(
    module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]
) -> Array:
    """Return a module's parameter; drawn by `init` where the tree is being made.

    Flax's own `param` traces `init` wherever the parameter is used, to compare shapes, which takes
    a part of the time in which a step is traced.

    Raises:
        ScopeParamShapeError: the tree has it in another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape)
    value: Array = module.get_variable("params", name)
    if jnp.shape(value) != shape:
        path = "/".join(("", *module.path))
        raise ScopeParamShapeError(name, path, jnp.shape(value), shape)
    return value


class RMSNorm(nn.Module):
    """T5's layer norm: no mean, no bias, variance in float32."""

    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Scale each position to unit root mean square, then by the learnt `scale`."""
        scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],))

        @recomputed
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
    def __call__(
        self, x: Float[Array, "b t d"], apart: Float[Array, "m b t d"] | None = None
    ) -> Float[Array, "b t f"]:
        """Multiply the last axis by `kernel` in `dtype`; of copies of `x` each by its columns."""
        kernel = parameter(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
        x = x.astype(self.dtype)
        if (scale := self._addition("input_scale")) is not None:
            x, apart = x * scale[:, None], None
        if apart is None:
            y = product(x, kernel.astype(self.dtype))
        else:
            columns = kernel.astype(self.dtype).reshape(len(kernel), len(apart), -1)
            y = jnp.einsum("mbtd,dmf->btmf", apart, columns).reshape(*x.shape[:-1], -1)
        if (scale := self._addition("kernel_scale")) is not None:
            y = y * scale[None, None]
        low_rank = self._addition("low_rank_in"), self._addition("low_rank_out")
        if low_rank[0] is not None and low_rank[1] is not None:
            y = y + jnp.matmul(jnp.matmul(x, low_rank[0]), low_rank[1])
        if (scale := self._addition("output_scale")) is not None:
            y = y * scale[:, None]
        return y

    def alone(self) -> Float[Array, "d f"] | None:
        """Return the kernel in `dtype` where the product is with it and nothing else, else None."""
        leaves = self.variables.get("params", {})
        return leaves["kernel"].astype(self.dtype) if set(leaves) == {"kernel"} else None

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
        table = parameter(
            self,
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

    def own_keys_and_values(
        self, x: Float[Array, "b s d"], apart: Float[Array, "m b s d"] | None = None
    ) -> KeyValue:
        """Return keys and values of `x` alone."""
        return self._heads(self.key(x, apart)), self._heads(self.value(x, apart))

    def keys_and_values(
        self, x: Float[Array, "b s d"], apart: Float[Array, "m b s d"] | None = None
    ) -> KeyValue:
        """Return what all queries attend to: keys and values [b, p + s, h, k] after a prefix.

        Args:
            x: activations, or the encoder's output.
            apart: copies of it (see `spot_jax.t5.target.copies`), for several layers.
        """
        return self._after_prefix(self.own_keys_and_values(x, apart))

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
        mask: Bool[Array, "b 1 n"] | None = None,
        *,
        held: bool = False,
    ) -> Float[Array, "b t d"]:
        """Attend from `x` to keys and values, those of a prefix first (see `attend`).

        With `held` keys and values are among what a layer holds (see `HELD`).
        """
        key, value = keys_values
        scales = self._kept(mask, value.dtype)
        if scales is not None:
            value = value * scales[..., None]
        query = checkpoint_name(self._heads(self.query(x)), "query")
        if held:
            key, value = checkpoint_name(key, "key"), checkpoint_name(value, "value")
        y = attend(query, key, value, bias, visibility, self.config.attention)
        return self.out(y.reshape(*y.shape[:2], -1))

    def _kept(
        self, mask: Bool[Array, "b 1 n"] | None, dtype: DTypeLike
    ) -> Float[Array, "b s h"] | None:
        """Return the factor of every value under dropout; None without.

        T5X drops attention weights with one mask for all queries, that is, whole keys of a head:
        the same as dropping their values, which needs no [b, h, t, s] mask.
        """
        if mask is None:
            return None
        kept = jnp.ones((), dtype) / (1.0 - self.config.dropout_rate)
        return jnp.where(mask, kept, jnp.zeros_like(kept)).reshape(
            len(mask), -1, self.config.num_heads
        )

    def kernels(
        self, queries: int, keys: int
    ) -> tuple[Float[Array, "d f"], Float[Array, "d f"]] | None:
        """Return what so few queries `read` the encoder's output with; None where they do not."""
        c = self.config
        prefix = self.has_variable("params", "prefix_key")
        if prefix or not absorbs(queries, keys, c.head_dim, c.emb_dim):
            return None
        key, value = self.key.alone(), self.value.alone()
        return None if key is None or value is None else (key, value)

    def read(
        self,
        x: Float[Array, "b t d"],
        encoded: Float[Array, "b s d"],
        kernels: tuple[Float[Array, "d f"], Float[Array, "d f"]],
        visibility: Visibility,
        mask: Bool[Array, "b 1 n"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Attend to the encoder's output by the kernels of its keys and values, without these."""
        query = checkpoint_name(self._heads(self.query(x)), "query")
        scales = self._kept(mask, encoded.dtype)
        y = attend_absorbed(query, encoded, *kernels, visibility.mask(), scales)
        return self.out(y.reshape(*y.shape[:2], -1))


class MLP(nn.Module):
    """Feed-forward layer, gated when the config names two activations."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "b 1 f"] | None = None
    ) -> Float[Array, "b t d"]:
        """Multiply the activations' branches, drop, and project back to width d."""
        c = self.config
        gates = len(c.mlp_activations)
        branches = []
        for i in range(gates):
            name = "wi" if gates == 1 else f"wi_{i}"
            branch = Dense(c.mlp_dim, c.dtype, _fan_in_truncated, name=name)(x)
            branches.append(checkpoint_name(branch, "hidden") if i == 0 else branch)

        @recomputed
        def gated(*branches: Array) -> Array:
            activations = [_ACTIVATIONS[name] for name in c.mlp_activations]
            activated = [f(x) for f, x in zip(activations, branches, strict=True)]
            return functools.reduce(operator.mul, activated)

        hidden = gated(*branches)
        hidden = drop(hidden, mask, c.dropout_rate)
        return Dense(c.emb_dim, c.dtype, _fan_in_truncated, name="wo")(hidden)


def _attention_place(config: T5Config, keys: int) -> Place:
    """Return where attention drops: the values of whole keys of a head."""
    return 0, keys * config.num_heads


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normed before and added after."""

    config: T5Config

    @staticmethod
    def places(config: T5Config, keys: int) -> tuple[Place, ...]:
        """Return where a layer drops, given the number of keys that a query has."""
        added = 1, config.emb_dim
        return _attention_place(config, keys), added, (0, config.mlp_dim), added

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        bias: Bias | None,
        visibility: Visibility,
        masks: Masks | None,
    ) -> tuple[Float[Array, "b t d"], None]:
        """Run one layer, with the masks of its `places`. The second result is for scan.

        Without a bias of the stack the layer has its own.
        """
        c = self.config
        if bias is None:
            biases = RelativePositionBias(c, bidirectional=True, name="relpos_bias")
            bias = prepare(biases(*[x.shape[1]] * 2), visibility, c.attention)
        drops: Sequence[Array | None] = masks or [None] * 4
        attention = Attention(c, name="attention")
        x = divide(x)
        y = gather(RMSNorm(c.layer_norm_epsilon, c.dtype, name="pre_attention_layer_norm")(x))
        y = attention(y, attention.keys_and_values(y), bias, visibility, drops[0], held=True)
        x = x + drop(scatter(y), drops[1], c.dropout_rate)
        x = checkpoint_name(divide(x), "attended")
        y = gather(RMSNorm(c.layer_norm_epsilon, c.dtype, name="pre_mlp_layer_norm")(x))
        y = scatter(MLP(c, name="mlp")(y, drops[2]))
        return divide(x + drop(y, drops[3], c.dropout_rate)), None


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward."""

    config: T5Config

    @staticmethod
    def places(config: T5Config, keys: int, cross_keys: int) -> tuple[Place, ...]:
        """Return where a layer drops, given the numbers of keys of its attentions."""
        added = 1, config.emb_dim
        self_, cross = _attention_place(config, keys), _attention_place(config, cross_keys)
        return self_, added, cross, added, (0, config.mlp_dim), added

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

    def cross_keys_and_values(
        self, encoded: Float[Array, "b s d"], apart: Float[Array, "m b s d"] | None = None
    ) -> KeyValue:
        """Return keys and values of the encoder's output, which decoding computes once."""
        return self.encoder_decoder_attention.keys_and_values(encoded, apart)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        encoded: Float[Array, "b s d"],
        apart: Float[Array, "m b s d"] | None,
        bias: Bias | None,
        visibility: Visibility,
        cross_visibility: Visibility,
        masks: Masks | None,
    ) -> tuple[Float[Array, "b t d"], None]:
        """Run one layer over whole sequences; the second result is for scan.

        Without a bias of the stack the layer has its own.
        """
        bias = self.position_bias(x.shape[1]) if bias is None else bias
        attention = self.encoder_decoder_attention
        # Copies on several devices are there for the gradients of keys and values.
        kernels = attention.kernels(x.shape[1], encoded.shape[1]) if apart is None else None
        if kernels is None:
            cross = self.cross_keys_and_values(encoded, apart)
            return self.forward(x, cross, bias, visibility, cross_visibility, masks), None

        def read(y: Array, mask: Array | None) -> Array:
            return attention.read(y, encoded, kernels, cross_visibility, mask)

        return self._whole(x, read, bias, visibility, masks), None

    def forward(
        self,
        x: Float[Array, "b t d"],
        cross: KeyValue,
        bias: Bias,
        visibility: Visibility,
        cross_visibility: Visibility,
        masks: Masks | None,
    ) -> Float[Array, "b t d"]:
        """Run one layer over whole sequences, given the encoder's keys and values."""

        def read(y: Array, mask: Array | None) -> Array:
            return self.encoder_decoder_attention(y, cross, None, cross_visibility, mask)

        return self._whole(x, read, bias, visibility, masks)

    def _whole(
        self,
        x: Float[Array, "b t d"],
        read: Callable[[Array, Array | None], Array],
        bias: Bias,
        visibility: Visibility,
        masks: Masks | None,
    ) -> Float[Array, "b t d"]:
        """Run one layer, given what attends from normed states to the encoder's output."""
        rate = self.config.dropout_rate
        drops: Sequence[Array | None] = masks or [None] * 6
        y = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_and_values(y)
        y = self.self_attention(y, keys_values, bias, visibility, drops[0], held=True)
        x = checkpoint_name(x + drop(y, drops[1], rate), "attended")
        y = read(self.pre_cross_attention_layer_norm(x), drops[2])
        x = checkpoint_name(x + drop(y, drops[3], rate), "attended")
        y = self.mlp(self.pre_mlp_layer_norm(x), drops[4])
        return x + drop(y, drops[5], rate)

    def step(
        self,
        x: Float[Array, "b 1 d"],
        cache: KeyValue,
        cross: KeyValue,
        bias: Bias,
        position: Int[Array, "..."],
        cross_visibility: Visibility,
    ) -> tuple[Float[Array, "b 1 d"], KeyValue]:
        """Run one layer at one position, or at each row's own; keys and values are in the cache.

        A prefix fills the cache's first places, those beyond the positions of `bias`.
        """
        y = self.pre_self_attention_layer_norm(x)
        new = self.self_attention.own_keys_and_values(y)
        length = bias.dense.shape[-1]
        place = position + cache[0].shape[1] - length
        rows = x.shape[0]

        def put(old: Array, now: Array) -> Array:
            now = now.astype(old.dtype)
            if position.ndim == 0:
                return jax.lax.dynamic_update_slice_in_dim(old, now, place, axis=1)
            return old.at[jnp.arange(rows), place].set(now[:, 0])

        key, value = (put(old, now) for old, now in zip(cache, new, strict=True))
        filled = jnp.arange(length)[None] <= jnp.atleast_1d(position)[:, None]
        visibility = Visibility(
            jnp.ones((rows, 1), jnp.int32),
            jnp.broadcast_to(filled.astype(jnp.int32), (rows, length)),
        )
        x = x + self.self_attention(y, (key, value), bias, visibility)
        y = self.pre_cross_attention_layer_norm(x)
        x = x + self.encoder_decoder_attention(y, cross, None, cross_visibility)
        return x + self.mlp(self.pre_mlp_layer_norm(x)), (key, value)
