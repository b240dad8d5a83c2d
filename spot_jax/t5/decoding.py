"""Greedy and beam search, one token at a time over a cache of keys and values.

Both functions are pure and meant to run inside `jax.jit` with `config`, `max_length` and `beams`
static. The encoder runs once per row; beams share its keys and values instead of copying them. A
row's result depends on that row alone, neither on padding nor on a neighbour that takes longer.
Rows of padding only, as at the end of a split, never keep the loop waiting.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import Cache, LayerValues, Params, decode_step, encode, start_cache

START = 0


def greedy(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    *,
    max_length: int,
    table: Float[Array, "r d"] | None = None,
    encoded: Float[Array, "b t d"] | None = None,
    eos_id: int = 1,
) -> Int[Array, "b l"]:
    """Write the most likely token at each position, until every row has ended.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        max_length: largest number of tokens to write, eos included.
        table: rows of the virtual tokens.
        encoded: output of the encoder; None computes it here.
        eos_id: the token that ends a row.

    Returns:
        Tokens int32 [b, max_length], 0 after eos. Raises `SpotError` when `max_length` is below 1.
    """
    cache = _start(params, config, encoder_tokens, table, encoded, max_length)

    def unfinished(state: tuple[Array, Array, Array, Cache]) -> Bool[Array, ""]:
        position, _, ended, _ = state
        return (position < max_length) & ~jnp.all(ended)

    def step(state: tuple[Array, Array, Array, Cache]) -> tuple[Array, Array, Array, Cache]:
        position, tokens, ended, cache = state
        # Column 0 is the start token, so column `position` is what was written last.
        last = jax.lax.dynamic_index_in_dim(tokens, position, axis=1, keepdims=False)
        logits, cache = decode_step(params, config, cache, last, position)
        new = jnp.where(ended, 0, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, new, position + 1, axis=1)
        return position + 1, tokens, ended | (new == eos_id), cache

    rows = encoder_tokens.shape[0]
    tokens = jnp.full((rows, max_length + 1), START, jnp.int32)
    state = (jnp.int32(0), tokens, ~_real(encoder_tokens), cache)
    return jax.lax.while_loop(unfinished, step, state)[1][:, 1:]


@struct.dataclass
class _Beams:
    """The state of a beam search: k live and k finished sequences per row, best first.

    Scores of -inf mark sequences that do not exist.
    """

    position: Int[Array, ""]
    live: Int[Array, "b k m"]  # m: the start token and the longest length
    log_probs: Float[Array, "b k"]
    finished: Int[Array, "b k m"]
    scores: Float[Array, "b k"]
    cache: LayerValues


def beam_search(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    *,
    max_length: int,
    beams: int = 4,
    alpha: float = 0.6,
    table: Float[Array, "r d"] | None = None,
    encoded: Float[Array, "b t d"] | None = None,
    eos_id: int = 1,
) -> tuple[Int[Array, "b k l"], Float[Array, "b k"]]:
    """Search with beams by T5X's rules, so that the scores can be compared with T5X's.

    A sequence that ends with eos scores log p / ((5 + n) / 6) ** alpha, n counting eos (Wu 2016).
    Every step keeps the `beams` best sequences without eos alive and the `beams` best of all with
    eos; the search stops when no live sequence of any row can still beat that row's finished ones.
    A row of which nothing ended within `max_length` returns its live sequences, whose scores are
    plain log p. One beam is therefore not greedy search: an eos that is second best can still win.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        max_length: largest number of tokens to write, eos included.
        beams: number of sequences per row, k.
        alpha: strength of the length penalty; 0 for none.
        table: rows of the virtual tokens.
        encoded: output of the encoder; None computes it here.
        eos_id: the token that ends a sequence.

    Returns:
        Tokens int32 [b, k, max_length], best first, 0 after eos; and their scores, float32. A row
        with fewer than k sequences fills up with zeros of score -inf. Raises `SpotError` when
        `max_length` or `beams` is below 1.
    """
    if beams < 1:
        raise SpotError(f"expected 1 beam or more, found {beams}; give 1 to 16")
    cache = _start(params, config, encoder_tokens, table, encoded, max_length)

    def open_rows(state: _Beams) -> Bool[Array, ""]:
        # A live sequence's log p only falls, and the longest length divides it by most.
        bound = state.log_probs[:, 0] / _length_penalty(max_length, alpha)
        over = (jnp.min(state.scores, axis=1) > bound) | jnp.isneginf(bound)
        return (state.position < max_length) & ~jnp.all(over)

    def step(state: _Beams) -> _Beams:
        logits, extended = _step_beams(params, config, cache, state)
        return _extend(state, extended, jax.nn.log_softmax(logits), alpha, eos_id, cache.row_axis)

    real = _real(encoder_tokens)[:, None]
    state = jax.lax.while_loop(open_rows, step, _first(cache, real, beams, max_length))
    ended = ~jnp.isneginf(state.scores[:, :1])
    scores = jnp.where(ended, state.scores, state.log_probs)
    tokens = jnp.where(ended[:, :, None], state.finished, state.live)[:, :, 1:]
    return jnp.where(jnp.isneginf(scores)[:, :, None], 0, tokens), scores


def _start(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    table: Float[Array, "r d"] | None,
    encoded: Float[Array, "b t d"] | None,
    max_length: int,
) -> Cache:
    if max_length < 1:
        raise SpotError(
            f"expected a target length of 1 or more, found {max_length}; give room for a token"
        )
    if encoded is None:
        encoded = encode(params, config, encoder_tokens, table=table)
    return start_cache(params, config, encoded, encoder_tokens, max_length)


def _real(encoder_tokens: Int[Array, "b t"]) -> Bool[Array, " b"]:
    return jnp.any(encoder_tokens > 0, axis=1)


def _length_penalty(length: Int[Array, ""] | int, alpha: float) -> Float[Array, ""] | float:
    return ((5.0 + length) / 6.0) ** alpha


def _first(cache: Cache, real: Bool[Array, "b 1"], beams: int, max_length: int) -> _Beams:
    # One live sequence, the empty one: k equal ones would stay equal for ever.
    rows = real.shape[0]
    alone = real & (jnp.arange(beams) == 0)[None]
    tokens = jnp.full((rows, beams, max_length + 1), START, jnp.int32)

    axis = cache.row_axis + 1

    def per_beam(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], beams, *x.shape[axis:]))

    return _Beams(
        position=jnp.int32(0),
        live=tokens,
        log_probs=jnp.where(alone, 0.0, -jnp.inf),
        finished=tokens,
        scores=jnp.full((rows, beams), -jnp.inf),
        cache=jax.tree.map(per_beam, cache.self_attention),
    )


def _step_beams(
    params: Params, config: T5Config, cache: Cache, state: _Beams
) -> tuple[Float[Array, "b k v"], LayerValues]:
    """Return logits [b, k, v] after the live sequences, and their cache with this position."""

    # Mapped over beams with the encoder's keys and values held still: the matrix products get k
    # queries per row, and nothing of the encoder's length is copied k times.
    def step_beam(self_attention: LayerValues, tokens: Int[Array, " b"]) -> Any:
        whole = dataclasses.replace(cache, self_attention=self_attention)
        logits, new = decode_step(params, config, whole, tokens, state.position)
        return logits, new.self_attention

    last = jax.lax.dynamic_index_in_dim(state.live, state.position, axis=2, keepdims=False)
    axes = cache.row_axis + 1
    return jax.vmap(step_beam, in_axes=(axes, 1), out_axes=(1, axes))(state.cache, last)


def _extend(
    state: _Beams,
    cache: LayerValues,
    log_probs: Float[Array, "b k v"],
    alpha: float,
    eos_id: int,
    row_axis: int,
) -> _Beams:
    """Extend by one token: the best live sequences, and the best finished of old and new."""
    rows, beams, size = log_probs.shape
    length = state.position + 1
    total = (state.log_probs[:, :, None] + log_probs).reshape(rows, beams * size)
    # At most one continuation of each sequence is eos, so the k live ones are among the best 2k.
    total, index = jax.lax.top_k(total, 2 * beams)
    parent, token = index // size, (index % size).astype(jnp.int32)
    ended = token == eos_id
    sequences = jax.lax.dynamic_update_index_in_dim(
        _take(state.live, parent), token, length, axis=2
    )

    live, survivors = jax.lax.top_k(jnp.where(ended, -jnp.inf, total), beams)
    score = jnp.where(ended, total / _length_penalty(length, alpha), -jnp.inf)
    scores, chosen = jax.lax.top_k(jnp.concatenate([state.scores, score], axis=1), beams)
    finished = jnp.concatenate([state.finished, sequences], axis=1)
    origin = _take(parent, survivors)
    return _Beams(
        position=length,
        live=_take(sequences, survivors),
        log_probs=live,
        finished=_take(finished, chosen),
        scores=scores,
        cache=jax.tree.map(lambda x: _take(x, origin, row_axis), cache),
    )


def _take(x: Shaped[Array, "..."], index: Int[Array, "b m"], axis: int = 0) -> Shaped[Array, "..."]:
    """Take `index` of the axis after the batch's, which is `axis`."""
    return jax.vmap(lambda row, i: jnp.take(row, i, axis), (axis, 0), axis)(x, index)
