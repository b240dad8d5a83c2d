"""Log-likelihoods of given targets, and rank classification over verbalizers."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import (
    Cache,
    Params,
    decode,
    decode_cached,
    decode_step,
    encode,
    start_cache,
)
from spot_jax.t5.vocabulary import EOS, TextCodec

# Bytes of logits that ranking holds at a time; the log-softmax needs about as much again.
_LOGITS_BYTES = 2**28
# `choose_label` leaves decided rows out once so small a part of them, one of so many, is undecided.
_PARTS = 4


def token_log_likelihoods(
    params: Params,
    config: T5Config,
    batch: Mapping[str, Array],
    *,
    table: Float[Array, "r d"] | None = None,
    encoded: Float[Array, "b t d"] | None = None,
) -> Float[Array, "b u"]:
    """Return log p of each target token given those before it, 0 where its loss weight is 0.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        batch: features by T5X's names, packed or not; weights are `decoder_loss_weights`.
        table: rows of the virtual tokens.
        encoded: output of the encoder; None computes it here.
    """
    tokens, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    if encoded is None:
        encoded = encode(params, config, tokens, table=table, segment_ids=segments)
    logits = decode(
        params,
        config,
        encoded,
        tokens,
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        encoder_segment_ids=segments,
        decoder_segment_ids=batch.get("decoder_segment_ids"),
    )
    chosen = _log_probs(logits, batch["decoder_target_tokens"])
    return chosen * batch["decoder_loss_weights"].astype(jnp.float32)


def sequence_log_likelihood(
    params: Params,
    config: T5Config,
    batch: Mapping[str, Array],
    *,
    table: Float[Array, "r d"] | None = None,
) -> Float[Array, " b"]:
    """Return log p of each row's targets, the sum over its tokens; arguments as above."""
    return jnp.sum(token_log_likelihoods(params, config, batch, table=table), axis=1)


def segment_log_likelihoods(
    params: Params,
    config: T5Config,
    batch: Mapping[str, Array],
    segments: int,
    *,
    table: Float[Array, "r d"] | None = None,
) -> Float[Array, "b n"]:
    """Return log p of each packed segment's targets.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        batch: features of a packed batch.
        segments: number of columns of the result, n; segment i of a row is in column i - 1.
            Segments beyond n are left out, columns beyond a row's last segment are 0.
        table: rows of the virtual tokens.
    """
    tokens = token_log_likelihoods(params, config, batch, table=table)
    numbers = jnp.arange(1, segments + 1)[None, None, :]
    belongs = jnp.asarray(batch["decoder_segment_ids"])[:, :, None] == numbers
    return jnp.sum(jnp.where(belongs, tokens[:, :, None], 0.0), axis=1)


def rank_labels(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    label_tokens: Int[Array, "c u"],
    *,
    table: Float[Array, "r d"] | None = None,
    encoded: Float[Array, "b t d"] | None = None,
    normalise: bool = False,
) -> Float[Array, "b c"]:
    """Score every verbalizer after every input by log p; the largest in a row is the class.

    Inputs are encoded once. Labels are decoded against that in chunks, as many at a time as keep
    the logits within a fixed size, so 150 labels need no more memory than a few. Where only the
    best label counts, `choose_label` does less.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        label_tokens: tokens of one verbalizer per row with its eos, 0 is padding.
        table: rows of the virtual tokens.
        encoded: output of the encoder; None computes it here.
        normalise: whether to divide by a verbalizer's number of tokens, for unlike lengths.
    """
    label_tokens = jnp.asarray(label_tokens)
    cache = _encoder_cache(params, config, encoder_tokens, table, encoded)
    rows, (count, length) = encoder_tokens.shape[0], label_tokens.shape

    def score(label: Int[Array, " u"]) -> Float[Array, " b"]:
        targets = jnp.broadcast_to(label[None], (rows, length))
        logits = decode_cached(params, config, cache, _shifted(targets), targets)
        total = jnp.sum(_log_probs(logits, targets) * (label > 0)[None], axis=1)
        return total / _divisors(label, normalise)

    chunk = max(1, _LOGITS_BYTES // (4 * rows * length * config.vocab_size))
    if count <= chunk:
        return jax.vmap(score)(label_tokens).T
    return jax.lax.map(score, label_tokens, batch_size=chunk).T


def rank_candidates(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    candidates: Int[Array, "b c u"],
    *,
    table: Float[Array, "r d"] | None = None,
    encoded: Float[Array, "b t d"] | None = None,
    normalise: bool = False,
) -> Float[Array, "b c"]:
    """Score the answers that each input has to itself by log p; the largest in a row is chosen.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        candidates: tokens of every answer with its eos, 0 is padding; one of padding only is no
            answer, and scores -inf.
        table: rows of the virtual tokens.
        encoded: output of the encoder; None computes it here.
        normalise: whether to divide by an answer's number of tokens, for unlike lengths.
    """
    candidates = jnp.asarray(candidates)
    cache = _encoder_cache(params, config, encoder_tokens, table, encoded)

    def score(targets: Int[Array, "b u"]) -> Float[Array, " b"]:
        logits = decode_cached(params, config, cache, _shifted(targets), targets)
        total = jnp.sum(_log_probs(logits, targets) * (targets > 0), axis=1)
        total = total / _divisors(targets, normalise)
        return jnp.where(jnp.any(targets > 0, axis=1), total, -jnp.inf)

    return jax.lax.map(score, jnp.moveaxis(candidates, 1, 0)).T


@struct.dataclass
class _Race:
    """How far the search is in each row.

    Attributes:
        bounds: upper bounds of the labels' scores; -inf for a scored label, out of the race.
        scores: scores of the labels that were read to their end, -inf for the others.
        current: number of the label that is being read.
        depth: number of its tokens that were read.
        before: log p of that label's first tokens, so many of them, up to `depth`.
        cache: what decoding remembers of those tokens.
    """

    bounds: Float[Array, "b c"]
    scores: Float[Array, "b c"]
    current: Int[Array, " b"]
    depth: Int[Array, " b"]
    before: Float[Array, "b u"]
    cache: Cache

    def take(self, rows: Int[Array, " n"]) -> "_Race":
        """Return the race of some rows."""
        parts = {name: value[rows] for name, value in self._by_row().items()}
        return dataclasses.replace(self, **parts, cache=self.cache.take(rows))

    def put(self, rows: Int[Array, " n"], race: "_Race") -> "_Race":
        """Return the race with some rows as `race` has them."""
        parts = race._by_row()
        changed = {name: x.at[rows].set(parts[name]) for name, x in self._by_row().items()}
        return dataclasses.replace(self, **changed, cache=self.cache.put(rows, race.cache))

    def _by_row(self) -> dict[str, Array]:
        names = ("bounds", "scores", "current", "depth", "before")
        return {name: getattr(self, name) for name in names}


def choose_label(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    label_tokens: Int[Array, "c u"],
    *,
    table: Float[Array, "r d"] | None = None,
    encoded: Float[Array, "b t d"] | None = None,
    normalise: bool = False,
    valid: Bool[Array, " b"] | None = None,
) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """Find the most likely verbalizer of every input: the argmax of `rank_labels` for less.

    log p of a label is a sum of numbers below 0, so that of its first tokens is a bound on it. A
    token is decoded at a time, of the label with the best bound, and bounds all labels that begin
    as far alike by their own next tokens. Once no bound is above the best score the best of 150
    labels is found, after about as many steps as it has tokens where the model is sure.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        label_tokens: tokens of one verbalizer per row with its eos, 0 is padding; no two alike.
        table: rows of the virtual tokens.
        encoded: output of the encoder; None computes it here.
        normalise: whether to divide by a verbalizer's number of tokens, for unlike lengths.
        valid: rows that matter; the search does not go on for the others.

    Returns:
        Numbers of labels, int32, and their scores. Scores that differ by less than 1e-5 may be
        taken for equal.
    """
    label_tokens = jnp.asarray(label_tokens)
    rows, (count, length) = encoder_tokens.shape[0], label_tokens.shape
    divisors = _divisors(label_tokens, normalise)
    last = jnp.sum(label_tokens > 0, axis=1) - 1
    # Leading tokens that two labels share; a label shares all of them with itself.
    same = label_tokens[:, None] == label_tokens[None, :]
    shared = jnp.sum(jnp.cumprod(same, axis=2), axis=2)
    counts = jnp.ones(rows, bool) if valid is None else valid

    def undecided(race: _Race) -> Bool[Array, " b"]:
        best, bound = jnp.max(race.scores, axis=1), jnp.max(race.bounds, axis=1)
        # A bound is a sum in another order than the score: rounding must not decide.
        return counts & ~jnp.isneginf(bound) & (bound > best - 1e-5)

    def step(race: _Race) -> _Race:
        """Read a token in every row."""
        row = jnp.arange(len(race.depth))
        spelled = label_tokens[race.current, jnp.maximum(race.depth - 1, 0)]
        token = jnp.where(race.depth > 0, spelled, 0)
        logits, cache = decode_step(params, config, race.cache, token, race.depth)
        following = label_tokens.T[race.depth]
        here = race.before[row, race.depth] - jax.nn.logsumexp(logits, axis=1)
        totals = here[:, None] + jnp.take_along_axis(logits, following, axis=1)
        begins = shared[race.current] >= race.depth[:, None]
        reached = jnp.where(begins, totals / divisors[None], jnp.inf)
        ends = begins & (last[None] == race.depth[:, None])
        bounds = jnp.where(ends, -jnp.inf, jnp.minimum(race.bounds, reached))
        scores = jnp.where(ends, totals / divisors[None], race.scores)
        current = jnp.argmax(bounds, axis=1).astype(jnp.int32)
        depth = jnp.minimum(race.depth + 1, shared[race.current, current])
        # A label that is read to its end has no token behind it.
        depth = jnp.minimum(depth, length - 1)
        before = race.before.at[row, race.depth + 1].set(totals[row, current], mode="drop")
        return _Race(bounds, scores, current, depth, before, cache)

    def step_of_some(race: _Race) -> _Race:
        number = jax.lax.top_k(undecided(race), max(1, rows // _PARTS))[1]
        stepped = step(race.take(number))
        return race.put(number, stepped)

    zeros = jnp.zeros(rows, jnp.int32)
    if encoded is None:
        encoded = encode(params, config, encoder_tokens, table=table)
    cache = start_cache(params, config, encoded, encoder_tokens, length)
    scores = jnp.full((rows, count), -jnp.inf)
    nothing = jnp.zeros((rows, count)), scores, zeros, zeros, jnp.zeros((rows, length))
    race = _Race(*nothing, cache)
    # Once most rows are decided the others go on without them. On several devices rows stay where
    # they are.
    few = rows // _PARTS if jax.device_count() == 1 else 0
    race = jax.lax.while_loop(lambda race: jnp.sum(undecided(race)) > few, step, race)
    if few:
        race = jax.lax.while_loop(lambda race: jnp.any(undecided(race)), step_of_some, race)
    return jnp.argmax(race.scores, axis=1).astype(jnp.int32), jnp.max(race.scores, axis=1)


def label_matrix(vocabulary: TextCodec, labels: Sequence[str]) -> Int[np.ndarray, "c u"]:
    """Return verbalizers as tokens with eos, one per row, padded with 0 to the longest.

    Raises `SpotError` when two of them have the same tokens, which no model could distinguish.
    """
    rows = [[*vocabulary.encode(label), EOS] for label in labels]
    seen: dict[tuple[int, ...], str] = {}
    for label, row in zip(labels, rows, strict=True):
        if tuple(row) in seen:
            raise SpotError(
                f"expected labels that differ in their tokens, found {seen[tuple(row)]!r} and "
                f"{label!r} with the same; rename one"
            )
        seen[tuple(row)] = label
    matrix = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for number, row in enumerate(rows):
        matrix[number, : len(row)] = row
    return matrix


def candidate_tokens(
    vocabulary: TextCodec, choices: Sequence[Sequence[str]]
) -> Int[np.ndarray, "n c u"]:
    """Return each example's answers as tokens with eos, padded with 0 to the most and longest.

    Raises `SpotError` when two answers of an example have the same tokens.
    """
    matrices = [label_matrix(vocabulary, texts) for texts in choices]
    shape = tuple(max(matrix.shape[axis] for matrix in matrices) for axis in (0, 1))
    tokens = np.zeros((len(matrices), *shape), np.int32)
    for number, matrix in enumerate(matrices):
        tokens[number, : matrix.shape[0], : matrix.shape[1]] = matrix
    return tokens


def _encoder_cache(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    table: Float[Array, "r d"] | None,
    encoded: Float[Array, "b t d"] | None,
) -> Cache:
    if encoded is None:
        encoded = encode(params, config, encoder_tokens, table=table)
    return start_cache(params, config, encoded, encoder_tokens, 1)


def _shifted(targets: Int[Array, "b u"]) -> Int[Array, "b u"]:
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))


def _divisors(labels: Int[Array, "... u"], normalise: bool) -> Float[Array, "..."]:
    tokens = jnp.maximum(jnp.sum(labels > 0, axis=-1), 1)
    return (tokens if normalise else jnp.ones_like(tokens)).astype(jnp.float32)


def _log_probs(
    logits: Float[Array, "b u v"],
    targets: Int[Array, "b u"],
    log_z: Float[Array, "b u"] | None = None,
) -> Float[Array, "b u"]:
    # Without the whole log-softmax, which would be a second array of the logits' size.
    chosen = jnp.take_along_axis(logits, jnp.asarray(targets)[:, :, None], axis=2)[:, :, 0]
    return chosen - (jax.nn.logsumexp(logits, axis=2) if log_z is None else log_z)
