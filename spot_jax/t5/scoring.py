"""Log-likelihoods of given targets, and rank classification over verbalizers."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import Params, decode, encode
from spot_jax.t5.vocabulary import EOS, TextCodec

# Bytes of logits that ranking holds at a time; the log-softmax needs about as much again.
_LOGITS_BYTES = 2**28


def token_log_likelihoods(
    params: Params,
    config: T5Config,
    batch: Mapping[str, Array],
    *,
    table: Float[Array, "r d"] | None = None,
    encoded: Float[Array, "b t d"] | None = None,
) -> Float[Array, "b u"]:
    """log p of each target token given those before it, 0 where `decoder_loss_weights` is 0.

    Args:
        params: the model's tree.
        config: its shape.
        batch: features by T5X's names, packed or not.
        table: rows of the virtual tokens.
        encoded: the encoder's output, when it is computed already.
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
    """log p of each row's targets, the sum over its tokens; arguments as above."""
    return jnp.sum(token_log_likelihoods(params, config, batch, table=table), axis=1)


def segment_log_likelihoods(
    params: Params,
    config: T5Config,
    batch: Mapping[str, Array],
    segments: int,
    *,
    table: Float[Array, "r d"] | None = None,
) -> Float[Array, "b n"]:
    """log p of each packed segment's targets.

    Args:
        params: the model's tree.
        config: its shape.
        batch: a packed batch.
        segments: columns of the result, n; segment i of a row is in column i - 1. Segments
            beyond n are left out, columns beyond a row's last segment are 0.
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
    """log p of every verbalizer after every input; the largest in a row is the class.

    Inputs are encoded once. Labels are decoded against that in chunks, as many at a time as keep
    the logits within a fixed size, so 150 labels need no more memory than a few.

    Args:
        params: the model's tree.
        config: its shape.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        label_tokens: one verbalizer a row with its eos, 0 is padding.
        table: rows of the virtual tokens.
        encoded: the encoder's output, when it is computed already.
        normalise: divide by the verbalizer's number of tokens, for labels of unlike lengths.
    """
    label_tokens = jnp.asarray(label_tokens)
    if encoded is None:
        encoded = encode(params, config, encoder_tokens, table=table)
    rows, (count, length) = encoder_tokens.shape[0], label_tokens.shape

    def score(label: Int[Array, " u"]) -> Float[Array, " b"]:
        # Under vmap `encoded` is not mapped, so its keys and values are computed once a chunk.
        targets = jnp.broadcast_to(label[None], (rows, length))
        inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
        logits = decode(params, config, encoded, encoder_tokens, inputs, targets)
        real = label > 0
        total = jnp.sum(_log_probs(logits, targets) * real[None], axis=1)
        return total / jnp.maximum(jnp.sum(real), 1) if normalise else total

    chunk = max(1, _LOGITS_BYTES // (4 * rows * length * config.vocab_size))
    if count <= chunk:
        return jax.vmap(score)(label_tokens).T
    return jax.lax.map(score, label_tokens, batch_size=chunk).T


def label_matrix(vocabulary: TextCodec, labels: Sequence[str]) -> Int[np.ndarray, "c u"]:
    """Return verbalizers as tokens with eos, one a row, padded with 0 to the longest.

    Raises `SpotError` when two of them are the same tokens, which no model could tell apart.
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


def _log_probs(logits: Float[Array, "b u v"], targets: Int[Array, "b u"]) -> Float[Array, "b u"]:
    # Without the whole log-softmax, which would be a second array of the logits' size.
    chosen = jnp.take_along_axis(logits, jnp.asarray(targets)[:, :, None], axis=2)[:, :, 0]
    return chosen - jax.nn.logsumexp(logits, axis=2)
