"""Predictions and metrics of a frozen T5 with a prompt, on a split.

Batches come in order, padded, with `row_valid` (`spot_jax.data.batches.evaluation_batches`). One
program is compiled for each batch shape and search and then used for every evaluation of the
process: weights and prompt are its arguments.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float

from spot_jax.errors import SpotError
from spot_jax.evaluation.label_scores import choices, score_batch, scored_features
from spot_jax.methods.base import Scorer
from spot_jax.metrics import Metric
from spot_jax.t5.config import T5Config
from spot_jax.t5.decoding import beam_search, greedy
from spot_jax.t5.model import Params, encode
from spot_jax.t5.scoring import label_matrix, rank_labels, token_log_likelihoods
from spot_jax.t5.vocabulary import TextCodec

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Search:
    """How a prediction comes about.

    Attributes:
        labels: verbalizers to choose from by likelihood; empty to write text freely.
        normalise: divide a verbalizer's log-likelihood by its number of tokens.
        beams: sequences a row of the beam search; 1 is greedy search.
        alpha: the beam search's length penalty.
        max_length: tokens to write at most; by default as many as the batch's targets have room.
    """

    labels: tuple[str, ...] = ()
    normalise: bool = False
    beams: int = 1
    alpha: float = 0.6
    max_length: int | None = None


class Predictions(NamedTuple):
    """One prediction an example, in order, and the loss.

    Attributes:
        texts: labels or written text.
        loss: mean cross-entropy of the target tokens; None when there are none.
    """

    texts: list[str]
    loss: float | None


class Evaluation(NamedTuple):
    """What `evaluate` found: all metrics in one dict, and `Predictions`' two fields."""

    metrics: dict[str, float]
    predictions: list[str]
    loss: float | None


def evaluate(
    params: Params,
    config: T5Config,
    batches: Iterable[Batch],
    vocabulary: TextCodec,
    targets: Sequence[Any],
    metrics: Sequence[Metric],
    *,
    table: Float[Array, "r d"] | None = None,
    search: Search | None = None,
    scorer: Scorer | None = None,
    place: Callable[[Batch], Batch] = dict,
) -> Evaluation:
    """Predicts every example and compares with the targets; arguments as in `predict`.

    Args:
        targets: one an example, what the metrics compare predictions with: texts mostly.
        metrics: functions `(targets, predictions) -> {name: value}`.

    Raises:
        SpotError: examples and targets differ in number, a text target is outside the labels, or
            two metrics have one name.
    """
    search = search or Search()
    check_targets(targets, search.labels)
    texts, loss = predict(
        params,
        config,
        batches,
        vocabulary,
        table=table,
        search=search,
        scorer=scorer,
        place=place,
    )
    return Evaluation(measure(metrics, targets, texts), texts, loss)


def predict(
    params: Params,
    config: T5Config,
    batches: Iterable[Batch],
    vocabulary: TextCodec,
    *,
    table: Float[Array, "r d"] | None = None,
    search: Search | None = None,
    scorer: Scorer | None = None,
    place: Callable[[Batch], Batch] = dict,
) -> Predictions:
    """Predicts every example of `batches`, one prediction a valid row.

    Args:
        params: the backbone's tree, on a mesh or not.
        config: its shape.
        batches: padded batches; `row_valid` tells rows of padding, all rows count without it.
        vocabulary: writes labels as tokens and tokens as text.
        table: the prompt's rows, or None for the bare backbone.
        search: rank classification, greedy or beam search.
        scorer: of a method that writes no text: it takes `params`, and chooses among `search`'s
            labels, or its own if those are none.
        place: puts a batch on the devices, such as sharded over a mesh's `data` axis.
    """
    search = search or Search()
    labels = search.labels if scorer is None else choices(search.labels, scorer)
    known = labels if scorer is None else scorer.labels
    label_tokens = label_matrix(vocabulary, known) if known else None
    outputs: list[np.ndarray] = []
    loss = weight = 0.0

    def launched() -> Iterator[dict[str, Array]]:
        for batch in batches:
            if scorer is not None and label_tokens is not None:
                placed = place(scored_features(batch, label_tokens))
                columns = np.array([known.index(label) for label in labels])
                yield score_batch(params, placed, columns, config=config, scorer=scorer)
                continue
            placed = place(_features(batch))
            yield _predict_batch(params, table, placed, label_tokens, config=config, search=search)

    for result in _one_behind(launched()):
        host = {name: _to_host(array) for name, array in result.items()}
        outputs.extend(host["output"][host["valid"]])
        loss, weight = loss + float(host["loss"]), weight + float(host["weight"])
    if labels:
        texts = [labels[int(number)] for number in outputs]
    else:
        texts = [vocabulary.decode(tokens.tolist()) for tokens in outputs]
    return Predictions(texts, loss / weight if weight else None)


def check_targets(targets: Sequence[Any], labels: Sequence[str]) -> None:
    """Raises `SpotError` for the first text target that is none of the labels, if there are any."""
    for target in targets if labels else ():
        if isinstance(target, str) and target not in labels:
            near = difflib.get_close_matches(target, labels, n=3) or list(labels[:3])
            raise SpotError(
                f"expected targets among the {len(labels)} labels, found {target!r}; "
                f"add it to the labels or mend the task (nearest: {', '.join(map(repr, near))})"
            )


def measure(
    metrics: Sequence[Metric], targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
    """All metrics in one dict; raises `SpotError` when two have one name."""
    values: dict[str, float] = {}
    for metric in metrics:
        for name, value in metric(targets, predictions).items():
            if name in values:
                raise SpotError(
                    f"expected metrics with names of their own, found two {name!r}; drop one"
                )
            values[name] = value
    return values


_FEATURES = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
)


def _features(batch: Batch) -> dict[str, Any]:
    features = {name: batch[name] for name in _FEATURES if name in batch}
    rows = len(features["encoder_input_tokens"])
    return {**features, "row_valid": batch.get("row_valid", np.ones(rows, bool))}


@functools.partial(jax.jit, static_argnames=("config", "search"))
def _predict_batch(params, table, batch, label_tokens, *, config: T5Config, search: Search):
    """Label numbers [b] or tokens [b, l], which rows count, and the loss's sum and weight."""
    tokens, valid = batch["encoder_input_tokens"], batch["row_valid"]
    encoded = encode(params, config, tokens, table=table)
    model: dict[str, Any] = {"table": table, "encoded": encoded}
    loss = weight = jnp.float32(0.0)
    if "decoder_target_tokens" in batch:
        weights = batch["decoder_loss_weights"] * valid[:, None]
        scored = {**batch, "decoder_loss_weights": weights}
        loss = -jnp.sum(token_log_likelihoods(params, config, scored, **model))
        weight = jnp.sum(weights)
    if label_tokens is not None:
        scores = rank_labels(
            params, config, tokens, label_tokens, normalise=search.normalise, **model
        )
        output = jnp.argmax(scores, axis=1)
    else:
        length = search.max_length or batch["decoder_target_tokens"].shape[1]
        if search.beams == 1:
            output = greedy(params, config, tokens, max_length=length, **model)
        else:
            beams, alpha = search.beams, search.alpha
            output = beam_search(
                params, config, tokens, max_length=length, beams=beams, alpha=alpha, **model
            )[0][:, 0]
    return {"output": output, "valid": valid, "loss": loss, "weight": weight}


def _one_behind(results: Iterator[Any]) -> Iterator[Any]:
    # The device works on the next batch while the host reads the last one's results.
    previous = None
    for result in results:
        if previous is not None:
            yield previous
        previous = result
    if previous is not None:
        yield previous


def _to_host(array: Array) -> np.ndarray:
    # On several hosts each holds some of the rows; all need all of them, in order.
    if not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
