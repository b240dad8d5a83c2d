"""Several prompts' batches in one batch: N prompts trained in one program."""

from collections.abc import Iterator, Sequence

import numpy as np

from spot_jax.data.batches import Batch, Batches
from spot_jax.data.sources import State
from spot_jax.errors import SpotError


class MultiPromptBatches:
    """The rows of N `Batches` one under another; the n-th writes prompt n's virtual tokens.

    Row for row this is what each gives alone. Two features are added: `row_prompt` [N * B], which
    prompt a row belongs to, and `row_number` [N * B], the row's number within its own batch, which
    keeps the randomness of a row (dropout) the same alone and together.
    """

    def __init__(self, batches: Sequence[Batches], *, host_rows: slice | None = None):
        if not batches:
            raise SpotError(
                "expected batches of at least one prompt, found none; give one `Batches` a prompt"
            )
        self.batches = list(batches)
        shapes = {(each.shape.batch_size, each.row_lengths, each.shape.pack) for each in batches}
        if len(shapes) > 1:
            raise SpotError(
                f"expected prompts of one batch shape, found {len(shapes)} different "
                "ones; give all prompts the same batch size and lengths"
            )
        rows = self.batches[0].shape.batch_size
        self.host_rows = range(rows * len(self.batches))[host_rows or slice(None)]
        for i, each in enumerate(self.batches):
            each.host_rows = range(rows)[
                max(self.host_rows.start - i * rows, 0) : max(self.host_rows.stop - i * rows, 0)
            ]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        parts = [next(batches) for batches in self.batches]
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        rows = self.batches[0].shape.batch_size
        numbers = np.arange(rows * len(parts), dtype=np.int32)[self.host_rows]
        batch["row_prompt"], batch["row_number"] = np.divmod(numbers, rows)
        return batch

    @property
    def examples(self) -> int:
        """Number of examples so far, over all prompts."""
        return sum(each.examples for each in self.batches)

    @property
    def truncated_inputs(self) -> int:
        """Number of inputs cut so far, over all prompts."""
        return sum(each.truncated_inputs for each in self.batches)

    @property
    def truncated_targets(self) -> int:
        """Number of targets cut so far, over all prompts."""
        return sum(each.truncated_targets for each in self.batches)

    def state(self) -> State:
        """Return the place of every prompt's batches."""
        return {"prompts": [each.state() for each in self.batches]}

    def restore(self, state: State) -> None:
        """Go to the place of every prompt's batches."""
        places = state["prompts"] if "prompts" in state else state["lanes"]  # as 0.1 wrote it
        if len(places) != len(self.batches):
            raise SpotError(
                f"expected the data places of {len(self.batches)} prompts, found "
                f"{len(places)}; continue with as many prompts as the run began with"
            )
        for batches, place in zip(self.batches, places, strict=True):
            batches.restore(place)
