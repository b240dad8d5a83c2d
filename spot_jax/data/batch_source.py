"""Where a run's batches come from, for training and for its evaluations."""

from collections.abc import Iterator
from typing import Any, Protocol

from spot_jax.data.batches import Batch, BatchShape
from spot_jax.data.examples import Examples


class TrainingBatches(Protocol):
    """Endless batches whose place can be saved and returned to, as `data.batches.Batches`."""

    @property
    def examples(self) -> int:
        """Number of examples so far."""
        ...

    @property
    def truncated_inputs(self) -> int:
        """Number of inputs cut so far."""
        ...

    @property
    def truncated_targets(self) -> int:
        """Number of targets cut so far."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Return the batches themselves."""
        ...

    def __next__(self) -> Batch:
        """Return the next batch's rows of this process."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the place of the next batch, in JSON's types."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a place."""
        ...


class BatchSource(Protocol):
    """What a run is trained and evaluated on, where that is no tokens."""

    @property
    def training(self) -> TrainingBatches:
        """Batches of all the run's prompts."""
        ...

    def evaluation(
        self, name: str, split: str, examples: Examples, shape: BatchShape, host_rows: slice
    ) -> Iterator[Batch]:
        """Return a split's examples in order, with `row_valid`, as `evaluation_batches` does."""
        ...
