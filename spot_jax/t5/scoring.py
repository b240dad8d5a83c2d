"""Log-likelihoods of given targets, and rank classification over verbalizers."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import Cache, Params, decode, decode_cached, encode, start_cache
from spot_jax.t5.vocabulary import EOS, TextCodec

# Bytes of logits that ranking holds at a time; the log-softmax needs about as much again.
_LOGITS_BYTES = 2**28
# Labels of a row that `choose_label` scores together, and the parts it takes the rows in.
_LABELS_AT_ONCE = 4
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
    """Bounds and scores of each row's labels.

    Attributes:
        bounds: upper bounds of the labels' log p; -inf for a scored label, out of the race.
        scores: log p of the labels that were scored, -inf for the others.
    """

    bounds: Float[Array, "b c"]
    scores: Float[Array, "b c"]


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
    label that is scored says, at the place where another leaves it, what the other's next token
    would cost. Scoring the most promising few again and again until no bound is above the best
    score therefore finds the best of 150 labels after a handful; how many depends on how sure the
    model is.

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
    cache = _encoder_cache(params, config, encoder_tokens, table, encoded)
    divisors = _divisors(label_tokens, normalise)
    # Leading tokens that two labels share; a label shares all of them with itself.
    same = label_tokens[:, None] == label_tokens[None, :]
    shared = jnp.sum(jnp.cumprod(same, axis=2), axis=2)
    counts = jnp.ones(rows, bool) if valid is None else valid
    # A few rows at a time, so that a slow row does not hold up the others. On several devices
    # rows stay where they are.
    some = max(1, rows // _PARTS) if jax.device_count() == 1 else rows
    at_once = _LOGITS_BYTES // (4 * some * length * config.vocab_size)
    at_once = max(1, min(_LABELS_AT_ONCE, at_once, count))

    def open_by(race: _Race) -> Float[Array, " b"]:
        """Return a row's best bound less its best score; -inf when it is decided."""
        best, bound = jnp.max(race.scores, axis=1), jnp.max(race.bounds, axis=1)
        # A bound is a sum in another order than the score: rounding must not decide.
        undecided = counts & ~jnp.isneginf(bound) & (bound > best - 1e-5)
        return jnp.where(undecided, bound - jnp.maximum(best, -1e30), -jnp.inf)

    def step(race: _Race) -> _Race:
        row = jax.lax.top_k(open_by(race), some)[1] if some < rows else jnp.arange(rows)
        bounds = race.bounds[row]
        numbers = jax.lax.top_k(bounds, at_once)[1]
        here = cache if some == rows else cache.take(row)

        def score(targets: Int[Array, "b u"]) -> tuple[Array, ...]:
            logits = decode_cached(params, config, here, _shifted(targets), targets)
            log_z = jax.nn.logsumexp(logits, axis=2)
            chosen = _log_probs(logits, targets, log_z) * (targets > 0)
            return jnp.sum(chosen, axis=1), logits, log_z, jnp.cumsum(chosen, axis=1) - chosen

        targets = label_tokens[numbers]
        totals, logits, log_z, before = jax.vmap(score, in_axes=1, out_axes=1)(targets)
        # Where each label leaves each scored one, [rows, scored, c]; a label leaves itself nowhere.
        place = jnp.minimum(shared[numbers], length - 1)
        following = label_tokens[jnp.arange(count)[None, None], place]
        flat = logits.reshape(some, at_once, length * config.vocab_size)
        leaving = jnp.take_along_axis(flat, place * config.vocab_size + following, axis=2)
        leaving += jnp.take_along_axis(before - log_z, place, axis=2)
        bounds = jnp.minimum(bounds, jnp.min(leaving, axis=1) / divisors[None])
        scored = jnp.arange(some)[:, None], numbers
        bounds = bounds.at[scored].set(-jnp.inf)
        scores = race.scores[row].at[scored].set(totals / divisors[numbers])
        return _Race(race.bounds.at[row].set(bounds), race.scores.at[row].set(scores))

    nothing = _Race(jnp.zeros((rows, count)), jnp.full((rows, count), -jnp.inf))
    race = jax.lax.while_loop(lambda race: jnp.any(open_by(race) > -jnp.inf), step, nothing)
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
