"""Predictions and metrics of a frozen T5 with a prompt, on a split.

Batches come padded, with `row_valid` and, where they are not in order, `row_number`
(`spot_jax.data.batches.evaluation_batches`). One program is compiled for each batch shape and
search and then used for every evaluation of the process: weights and prompt are its arguments.
"""

import dataclasses
import difflib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int

from spot_jax.errors import SpotError
from spot_jax.evaluation.label_scores import known_labels, score_batch, scored_features
from spot_jax.methods.base import Scorer
from spot_jax.metrics import Metric, OutputMetric, Outputs, split_numbers
from spot_jax.t5.config import T5Config
from spot_jax.t5.decoding import beam_search, greedy
from spot_jax.t5.model import Params, encode
from spot_jax.t5.scoring import (
    choose_label,
    label_matrix,
    rank_candidates,
    token_log_likelihoods,
)
from spot_jax.t5.target import Jitted
from spot_jax.t5.vocabulary import EOS, TextCodec

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Search:
    """How a prediction comes about.

    Attributes:
        labels: verbalizers to choose from by likelihood; empty to write text freely.
        normalise: whether a verbalizer's log-likelihood is divided by its number of tokens.
        beams: number of sequences a row of the beam search; 1 is greedy search.
        alpha: length penalty of the beam search.
        max_length: tokens to write at most; by default as many as the batch's targets have room.
    """

    labels: tuple[str, ...] = ()
    normalise: bool = False
    beams: int = 1
    alpha: float = 0.6
    max_length: int | None = None


class Predictions(NamedTuple):
    """Predictions of a split, one an example and in order.

    Attributes:
        texts: labels or generated text.
        loss: mean cross-entropy of the target tokens; None when there are none.
        scores: log-likelihood of each example's target, [n]; None without targets, and of a
            method that scores labels by itself.
        aux: further values of each prediction by name, [n] each; None unless asked for.
    """

    texts: list[str]
    loss: float | None
    scores: np.ndarray | None = None
    aux: dict[str, np.ndarray] | None = None

    @property
    def outputs(self) -> Outputs:
        """What metrics take."""
        return Outputs(self.texts, self.scores, self.aux)


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
    metrics: Sequence[Metric | OutputMetric],
    *,
    table: Float[Array, "r d"] | None = None,
    search: Search | None = None,
    scorer: Scorer | None = None,
    place: Callable[[Batch], Batch] = dict,
    choices: Sequence[Sequence[str]] = (),
) -> Evaluation:
    """Predict every example and compare with the targets; arguments as in `predict`.

    Args:
        targets: target of each example as the metrics compare it: mostly a text.
        metrics: functions `(targets, predictions) -> {name: value}`, or `OutputMetric`s.

    Raises:
        SpotError: examples and targets differ in number, a text target is outside the labels, two
            metrics have one name, or one needs what the method does not give.
    """
    search = search or Search()
    check_targets(targets, search.labels)
    predictions = predict(
        params,
        config,
        batches,
        vocabulary,
        table=table,
        search=search,
        scorer=scorer,
        place=place,
        choices=choices,
        with_aux=any(isinstance(m, OutputMetric) and m.needs_aux for m in metrics),
    )
    values = measure(metrics, targets, predictions.outputs)
    return Evaluation(values, predictions.texts, predictions.loss)


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
    choices: Sequence[Sequence[str]] = (),
    with_aux: bool = False,
) -> Predictions:
    """Predict every example of `batches`, one prediction a valid row.

    Args:
        params: the backbone's tree, on a mesh or not.
        config: shape of the backbone.
        batches: padded batches; `row_valid` tells rows of padding, all rows count without it, and
            `row_number` which example a row is, those of an ensemble one behind another; without it
            they come in order.
        vocabulary: vocabulary that writes labels as tokens and tokens as text.
        table: the prompt's rows, or None for the bare backbone.
        search: way to predict: rank classification, greedy or beam search.
        scorer: scorer of a method that writes no text: it takes `params`, and chooses among
            `search`'s labels, or its own if those are none.
        place: function that puts a batch on the devices, such as sharded over a mesh's `data` axis.
        choices: answers of each example that batches carry as `candidate_tokens`, of which the
            most likely one is the prediction; empty where the batches carry none.
        with_aux: whether to return the log-likelihood of each prediction too, which generated text
            is scored once more for.
    """
    search = search or Search()
    labels = search.labels if scorer is None else known_labels(search.labels, scorer)
    choosable = labels if scorer is None else scorer.labels
    label_tokens = label_matrix(vocabulary, choosable) if choosable else None
    names = ("output", "score", "likelihood", "number")
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    loss = weight = 0.0

    def launched() -> Iterator[dict[str, Array]]:
        for batch in batches:
            if scorer is not None and label_tokens is not None:
                placed = place(scored_features(batch, label_tokens))
                columns = np.array([choosable.index(label) for label in labels])
                yield score_batch(params, placed, columns, config=config, scorer=scorer)
                continue
            placed = place(_features(batch))
            yield _predict_batch(
                params,
                table,
                placed,
                label_tokens,
                config=config,
                search=search,
                with_aux=with_aux,
            )

    for result in one_behind(launched()):
        host = {name: to_host(array) for name, array in result.items()}
        for name, values in rows.items():
            if name in host:
                values.extend(host[name][host["valid"]])
        loss, weight = loss + float(host["loss"]), weight + float(host["weight"])
    if rows["number"]:
        order = np.argsort(rows["number"], kind="stable")
        rows = {name: [values[i] for i in order] if values else [] for name, values in rows.items()}
    if choices and scorer is None:
        texts = [texts[int(number)] for texts, number in zip(choices, rows["output"], strict=True)]
    elif labels:
        texts = [labels[int(number)] for number in rows["output"]]
    else:
        texts = [vocabulary.decode(tokens.tolist()) for tokens in rows["output"]]
    return Predictions(
        texts,
        loss / weight if weight else None,
        np.array(rows["score"]) if rows["score"] else None,
        {"scores": np.array(rows["likelihood"])} if rows["likelihood"] else None,
    )


def check_targets(targets: Sequence[Any], labels: Sequence[str]) -> None:
    """Raise `SpotError` for the first text target that is none of the labels, if there are any."""
    for target in targets if labels else ():
        if isinstance(target, str) and target not in labels:
            near = difflib.get_close_matches(target, labels, n=3) or list(labels[:3])
            raise SpotError(
                f"expected targets among the {len(labels)} labels, found {target!r}; "
                f"add it to the labels or mend the task (nearest: {', '.join(map(repr, near))})"
            )


def measure(
    metrics: Sequence[Metric | OutputMetric], targets: Sequence[Any], outputs: Outputs
) -> dict[str, float]:
    """Return the numbers of all metrics in one dict; log what is not a number.

    Raises `SpotError` when two values have one name.
    """
    values: dict[str, Any] = {}
    for metric in metrics:
        if isinstance(metric, OutputMetric):
            measured = metric.of_outputs(targets, outputs)
        else:
            measured = metric(targets, outputs.texts)
        for name, value in measured.items():
            if name in values:
                raise SpotError(
                    f"expected metrics with names of their own, found two {name!r}; drop one"
                )
            values[name] = value
    numbers, others = split_numbers(values)
    for name, value in others.items():
        logging.getLogger(__name__).info("%s: %s", name, value)
    return numbers


_FEATURES = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
    "candidate_tokens",
    "row_number",
)


def _features(batch: Batch) -> dict[str, Any]:
    features = {name: batch[name] for name in _FEATURES if name in batch}
    rows = len(features["encoder_input_tokens"])
    return {**features, "row_valid": batch.get("row_valid", np.ones(rows, bool))}


@functools.partial(Jitted, static_argnames=("config", "search", "with_aux"))
def _predict_batch(
    params: Params,
    table: Float[Array, "r d"] | None,
    batch: dict[str, Any],
    label_tokens: Int[Array, "c u"] | None,
    *,
    config: T5Config,
    search: Search,
    with_aux: bool,
) -> dict[str, Array]:
    """Label numbers [b] or tokens [b, l], which rows count, and the loss's sum and weight.

    With targets also their log-likelihood [b], with `with_aux` that of the predictions [b].
    """
    tokens, valid = batch["encoder_input_tokens"], batch["row_valid"]
    encoded = encode(params, config, tokens, table=table)
    model: dict[str, Any] = {"table": table, "encoded": encoded}
    loss = weight = jnp.float32(0.0)
    result = {"valid": valid}
    if "row_number" in batch:
        result["number"] = batch["row_number"]
    if "decoder_target_tokens" in batch:
        weights = batch["decoder_loss_weights"] * valid[:, None]
        scored = {**batch, "decoder_loss_weights": weights}
        likelihoods = token_log_likelihoods(params, config, scored, **model)
        loss, weight = -jnp.sum(likelihoods), jnp.sum(weights)
        result["score"] = jnp.sum(likelihoods, axis=1)
    if "candidate_tokens" in batch:
        candidates, each = batch["candidate_tokens"], {"normalise": search.normalise, **model}
        ranked = rank_candidates(params, config, tokens, candidates, **each)
        output = jnp.argmax(ranked, axis=1).astype(jnp.int32)
        if with_aux:
            result["likelihood"] = jnp.max(ranked, axis=1)
    elif label_tokens is not None:
        choice = {"normalise": search.normalise, "valid": valid}
        output, likelihood = choose_label(params, config, tokens, label_tokens, **choice, **model)
        if with_aux:
            result["likelihood"] = likelihood
    else:
        length = search.max_length or batch["decoder_target_tokens"].shape[1]
        if search.beams == 1:
            output = greedy(params, config, tokens, max_length=length, **model)
        else:
            beams, alpha = search.beams, search.alpha
            output = beam_search(
                params, config, tokens, max_length=length, beams=beams, alpha=alpha, **model
            )[0][:, 0]
        if with_aux:
            written = _as_targets(output)
            likelihoods = token_log_likelihoods(params, config, {**batch, **written}, **model)
            result["likelihood"] = jnp.sum(likelihoods, axis=1)
    return {**result, "output": output, "loss": loss, "weight": weight}


def _as_targets(tokens: Int[Array, "b l"]) -> dict[str, Array]:
    """Return the decoder's features for tokens that it generated, up to their first eos."""
    ended = jnp.cumsum(tokens == EOS, axis=1) - (tokens == EOS)
    return {
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": jnp.where((ended == 0) & (tokens > 0), 1.0, 0.0),
    }


def one_behind(results: Iterator[Any]) -> Iterator[Any]:
    """Yield results one later, so that the device works on while the host reads the last ones."""
    previous = None
    for result in results:
        if previous is not None:
            yield previous
        previous = result
    if previous is not None:
        yield previous


def to_host(array: Array) -> np.ndarray:
    """Return an array's rows, which on several hosts lie some on each: all of them, in order."""
    if not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
