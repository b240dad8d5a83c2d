"""T5 as pure functions over a parameter tree: encode, decode, and decoding one token at a time.

A prompt reaches the model in one way: ids from `config.vocab_size` on are *virtual tokens*, rows of
the `table` given to `encode`. Whatever wrote those ids, before the text or inside a template, one
prompt a batch or many, padded or packed, the model is the same. Keys and values that belong
to no token (prefix-tuning) are leaves of the tree, see `spot_jax.t5.prefix`.

The tree has T5X's names, so that a T5X checkpoint's paths are ours:
`encoder/layers_0/attention/query/kernel`, `token_embedder/embedding`, ... With
`config.scan_layers` the layers of a stack are one subtree `layers` with a leading axis
(`stack_layers` makes it).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from spot_jax.t5.attention import Bias, Visibility, prepare
from spot_jax.t5.config import LIGHT, T5Config
from spot_jax.t5.dropout import Place, dropout, fold_in_rows, layer_masks
from spot_jax.t5.layers import (
    HELD,
    DecoderLayer,
    Dense,
    EncoderLayer,
    KeyValue,
    RelativePositionBias,
    RMSNorm,
    _fan_in_truncated,
    parameter,
)
from spot_jax.t5.target import copies, divide, gather

Params = Mapping[str, Any]
# Keys and values of all layers: a list over the layers, or with `scan_layers` a pair of arrays
# [layers, b, ...].
LayerValues = Any
_CallLayer = Callable[..., tuple[Any, Any]]


def _layer_class(layer: type[nn.Module], config: T5Config) -> type[nn.Module]:
    if not config.remat:
        return layer
    light = config.remat == LIGHT
    policy = jax.checkpoint_policies.save_only_these_names(*HELD) if light else None
    return nn.remat(layer, prevent_cse=not config.scan_layers, policy=policy)


class _Stack(nn.Module):
    """What encoder and decoder share: running the layers, one by one or scanned."""

    config: T5Config

    def run(
        self,
        layer: type[nn.Module],
        count: int,
        x: Float[Array, "b t d"],
        inputs: Sequence[Any],
        dropout_keys: Key[Array, " b"] | None,
        places: Sequence[Place],
    ) -> Float[Array, "b t d"]:
        """Run `count` layers named as in T5X, or scanned over stacked weights.

        Args:
            layer: class of the layers.
            count: number of the layers.
            x: activations.
            inputs: inputs that all layers share.
            dropout_keys: one key per row; None for no dropout.
            places: places of a layer that drop.
        """
        layer = _layer_class(layer, self.config)
        rate = self.config.dropout_rate
        if self.config.scan_layers:
            scanned = nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(*(nn.broadcast for _ in inputs), 0),
                length=count,
            )
            numbers = jnp.arange(count)
            masks = jax.vmap(lambda i: layer_masks(dropout_keys, i, places, rate))(numbers)
            return scanned(self.config, name="layers")(x, *inputs, masks)[0]
        for i in range(count):
            masks = layer_masks(dropout_keys, i, places, rate)
            x, _ = layer(self.config, name=f"layers_{i}")(x, *inputs, masks)
        return x

    def prefix_length(self, attention: str) -> int:
        """Return the number of keys that a prefix adds in an attention of every layer."""
        params = self.variables.get("params", {})
        layers = params.get("layers", params.get("layers_0", {}))
        prefix = layers.get(attention, {}).get("prefix_key")
        return 0 if prefix is None else prefix.shape[-3]


class Encoder(_Stack):
    """The encoder over embedded inputs."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        visibility: Visibility,
        dropout_keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b t d"]:
        """Encode `x`; dropout comes after the prompt's rows are in it, as in the reference."""
        c = self.config
        keys = [fold_in_rows(dropout_keys, i) for i in range(2)]
        bias = None
        if not c.relative_bias_per_layer:
            shared = RelativePositionBias(c, bidirectional=True, name="relpos_bias")
            bias = prepare(shared(*[x.shape[1]] * 2), visibility, c.attention)
        x = divide(dropout(x, keys[0], c.dropout_rate, site=0))
        inputs = (bias, visibility)
        places = EncoderLayer.places(c, x.shape[1] + self.prefix_length("attention"))
        x = self.run(EncoderLayer, c.num_encoder_layers, x, inputs, keys[1], places)
        x = RMSNorm(c.layer_norm_epsilon, c.dtype, name="encoder_norm")(x)
        return dropout(x, keys[0], c.dropout_rate, site=1)


class Decoder(_Stack):
    """The decoder over embedded targets, up to the logits."""

    def shared_bias(self, length: int) -> Bias | None:
        """Return the bias of `length` targets that all layers share; None where each has its own.

        It is called in compact methods only, whose parameters it makes.
        """
        if self.config.relative_bias_per_layer:
            return None
        return RelativePositionBias(self.config, False, name="relpos_bias")(length, length)

    def head(
        self,
        x: Float[Array, "b t d"],
        embedding: Float[Array, "v d"],
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b t v"]:
        """Apply the final norm and return float32 logits, by the head or the embedding table."""
        return self.product(self.states(x, dropout_keys), embedding)

    def states(
        self, x: Float[Array, "b t d"], dropout_keys: Key[Array, " b"] | None
    ) -> Float[Array, "b t d"]:
        """Return what the head multiplies: the last layer's output after the final norm."""
        c = self.config
        x = RMSNorm(c.layer_norm_epsilon, c.dtype, name="decoder_norm")(x)
        return dropout(x, dropout_keys, c.dropout_rate, site=1)

    @nn.compact
    def product(
        self, x: Float[Array, "b t d"], embedding: Float[Array, "v d"]
    ) -> Float[Array, "b t v"]:
        """Return float32 logits of the last states, by the head or the embedding table."""
        c = self.config
        if c.logits_via_embedding:
            # T5 1.0 scales by d ** -0.5 because embedding and head share one matrix.
            x = (x / jnp.sqrt(c.emb_dim)).astype(c.dtype)
            logits = jnp.einsum("btd,vd->btv", x, embedding.astype(c.dtype))
            return logits.astype(jnp.float32)
        # float32 whatever the activations are, as in T5X: the loss is a difference of logits.
        return Dense(c.vocab_size, "float32", _fan_in_truncated, name="logits_dense")(x)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        encoded: Float[Array, "b s d"],
        visibility: Visibility,
        cross_visibility: Visibility,
        dropout_keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b t d"]:
        """Return the last states [b, t, d] of whole target sequences."""
        c = self.config
        keys = [fold_in_rows(dropout_keys, i) for i in range(2)]
        bias = self.shared_bias(x.shape[1])
        x = dropout(x, keys[0], c.dropout_rate, site=0)
        encoded = gather(encoded)
        inputs = (encoded, copies(encoded), bias, visibility, cross_visibility)
        keys_seen = x.shape[1] + self.prefix_length("self_attention")
        cross = encoded.shape[1] + self.prefix_length("encoder_decoder_attention")
        places = DecoderLayer.places(c, keys_seen, cross)
        x = self.run(DecoderLayer, c.num_decoder_layers, x, inputs, keys[1], places)
        return self.states(x, keys[0])

    def each_layer(self, call: _CallLayer, carry: Any, *by_layer: LayerValues) -> tuple[Any, Any]:
        """Run `call` on every layer in turn, one by one or scanned over stacked weights.

        Args:
            call: function of a layer, the carry and the layer's part of each of `by_layer`, which
                returns the next carry and an output.
            carry: values that one layer hands to the next.
            by_layer: a list over the layers, or with `scan_layers` arrays with a leading axis.

        Returns:
            The last carry; and the outputs, as `by_layer` has them.
        """
        c = self.config
        if c.scan_layers:
            scanned = nn.scan(
                lambda layer, carry, parts: call(layer, carry, *parts),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=c.num_decoder_layers,
            )
            return scanned(DecoderLayer(c, name="layers"), carry, by_layer)
        outputs = []
        for i in range(c.num_decoder_layers):
            layer = DecoderLayer(c, name=f"layers_{i}")
            carry, output = call(layer, carry, *(values[i] for values in by_layer))
            outputs.append(output)
        return carry, outputs

    def biases(
        self, length: int, change: Callable[[Bias], Bias] = lambda bias: bias
    ) -> Callable[[DecoderLayer], Bias]:
        """Return what finds a layer's bias of `length` targets, changed; see `shared_bias`."""
        shared = self.shared_bias(length)
        if shared is None:
            return lambda layer: change(layer.position_bias(length))
        changed = change(shared)
        return lambda layer: changed

    @nn.compact
    def start(self, encoded: Float[Array, "b s d"], length: int) -> tuple[LayerValues, LayerValues]:
        """Return every layer's empty cache, and its keys and values of the encoder's output."""

        def started(layer: DecoderLayer, _: None) -> tuple[None, tuple[KeyValue, KeyValue]]:
            return None, (
                layer.empty_cache(encoded.shape[0], length),
                layer.cross_keys_and_values(encoded),
            )

        _, pairs = self.each_layer(started, None)
        if self.config.scan_layers:
            empty, cross = pairs
            return empty, cross
        return [empty for empty, _ in pairs], [cross for _, cross in pairs]

    @nn.compact
    def forward(
        self,
        x: Float[Array, "b t d"],
        crosses: LayerValues,
        visibility: Visibility,
        cross_visibility: Visibility,
        embedding: Float[Array, "v d"],
    ) -> Float[Array, "b t v"]:
        """Return float32 logits [b, t, vocab_size] from the encoder's keys and values."""
        bias = self.biases(x.shape[1])
        x = self._forward(x, crosses, bias, visibility, cross_visibility)
        return self.head(x, embedding)

    def _forward(
        self,
        x: Float[Array, "b t d"],
        crosses: LayerValues,
        bias: Callable[[DecoderLayer], Bias],
        visibility: Visibility,
        cross_visibility: Visibility,
    ) -> Float[Array, "b t d"]:
        def forward(layer: DecoderLayer, x: Array, cross: KeyValue) -> tuple[Array, None]:
            return layer.forward(x, cross, bias(layer), visibility, cross_visibility, None), None

        return self.each_layer(forward, x, crosses)[0]

    @nn.compact
    def tree(
        self,
        x: Float[Array, "b n d"],
        crosses: LayerValues,
        depths: Int[Array, "b n"],
        seen: Bool[Array, "b n n"],
        visibility: Visibility,
        cross_visibility: Visibility,
        length: int,
        embedding: Float[Array, "v d"],
    ) -> Float[Array, "b n v"]:
        """Return float32 logits [b, n, vocab_size] at the nodes of trees of targets."""

        def of_nodes(bias: Bias) -> Bias:
            # [h, b, n, n]: the bias of two depths, where a node sees the other.
            dense = bias.dense[0][:, depths[:, :, None], depths[:, None, :]]
            unseen = jnp.asarray(-1e9, dense.dtype)
            dense = jnp.where(seen[:, None], jnp.swapaxes(dense, 0, 1), unseen)
            before = bias.before
            if before is not None:
                before = jnp.swapaxes(before[0][:, depths], 0, 1)
            return dataclasses.replace(bias, dense=dense, before=before)

        bias = self.biases(length, of_nodes)
        x = self._forward(x, crosses, bias, visibility, cross_visibility)
        return self.head(x, embedding)

    @nn.compact
    def step(
        self,
        x: Float[Array, "b 1 d"],
        caches: LayerValues,
        crosses: LayerValues,
        position: Int[Array, "..."],
        cross_visibility: Visibility,
        embedding: Float[Array, "v d"],
        length: int,
    ) -> tuple[Float[Array, "b 1 v"], LayerValues]:
        """Return logits [b, 1, vocab_size] at one position, and the caches with it filled in."""

        def at_position(bias: Bias) -> Bias:
            before = None if bias.before is None else _row(bias.before, position)
            return dataclasses.replace(bias, dense=_row(bias.dense, position), before=before)

        bias = self.biases(length, at_position)

        def step(layer: DecoderLayer, x: Array, cross: KeyValue, cache: KeyValue) -> Any:
            return layer.step(x, cache, cross, bias(layer), position, cross_visibility)

        def step_in_place(layer: DecoderLayer, carry: Any, cross: KeyValue, number: Array) -> Any:
            # The caches are carried, since outputs of a scan would be a second copy of them all.
            x, caches = carry
            cache = jax.tree.map(lambda all: all[number], caches)
            x, cache = step(layer, x, cross, cache)
            return (x, jax.tree.map(lambda all, new: all.at[number].set(new), caches, cache)), None

        if self.config.scan_layers:
            numbers = jnp.arange(self.config.num_decoder_layers)
            (x, new), _ = self.each_layer(step_in_place, (x, caches), crosses, numbers)
        else:
            x, new = self.each_layer(step, x, crosses, caches)
        return self.head(x, embedding), new


def _row(bias: Float[Array, "1 h t s"], position: Int[Array, "..."]) -> Float[Array, "#b h 1 s"]:
    """Return the bias of the query at a position, or at each row's own."""
    if position.ndim == 0:
        return jax.lax.dynamic_slice_in_dim(bias, position, 1, axis=2)
    return jnp.swapaxes(bias[0][:, position], 0, 1)[:, :, None]


class T5(nn.Module):
    """The modules under T5X's names; use the functions of this file rather than the class."""

    config: T5Config

    def setup(self) -> None:
        """Create encoder and decoder, which share the embedding table."""
        c = self.config
        self.token_embedder = Embedder((c.vocab_size, c.emb_dim), c.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)

    def encode(
        self,
        tokens: Int[Array, "b t"],
        table: Float[Array, "r d"] | None,
        segment_ids: Int[Array, "b t"] | None,
        dropout_keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b t d"]:
        """Encode tokens; see the function `encode`."""
        x = self.token_embedder(tokens, table)
        segments = _segments(tokens, segment_ids)
        return self.encoder(x, Visibility(segments, segments), dropout_keys)

    def decode(
        self,
        encoded: Float[Array, "b s d"],
        encoder_tokens: Int[Array, "b s"],
        inputs: Int[Array, "b t"],
        targets: Int[Array, "b t"],
        encoder_segments: Int[Array, "b s"] | None,
        segments: Int[Array, "b t"] | None,
        dropout_keys: Key[Array, " b"] | None,
    ) -> Float[Array, "b t d"]:
        """Decode whole targets up to the head; see the function `decode_states`."""
        target_segments = _segments(targets, segments)
        visibility = Visibility(target_segments, target_segments, causal=True)
        cross_visibility = Visibility(target_segments, _segments(encoder_tokens, encoder_segments))
        visible = (visibility, cross_visibility)
        return self.decoder(self.token_embedder(inputs), encoded, *visible, dropout_keys)

    def head(self, states: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """Return the logits of last states; see the function `head`."""
        return self.decoder.product(states, self.token_embedder.table())

    def start(self, encoded: Float[Array, "b s d"], length: int) -> tuple[LayerValues, LayerValues]:
        """Return every layer's empty cache, and its keys and values of the encoder's output."""
        return self.decoder.start(encoded, length)

    def forward(
        self,
        inputs: Int[Array, "b t"],
        targets: Int[Array, "b t"],
        crosses: LayerValues,
        encoder_visibility: Visibility,
    ) -> Float[Array, "b t v"]:
        """Decode whole targets from a cache; see the function `decode_cached`."""
        segments = _segments(targets, None)
        visibility = Visibility(segments, segments, causal=True)
        cross_visibility = dataclasses.replace(encoder_visibility, query_segments=segments)
        x, table = self.token_embedder(inputs), self.token_embedder.table()
        return self.decoder.forward(x, crosses, visibility, cross_visibility, table)

    def tree(
        self,
        tokens: Int[Array, "b n"],
        depths: Int[Array, "b n"],
        seen: Bool[Array, "b n n"],
        crosses: LayerValues,
        encoder_visibility: Visibility,
        length: int,
        segments: Int[Array, "b n"] | None,
    ) -> Float[Array, "b n v"]:
        """Decode trees of targets from a cache; see the function `decode_tree`."""
        all_real = jnp.ones(tokens.shape, jnp.int32)
        visibility = Visibility(all_real, all_real)
        queries = all_real if segments is None else segments
        cross_visibility = dataclasses.replace(encoder_visibility, query_segments=queries)
        x, table = self.token_embedder(tokens), self.token_embedder.table()
        nodes = depths, seen, visibility, cross_visibility
        return self.decoder.tree(x, crosses, *nodes, length, table)

    def step(
        self,
        tokens: Int[Array, "b 1"],
        caches: LayerValues,
        crosses: LayerValues,
        position: Int[Array, "..."],
        cross_visibility: Visibility,
        length: int,
    ) -> tuple[Float[Array, "b 1 v"], LayerValues]:
        """Decode one position."""
        x = self.token_embedder(tokens)
        table = self.token_embedder.table()
        return self.decoder.step(x, caches, crosses, position, cross_visibility, table, length)

    def __call__(
        self, tokens: Int[Array, "b s"], targets: Int[Array, "b t"]
    ) -> Float[Array, "b t v"]:
        """Touch every parameter; used to initialise."""
        encoded = self.encode(tokens, None, None, None)
        return self.head(self.decode(encoded, tokens, targets, targets, None, None, None))


class Embedder(nn.Module):
    """The embedding table, and virtual tokens beyond its last row."""

    shape: tuple[int, int]
    dtype: str

    def setup(self) -> None:
        """Create the one table of encoder and decoder."""
        self.embedding = parameter(self, "embedding", nn.initializers.normal(1.0), self.shape)

    def table(self) -> Float[Array, "v d"]:
        """Return the embedding table, for tied heads."""
        return self.embedding

    def __call__(
        self, ids: Int[Array, "b t"], virtual: Float[Array, "r d"] | None = None
    ) -> Float[Array, "b t d"]:
        """Embed ids: where(ids < V, E[ids], virtual[ids - V])."""
        size = self.shape[0]
        x = self.embedding[jnp.minimum(ids, size - 1)].astype(self.dtype)
        if virtual is None:
            return x
        rows = virtual[jnp.clip(ids - size, 0, virtual.shape[0] - 1)].astype(self.dtype)
        return jnp.where((ids < size)[..., None], x, rows)


def _segments(
    tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None
) -> Int[Array, "b t"]:
    """Return each position's segment: 1 where nothing is packed, 0 at padding."""
    real = (tokens > 0).astype(jnp.int32)
    return real if segment_ids is None else real * segment_ids


def init_params(key: Key[Array, ""], config: T5Config) -> dict:
    """Return random float32 parameters by T5X's initialisers, layers not stacked."""
    ones = jnp.ones((1, 1), jnp.int32)
    plain = dataclasses.replace(config, scan_layers=False, remat=False)
    return jax.jit(T5(plain).init)(key, ones, ones)["params"]


def encode(
    params: Params,
    config: T5Config,
    tokens: Int[Array, "b t"],
    *,
    table: Float[Array, "r d"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
    dropout_keys: Key[Array, " b"] | None = None,
) -> Float[Array, "b t d"]:
    """Return the encoder's output.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        table: rows of the virtual tokens: id `vocab_size + i` is row i.
        segment_ids: number of each position's example in a packed batch, from 1; 0 is padding.
        dropout_keys: one key per row; None for no dropout.

    Returns:
        Activations in `config.dtype`; at padding they are without meaning.
    """
    return _apply(T5.encode, params, config, tokens, table, segment_ids, dropout_keys)


def decode(
    params: Params,
    config: T5Config,
    encoded: Float[Array, "b t d"],
    encoder_tokens: Int[Array, "b t"],
    decoder_input_tokens: Int[Array, "b u"],
    decoder_target_tokens: Int[Array, "b u"],
    *,
    encoder_segment_ids: Int[Array, "b t"] | None = None,
    decoder_segment_ids: Int[Array, "b u"] | None = None,
    dropout_keys: Key[Array, " b"] | None = None,
) -> Float[Array, "b u v"]:
    """Return float32 logits at every target position, given the targets before it.

    See `decode_states`, of which these are the `head`'s.
    """
    states = decode_states(
        params,
        config,
        encoded,
        encoder_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids=encoder_segment_ids,
        decoder_segment_ids=decoder_segment_ids,
        dropout_keys=dropout_keys,
    )
    return head(params, config, states)


def head(params: Params, config: T5Config, states: Float[Array, "b u d"]) -> Float[Array, "b u v"]:
    """Return float32 logits of the decoder's last states."""
    return _apply(T5.head, params, config, states)


def decode_states(
    params: Params,
    config: T5Config,
    encoded: Float[Array, "b t d"],
    encoder_tokens: Int[Array, "b t"],
    decoder_input_tokens: Int[Array, "b u"],
    decoder_target_tokens: Int[Array, "b u"],
    *,
    encoder_segment_ids: Int[Array, "b t"] | None = None,
    decoder_segment_ids: Int[Array, "b u"] | None = None,
    dropout_keys: Key[Array, " b"] | None = None,
) -> Float[Array, "b u d"]:
    """Return what the head multiplies at every target position, given the targets before it.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoded: output of the encoder.
        encoder_tokens: ids of the encoder; positions with 0 are not attended to.
        decoder_input_tokens: targets shifted right by one, 0 at each segment's start.
        decoder_target_tokens: targets; 0 is padding.
        encoder_segment_ids: segments of a packed batch, as in `encode`.
        decoder_segment_ids: segments of the targets; each attends to its own inputs only.
        dropout_keys: one key per row; None for no dropout.
    """
    return _apply(
        T5.decode,
        params,
        config,
        encoded,
        encoder_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids,
        decoder_segment_ids,
        dropout_keys,
    )


def _apply(method: Callable[..., Any], params: Params, config: T5Config, *arguments: Any) -> Any:
    # Flax types every result as "anything, perhaps with variables"; callers say what it is.
    return T5(config).apply({"params": params}, *arguments, method=method)


@struct.dataclass
class Cache:
    """What decoding remembers.

    Attributes:
        self_attention: keys and values of each decoder layer, [b, p + length, heads, head_dim],
            those of a prefix first; see `LayerValues`.
        cross_attention: keys and values of the encoder's output for each decoder layer.
        cross_visibility: visibility of the encoder's positions, which hides padding.
        length: number of target positions.
        row_axis: the axis of keys and values that is the batch: 1 where layers are stacked, else 0.
    """

    self_attention: LayerValues
    cross_attention: LayerValues
    cross_visibility: Visibility
    length: int = struct.field(pytree_node=False)
    row_axis: int = struct.field(pytree_node=False)

    def take(self, rows: Int[Array, " n"]) -> "Cache":
        """Return the cache of some rows of the batch."""

        def of_rows(x: Array) -> Array:
            return jnp.take(x, rows, axis=self.row_axis)

        return dataclasses.replace(
            self,
            self_attention=jax.tree.map(of_rows, self.self_attention),
            cross_attention=jax.tree.map(of_rows, self.cross_attention),
            cross_visibility=jax.tree.map(lambda x: x[rows], self.cross_visibility),
        )

    def put(self, rows: Int[Array, " n"], some: "Cache") -> "Cache":
        """Return the cache with what `some` has of targets in some rows of the batch."""
        place = (slice(None),) * self.row_axis + (rows,)

        def with_rows(all: Array, new: Array) -> Array:
            return all.at[place].set(new)

        changed = jax.tree.map(with_rows, self.self_attention, some.self_attention)
        return dataclasses.replace(self, self_attention=changed)


def start_cache(
    params: Params,
    config: T5Config,
    encoded: Float[Array, "b t d"],
    encoder_tokens: Int[Array, "b t"],
    max_length: int,
    *,
    segment_ids: Int[Array, "b t"] | None = None,
) -> Cache:
    """Return an empty cache for `max_length` target positions; `segment_ids` as in `encode`."""
    empty, cross = _apply(T5.start, params, config, encoded, max_length)
    real = _segments(encoder_tokens, segment_ids)
    visibility = Visibility(jnp.ones((len(real), 1), jnp.int32), real)
    return Cache(empty, cross, visibility, max_length, row_axis=int(config.scan_layers))


def decode_cached(
    params: Params,
    config: T5Config,
    cache: Cache,
    decoder_input_tokens: Int[Array, "b u"],
    decoder_target_tokens: Int[Array, "b u"],
) -> Float[Array, "b u v"]:
    """Compute what `decode` does from a cache, so that many targets share the encoder's keys.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        cache: result of `start_cache`; its self-attention is not used.
        decoder_input_tokens: targets shifted right by one, 0 at the start.
        decoder_target_tokens: targets; 0 is padding.

    Returns:
        Float32 logits at every target position.
    """
    tokens = decoder_input_tokens, decoder_target_tokens
    encoder = cache.cross_attention, cache.cross_visibility
    return _apply(T5.forward, params, config, *tokens, *encoder)


def decode_tree(
    params: Params,
    config: T5Config,
    cache: Cache,
    tokens: Int[Array, "b n"],
    depths: Int[Array, "b n"],
    seen: Bool[Array, "b n n"],
    length: int,
    segments: Int[Array, "b n"] | None = None,
) -> Float[Array, "b n v"]:
    """Decode targets that share their first tokens, each shared one once.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        cache: result of `start_cache`; its self-attention is not used.
        tokens: decoder input of each node; 0 at the root.
        depths: number of nodes before a node on its path; 0 at the root.
        seen: True where a node (first) sees another, which is one on its path or itself.
        length: number greater than all depths.
        segments: number of the text that each node belongs to, where the rows of the cache hold
            several packed texts; a node attends to its own.

    Returns:
        Float32 logits of what follows each node.
    """
    # The one form of attention whose bias may differ from row to row.
    config = dataclasses.replace(config, attention="plain")
    encoder = cache.cross_attention, cache.cross_visibility
    return _apply(T5.tree, params, config, tokens, depths, seen, *encoder, length, segments)


def decode_step(
    params: Params,
    config: T5Config,
    cache: Cache,
    tokens: Int[Array, " b"],
    position: Int[Array, ""] | Int[Array, " b"] | int,
) -> tuple[Float[Array, "b v"], Cache]:
    """Return float32 logits of what follows `tokens`, which are at `position` (0 is the start).

    With a position for each row what the cache holds of later positions is not seen.

    Returns:
        The logits, and the cache with this position filled in.
    """
    logits, extended = _apply(
        T5.step,
        params,
        config,
        tokens[:, None],
        cache.self_attention,
        cache.cross_attention,
        jnp.asarray(position, jnp.int32),
        cache.cross_visibility,
        cache.length,
    )
    return logits[:, 0], dataclasses.replace(cache, self_attention=extended)


def stack_layers(params: Params, config: T5Config) -> dict:
    """Return the tree that `scan_layers` runs on: layers in one subtree with a leading axis.

    Args:
        params: tree with `encoder/layers_0`, `encoder/layers_1`, ...
        config: shape of the model, for the numbers of layers.
    """
    stacked = {"token_embedder": params["token_embedder"]}
    for side, count in _sides(config):
        layers = [params[side][f"layers_{i}"] for i in range(count)]
        rest = {k: v for k, v in params[side].items() if not k.startswith("layers_")}
        stacked[side] = {**rest, "layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
    return stacked


def unstack_layers(params: Params, config: T5Config) -> dict:
    """Invert `stack_layers`."""
    flat = {"token_embedder": params["token_embedder"]}
    for side, count in _sides(config):
        rest = {k: v for k, v in params[side].items() if k != "layers"}
        layers = params[side]["layers"]
        for i in range(count):
            rest[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], layers)
        flat[side] = rest
    return flat


def _sides(config: T5Config) -> tuple[tuple[str, int], ...]:
    return ("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)
