"""Predictions of methods that score a task's labels instead of writing them (`methods.Scorer`)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from spot_jax.errors import SpotError
from spot_jax.methods.base import Scorer
from spot_jax.methods.losses import Tree
from spot_jax.t5.config import T5Config
from spot_jax.t5.target import Jitted

UNKNOWN = -1  # a row without a label, or whose target is none
_FEATURES = (
    "encoder_input_tokens",
    "features",
    "feature_lengths",
    "label",
    "row_valid",
    "row_number",
)


def known_labels(asked: Sequence[str], scorer: Scorer) -> tuple[str, ...]:
    """Return the labels to choose among: those asked for, all the scorer's if none are.

    Raises:
        SpotError: one that the scorer does not know.
    """
    for label in asked:
        if label not in scorer.labels:
            raise SpotError(
                f"expected labels that were tuned ({', '.join(scorer.labels)}), found {label!r}; "
                "give those, or the task they were tuned on"
            )
    return tuple(asked) or scorer.labels


def scored_features(
    batch: Mapping[str, Any], label_tokens: Int[np.ndarray, "c u"]
) -> dict[str, Any]:
    """Return what a scorer needs of a batch, and each row's `label`, for the loss, where known.

    Args:
        batch: tokens or features of its rows; targets that one label alone begins with say which
            it is.
        label_tokens: tokens of each of the scorer's labels.
    """
    features = {name: batch[name] for name in _FEATURES if name in batch}
    rows = len(next(iter(features.values())))
    features.setdefault("row_valid", np.ones(rows, bool))
    if "label" not in features:
        features["label"] = np.full(rows, UNKNOWN, np.int32)
        if "decoder_target_tokens" in batch:
            features["label"] = _labels(np.asarray(batch["decoder_target_tokens"]), label_tokens)
    return features


def _labels(targets: np.ndarray, label_tokens: np.ndarray) -> np.ndarray:
    """Return each row's label by its target, which may be cut; `UNKNOWN` for none or several."""
    length = max(targets.shape[1], label_tokens.shape[1])
    labels, rows = (np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in (label_tokens, targets))
    labels = np.where(np.arange(length) < targets.shape[1], labels, 0)
    same = (rows[:, None] == labels[None]).all(axis=2)
    return np.where(same.sum(axis=1) == 1, same.argmax(axis=1), UNKNOWN).astype(np.int32)


@functools.partial(Jitted, static_argnames=("config", "scorer"))
def score_batch(
    params: Tree, batch: Any, columns: Any, *, config: T5Config, scorer: Scorer
) -> dict[str, Any]:
    """Return each row's best label of `columns` [c], which rows count, the loss's sum and weight.

    The loss is over the rows whose label is known, over all of the scorer's labels.
    """
    scores = scorer(params, config, batch)
    is_labelled = batch["row_valid"] & (batch["label"] >= 0)
    losses = scorer.losses(scores, jnp.maximum(batch["label"], 0))
    number = {"number": batch["row_number"]} if "row_number" in batch else {}
    return {
        **number,
        "output": jnp.argmax(scores[:, columns], axis=1),
        "valid": batch["row_valid"],
        "loss": jnp.sum(jnp.where(is_labelled, losses, 0.0)),
        "weight": jnp.sum(is_labelled, dtype=jnp.float32),
    }
