"""How a recipe brings batches of its own, where its method does not train on tokens."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from spot_jax.data.batches import Batch, BatchShape
from spot_jax.evaluation.scored_task import ScoredTask
from spot_jax.methods.base import Method
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.config import DataSource


class TrainingBatches(Protocol):
    """Endless batches whose place can be saved and found again, such as `data.batches.Batches`."""

    @property
    def examples(self) -> int:
        """Examples so far."""
        ...

    @property
    def truncated_inputs(self) -> int:
        """Inputs cut so far."""
        ...

    @property
    def truncated_targets(self) -> int:
        """Targets cut so far."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        ...

    def __next__(self) -> Batch:
        """The next batch's rows of this process."""
        ...

    def state(self) -> dict[str, Any]:
        """The place of the next batch, in JSON's types."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a place."""
        ...


class OwnBatches(Protocol):
    """What a run trains and is evaluated on."""

    @property
    def training(self) -> TrainingBatches:
        """Of all the run's prompts."""
        ...

    def evaluation(self, task: ScoredTask, shape: BatchShape, host_rows: slice) -> Iterator[Batch]:
        """All of a split's examples in order, with `row_valid`, as `evaluation_batches` has it."""
        ...


@runtime_checkable
class OwnBatchesRecipe(Protocol):
    """A recipe whose runs take their batches from it."""

    def batches(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        method: Method,
        data: DataSource,
        names: Sequence[str],
        seeds: Sequence[int],
        host_rows: slice,
    ) -> OwnBatches:
        """The batches of a run whose prompt i is tuned on task `names[i]` with `seeds[i]`."""
        ...
