"""Several prompts over one frozen backbone, by majority vote (Lester 2021, section 6).

One batch holds every example N times, each time with another prompt's virtual tokens, so that an
ensemble is one model with one pass over the data.
"""

import collections
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import (
    Batch,
    Search,
    check_targets,
    measure,
    predict,
)
from spot_jax.metrics import Metric, OutputMetric, Outputs
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import Params
from spot_jax.t5.vocabulary import TextCodec


class EnsembleEvaluation(NamedTuple):
    """Predictions and metrics of an ensemble.

    Attributes:
        metrics: metrics of the vote.
        members: metrics of each prompt, in the table's order.
        predictions: predictions of the vote, one an example.
        member_predictions: predictions of each prompt.
        loss: mean cross-entropy of the target tokens over all prompts; None without targets.
    """

    metrics: dict[str, float]
    members: list[dict[str, float]]
    predictions: list[str]
    member_predictions: list[list[str]]
    loss: float | None


def ensemble_predictions(predictions: Sequence[Sequence[Hashable]]) -> list[Any]:
    """Return the answer that most members give to each example.

    Of answers with equally many votes the one wins that the earliest member gave: list the best
    prompt first.

    Args:
        predictions: predictions of N members, each for all examples. Raises `SpotError` when there
            is none or their numbers of examples differ.
    """
    counts = sorted({len(member) for member in predictions})
    if len(counts) != 1:
        raise SpotError(
            f"expected the members' predictions of the same examples, found {counts or 'none'}; "
            "predict one split with every prompt"
        )
    # Counter keeps the order of first appearance and most_common is stable.
    votes = (collections.Counter(answers) for answers in zip(*predictions, strict=True))
    return [vote.most_common(1)[0][0] for vote in votes]


def repeat_for_members(
    batch: Mapping[str, np.ndarray], vocab_size: int, members: int, rows: int
) -> dict[str, np.ndarray]:
    """Repeat every row N times, one under another, the n-th with prompt n's virtual tokens.

    Args:
        batch: batch written with the first prompt, ids `vocab_size` to `vocab_size + rows - 1`.
        vocab_size: number of rows of the embedding table.
        members: number of prompts, N.
        rows: number of rows of one prompt in the table, P.
    """
    repeated = {name: np.repeat(array, members, axis=0) for name, array in batch.items()}
    ids = repeated["encoder_input_tokens"]
    member = np.tile(np.arange(members, dtype=ids.dtype), len(ids) // members)[:, None]
    repeated["encoder_input_tokens"] = np.where(ids >= vocab_size, ids + member * rows, ids)
    return repeated


def evaluate_ensemble(
    params: Params,
    config: T5Config,
    batches: Iterable[Batch],
    vocabulary: TextCodec,
    targets: Sequence[Any],
    metrics: Sequence[Metric | OutputMetric],
    *,
    table: Float[Array, "r d"] | None,
    members: int,
    search: Search | None = None,
    place: Callable[[Batch], Batch] = dict,
    choices: Sequence[Sequence[str]] = (),
) -> EnsembleEvaluation:
    """Evaluate N prompts and their vote in one pass; other arguments as in `evaluate`.

    Args:
        params: the backbone's tree; with prefixes in it, one for each row of the grown batches.
        batches: batches written with the first prompt's virtual tokens; they grow N-fold here.
        table: the N prompts one under another, [N * P, d]; None for prefixes.
        members: number of prompts, N. Raises `SpotError` when the table doesn't divide by it.
    """
    total = 0 if table is None else table.shape[0]
    rows, left = divmod(total, max(members, 1))
    if members < 1 or left:
        raise SpotError(
            f"expected a table of {members} prompts of equal length, found {total} rows; "
            "give the prompts' number and stack prompts of one length"
        )
    search = search or Search()
    check_targets(targets, search.labels)
    repeated = (repeat_for_members(batch, config.vocab_size, members, rows) for batch in batches)
    texts, loss, *_ = predict(
        params,
        config,
        repeated,
        vocabulary,
        table=table,
        search=search,
        place=place,
        choices=[texts for texts in choices for _ in range(members)],
    )
    each = [texts[member::members] for member in range(members)]
    vote = ensemble_predictions(each)
    values = measure(metrics, targets, Outputs(vote))
    alone = [measure(metrics, targets, Outputs(member)) for member in each]
    return EnsembleEvaluation(values, alone, vote, each, loss)
