"""Several prompts' batches side by side in one batch: N prompts trained in one program."""

from collections.abc import Iterator, Sequence

import numpy as np

from spot_jax.data.batches import Batch, Batches
from spot_jax.data.sources import State
from spot_jax.errors import SpotError


class Lanes:
    """The rows of N `Batches` one under another; lane n writes prompt n's virtual tokens.

    Row for row this is what each gives alone. Two features are added: `row_prompt` [N * B], which
    prompt a row belongs to, and `row_number` [N * B], the row's number within its own batch, which
    keeps the randomness of a row (dropout) the same alone and together.
    """

    def __init__(self, batches: Sequence[Batches], *, host_rows: slice | None = None):
        if not batches:
            raise SpotError("expected at least one lane of batches, found none; give one a prompt")
        self.batches = list(batches)
        shapes = {(lane.shape.batch_size, lane.row_lengths, lane.shape.pack) for lane in batches}
        if len(shapes) > 1:
            raise SpotError(
                f"expected lanes of one batch shape, found {len(shapes)} different "
                "ones; give all prompts the same batch size and lengths"
            )
        self.host_rows = host_rows or slice(None)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        lanes = [next(lane) for lane in self.batches]
        batch = {name: np.concatenate([lane[name] for lane in lanes]) for name in lanes[0]}
        rows = [len(lane["encoder_input_tokens"]) for lane in lanes]
        batch["row_prompt"] = np.repeat(np.arange(len(lanes), dtype=np.int32), rows)
        batch["row_number"] = np.concatenate([np.arange(n, dtype=np.int32) for n in rows])
        return {name: array[self.host_rows] for name, array in batch.items()}

    @property
    def examples(self) -> int:
        """Examples so far, over all lanes."""
        return sum(lane.examples for lane in self.batches)

    @property
    def truncated_inputs(self) -> int:
        """Inputs cut so far, over all lanes."""
        return sum(lane.truncated_inputs for lane in self.batches)

    @property
    def truncated_targets(self) -> int:
        """Targets cut so far, over all lanes."""
        return sum(lane.truncated_targets for lane in self.batches)

    def state(self) -> State:
        """Return every lane's place."""
        return {"lanes": [lane.state() for lane in self.batches]}

    def restore(self, state: State) -> None:
        """Go to every lane's place."""
        if len(state["lanes"]) != len(self.batches):
            raise SpotError(
                f"expected the data places of {len(self.batches)} prompts, found "
                f"{len(state['lanes'])}; continue with as many prompts as the run began with"
            )
        for lane, place in zip(self.batches, state["lanes"], strict=True):
            lane.restore(place)
