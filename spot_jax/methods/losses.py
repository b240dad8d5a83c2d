"""The sequence-to-sequence loss of N prompts in one batch, each normalised by itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from spot_jax.methods.token_losses import target_losses, token_losses
from spot_jax.t5 import model
from spot_jax.t5.config import T5Config

CHOICE_LOSSES = ("cross_entropy", "hinge")
Tree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Array]


def row_keys(keys: Key[Array, " n"] | None, batch: Batch) -> Key[Array, " b"] | None:
    """Return one dropout key a row, from its prompt's key and its number within that prompt."""
    if keys is None:
        return None
    rows = batch["encoder_input_tokens"].shape[0]
    prompt = batch.get("row_prompt", jnp.zeros(rows, jnp.int32))
    number = batch.get("row_number", jnp.arange(rows))
    return jax.vmap(lambda p, i: jax.random.fold_in(keys[p], i))(prompt, number)


def of_rows(prompts: Tree, batch: Batch) -> Tree:
    """Return each row's own leaves [b, ...] of N prompts' [N, ...]; one prompt's [1, ...] stay."""
    if "row_prompt" not in batch:
        return prompts
    return jax.tree.map(lambda x: x[batch["row_prompt"]], prompts)


def choice_loss(
    params: Tree,
    config: T5Config,
    batch: Batch,
    keys: Key[Array, " n"] | None,
    *,
    kind: str,
    margin: float = 1.0,
    table: Float[Array, "r d"] | None = None,
    per_row: bool = False,
    num_prompts: int = 1,
) -> tuple[Float[Array, ""], Metrics]:
    """Compute the loss over the answers that each row is chosen among, each prompt by itself.

    "cross_entropy" is that of a softmax over the answers' log-likelihoods: of words of one token it
    is PET's and P-Tuning's over the label words. "hinge" is
    sum over wrong answers of max(0, margin + l(right) - l(wrong)), l being an answer's loss by the
    token, as P-Tuning's code has it for COPA, where it is of a batch's mean and not of each row.

    Args:
        params: tree of the T5.
        config: shape of the T5.
        batch: T5X's features, not packed, with `candidate_tokens` [b, c, u] (0 is padding; an
            answer of padding only is none) and `candidate_target` [b], the number of the right one.
            In part of a batch `whole_rows` [n] is each prompt's number of rows in all of it.
        keys: dropout keys, one a prompt; None for no dropout.
        kind: name of the loss, one of `CHOICE_LOSSES`.
        margin: margin of the hinge, in nats a token.
        table: rows of the virtual tokens.
        per_row: whether each prompt's sum is divided by its number of rows.
        num_prompts: number of prompts, N.

    Returns:
        The sum over prompts of each one's loss, and metrics with an axis of N: `loss` (mean over
        rows), `accuracy` (share of rows whose right answer scores best), `tokens` of the targets.
    """
    drop = row_keys(keys, batch)
    drops = [
        None if drop is None else jax.vmap(jax.random.fold_in, (0, None))(drop, i) for i in (0, 1)
    ]
    tokens, right = batch["encoder_input_tokens"], batch["candidate_target"]
    encoded = model.encode(params, config, tokens, table=table, dropout_keys=drops[0])

    # An answer at a time, recomputed going back: many answers take no more memory than one.
    @jax.checkpoint
    def score(targets: Int[Array, "b u"]) -> Float[Array, " b"]:
        inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
        logits = model.decode(
            params, config, encoded, tokens, inputs, targets, dropout_keys=drops[1]
        )
        losses, _ = token_losses(logits, targets, 0.0)
        count = jnp.sum(targets > 0, axis=1)
        total = -jnp.sum(losses * (targets > 0), axis=1)
        return total / jnp.maximum(count, 1) if kind == "hinge" else total

    candidates = jnp.moveaxis(batch["candidate_tokens"], 1, 0)
    scores = jax.lax.map(score, candidates).T
    exists = jnp.any(batch["candidate_tokens"] > 0, axis=2)
    is_right = jnp.arange(scores.shape[1])[None] == right[:, None]
    best = jnp.sum(jnp.where(is_right, scores, 0.0), axis=1)
    if kind == "hinge":
        gaps = jnp.maximum(0.0, margin + scores - best[:, None])
        losses = jnp.sum(jnp.where(exists & ~is_right, gaps, 0.0), axis=1)
    else:
        losses = jax.nn.logsumexp(jnp.where(exists, scores, -jnp.inf), axis=1) - best
    hits = jnp.argmax(jnp.where(exists, scores, -jnp.inf), axis=1) == right
    of_targets = jnp.sum(batch["decoder_loss_weights"], axis=1)
    rows = jnp.stack([losses, hits, jnp.ones_like(losses), of_targets], axis=1)
    prompt = batch.get("row_prompt", jnp.zeros(len(losses), jnp.int32))
    loss, hit, here, count = jax.ops.segment_sum(rows, prompt, num_segments=num_prompts).T
    whole = batch.get("whole_rows", here)
    metrics = {"loss": loss / whole, "accuracy": hit / whole, "tokens": count}
    return jnp.sum(loss / whole if per_row else loss), metrics


def seq2seq_loss(
    params: Tree,
    config: T5Config,
    batch: Batch,
    keys: Key[Array, " n"] | None,
    *,
    table: Float[Array, "r d"] | None = None,
    z_loss: float = 1e-4,
    per_token: bool = False,
    num_prompts: int = 1,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Compute the loss of a batch, summed over target tokens as in T5X, each prompt by itself.

    Args:
        params: tree of the T5.
        config: shape of the T5.
        batch: T5X's features; `row_prompt` and `row_number` when there are several prompts. In
            part of a batch `whole_tokens` [n] is each prompt's number of target tokens in all of
            it, and losses and metrics of the parts add up to those of the whole.
        keys: dropout keys, one a prompt; None for no dropout.
        table: rows of the virtual tokens.
        z_loss: weight of the squared log normaliser, see `token_losses`.
        per_token: whether each prompt's sum is divided by its number of target tokens.
        num_prompts: number of prompts, N.
        label_smoothing: share of the other ids, see `token_losses`.

    Returns:
        The scalar to differentiate: the sum over prompts of each one's loss, so that a prompt's
        gradient is that of its own loss; and metrics, each with an axis of N: `loss` (mean over
        tokens, nats), `z_loss` (the same), `accuracy` (share of tokens predicted right given the
        ones before), `tokens`.
    """
    drop = row_keys(keys, batch)
    drops = [
        None if drop is None else jax.vmap(jax.random.fold_in, (0, None))(drop, i) for i in (0, 1)
    ]
    tokens, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    segments = batch.get("encoder_segment_ids")
    encoded = model.encode(
        params, config, tokens, table=table, segment_ids=segments, dropout_keys=drops[0]
    )
    states = model.decode_states(
        params,
        config,
        encoded,
        tokens,
        batch["decoder_input_tokens"],
        targets,
        encoder_segment_ids=segments,
        decoder_segment_ids=batch.get("decoder_segment_ids"),
        dropout_keys=drops[1],
    )
    weights = batch["decoder_loss_weights"]
    measures = target_losses(params, config, states, targets, weights, z_loss, label_smoothing)
    per_row = jnp.stack([jnp.sum(x * weights, axis=1) for x in measures], axis=1)
    per_row = jnp.concatenate([per_row, jnp.sum(weights, axis=1, keepdims=True)], axis=1)
    if "row_prompt" in batch:
        sums = jax.ops.segment_sum(per_row, batch["row_prompt"], num_segments=num_prompts)
    else:
        sums = jnp.sum(per_row, axis=0, keepdims=True)
    loss, penalty, hits, count = jnp.moveaxis(sums, 1, 0)
    mean = jnp.maximum(batch.get("whole_tokens", count), 1.0)
    metrics = {
        "loss": (loss - penalty) / mean,
        "z_loss": penalty / mean,
        "accuracy": hits / mean,
        "tokens": count,
    }
    return jnp.sum(loss / mean if per_token else loss), metrics
