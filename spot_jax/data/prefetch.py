"""Batches that a thread makes while the device works on those before them."""

import queue
import threading
from typing import Any

from spot_jax.data.batch_source import TrainingBatches
from spot_jax.data.packing import Batch

AHEAD = 2
"""Batches that are made before they are asked for."""


class _Place:
    """What `TrainingBatches` says of itself after a batch."""

    def __init__(self, batches: TrainingBatches):
        self.state = batches.state()
        self.examples = batches.examples
        self.truncated_inputs = batches.truncated_inputs
        self.truncated_targets = batches.truncated_targets


class Prefetched:
    """`TrainingBatches`, some of them made ahead; their place is that of the batch handed out last.

    The thread begins with the first batch that is asked for, and ends with `close`.
    """

    def __init__(self, batches: TrainingBatches, ahead: int = AHEAD):
        self._batches, self._ahead = batches, ahead
        self._place = _Place(batches)
        self._made: queue.Queue[tuple[Batch, _Place] | BaseException] = queue.Queue(ahead)
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def __iter__(self) -> "Prefetched":
        return self

    def __next__(self) -> Batch:
        if self._thread is None:
            self._over.clear()
            self._thread = threading.Thread(target=self._make, name="batches", daemon=True)
            self._thread.start()
        result = self._made.get()
        if isinstance(result, BaseException):
            self._thread = None
            raise result
        batch, self._place = result
        return batch

    def _make(self) -> None:
        while not self._over.is_set():
            try:
                result: tuple[Batch, _Place] | BaseException
                result = next(self._batches), _Place(self._batches)
            except BaseException as error:  # raised where the batch is asked for
                result = error
            while not self._over.is_set():
                try:
                    self._made.put(result, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(result, BaseException):
                return

    def close(self) -> None:
        """End the thread, and go back to the place of the batch handed out last."""
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        self._thread = None
        while not self._made.empty():
            self._made.get_nowait()
        self._batches.restore(self._place.state)

    @property
    def examples(self) -> int:
        """Number of examples so far."""
        return self._place.examples

    @property
    def truncated_inputs(self) -> int:
        """Number of inputs cut so far."""
        return self._place.truncated_inputs

    @property
    def truncated_targets(self) -> int:
        """Number of targets cut so far."""
        return self._place.truncated_targets

    def state(self) -> dict[str, Any]:
        """Return the place of the next batch, in JSON's types."""
        return self._place.state

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a place."""
        self.close()
        self._batches.restore(state)
        self._place = _Place(self._batches)
