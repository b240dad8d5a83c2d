"""Batches of cached features with label numbers: what Y-Tuning trains on and is scored with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from spot_jax.data.batches import Batch
from spot_jax.data.examples import Examples
from spot_jax.data.feature_cache import Features
from spot_jax.data.sources import Epochs, State
from spot_jax.errors import SpotError
from spot_jax.t5.scoring import label_matrix
from spot_jax.t5.vocabulary import Vocabulary


@dataclass(frozen=True)
class LabelledFeatures:
    """A split's features and the number of each example's label.

    Attributes:
        features: features of the inputs.
        labels: number of each example's label, [n].
        truncated: 1 where an input was longer than the features reach, [n].
    """

    features: Features
    labels: Int32[np.ndarray, " n"]
    truncated: Int32[np.ndarray, " n"]


def label_numbers(
    examples: Examples, labels: Sequence[str], vocabulary: Vocabulary, task: str
) -> Int32[np.ndarray, " n"]:
    """Return which of the labels each example's target is, token by token.

    Raises:
        SpotError: the first example whose target is none of them, by its number.
    """
    rows = {
        tuple(row[row > 0].tolist()): i for i, row in enumerate(label_matrix(vocabulary, labels))
    }
    numbers = np.zeros(len(examples), np.int32)
    for number, (_, target) in enumerate(examples):
        label = rows.get(tuple(target.tolist()))
        if label is None:
            raise SpotError(
                f"example {number} of {task}: its target {vocabulary.decode(target.tolist())!r} "
                f"is none of the {len(labels)} labels ({', '.join(labels[:5])}"
                f"{', ...' if len(labels) > 5 else ''}); add it to the labels or mend the data"
            )
        numbers[number] = label
    return numbers


class FeatureBatches:
    """Endless batches of N runs' examples, one run's under another's; the place in them is exact.

    A batch holds `features` [N * B, T, l, d] in the cache's dtype, `feature_lengths` and `label`
    [N * B] int32. A run's examples come in the order that its seed gives `Shuffled`.

    Attributes:
        examples, truncated_inputs, truncated_targets: counts over all runs since the beginning.
    """

    def __init__(
        self,
        runs: Sequence[LabelledFeatures],
        seeds: Sequence[int],
        batch_size: int,
        *,
        host_rows: slice | None = None,
    ):
        self.runs, self.batch_size = list(runs), batch_size
        self._orders = [
            Epochs(len(run.labels), seed) for run, seed in zip(runs, seeds, strict=True)
        ]
        self._length = max(run.features.longest for run in runs)
        self._rows = range(batch_size * len(self.runs))[host_rows or slice(None)]
        self.examples = self.truncated_inputs = 0
        self.truncated_targets = 0  # labels are numbers here

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        parts: list[Batch] = []
        for i, (run, order) in enumerate(zip(self.runs, self._orders, strict=True)):
            numbers = np.array([order.next() for _ in range(self.batch_size)])
            self.examples += self.batch_size
            self.truncated_inputs += int(run.truncated[numbers].sum())
            first = i * self.batch_size
            here = slice(max(self._rows.start - first, 0), max(self._rows.stop - first, 0))
            parts.append(_batch(run, numbers[here], self._length))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def state(self) -> State:
        """Return every run's place, and the counts so far."""
        return {
            "orders": [order.state() for order in self._orders],
            "examples": self.examples,
            "truncated_inputs": self.truncated_inputs,
        }

    def restore(self, state: State) -> None:
        """Go to the place that `state` names."""
        if len(state["orders"]) != len(self._orders):
            raise SpotError(
                f"expected the data places of {len(self._orders)} runs, found "
                f"{len(state['orders'])}; continue with as many as the run began with"
            )
        for order, place in zip(self._orders, state["orders"], strict=True):
            order.restore(place)
        self.examples = int(state["examples"])
        self.truncated_inputs = int(state["truncated_inputs"])


def features_in_order(
    run: LabelledFeatures, batch_size: int, host_rows: slice | None = None
) -> Iterator[Batch]:
    """Yield all examples in order, the last batch filled with rows whose `row_valid` is false."""
    count, length = len(run.labels), run.features.longest
    for start in range(0, count, batch_size):
        numbers = np.arange(start, start + batch_size)[host_rows or slice(None)]
        valid = numbers < count
        yield {**_batch(run, np.minimum(numbers, count - 1), length), "row_valid": valid}


def _batch(run: LabelledFeatures, numbers: np.ndarray, length: int) -> Batch:
    features, lengths = run.features.padded(numbers.tolist(), length)
    return {"features": features, "feature_lengths": lengths, "label": run.labels[numbers]}
