"""Dynamic batching: rows of whatever requests wait run together, whatever their prompts.

One thread runs the model. While it is busy requests gather; what has gathered is the next round. A
request of many rows takes turns with the others, a batch at a time.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from spot_jax.errors import SpotError
from spot_jax.inference.loaded_prompts import LoadedPrompts
from spot_jax.inference.prediction import Prediction
from spot_jax.inference.rows import Row


class Busy(SpotError):
    """More rows wait than there is room for."""


@dataclasses.dataclass(eq=False)
class _Job:
    rows: list[Row]
    probabilities: bool
    future: "Future[list[Prediction]]"
    begun: int = 0
    predictions: list[Prediction] = dataclasses.field(default_factory=list)


class Batcher:
    """Predicts the rows of many callers in common batches.

    Attributes:
        waiting: number of rows that no round has taken yet.
    """

    def __init__(
        self,
        prompts: LoadedPrompts,
        *,
        max_wait: float = 0.002,
        max_rows: int = 100_000,
        observe: Callable[[int, int, float], None] = lambda rows, prompts, seconds: None,
    ):
        """Start the thread.

        Args:
            prompts: prompts of the service.
            max_wait: seconds without another request after which those that wait begin; ten times
                as long at most.
            max_rows: number of rows that may wait.
            observe: function that is told each round's rows, prompts and seconds.
        """
        self.prompts, self.max_wait, self.max_rows = prompts, max_wait, max_rows
        self.observe = observe
        self.waiting = 0
        self._jobs: collections.deque[_Job] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        # Rows at which the thread wants to be woken: waking it for each would cost more than both.
        self._wake_at = 1
        self._comes_alone = False
        self._thread = threading.Thread(target=self._run, name="spot-batches", daemon=True)
        self._thread.start()

    def submit(self, rows: list[Row], *, probabilities: bool = True) -> "Future[list[Prediction]]":
        """Return the future predictions of rows.

        Raises:
            Busy: too many rows wait already.
        """
        future: Future[list[Prediction]] = Future()
        with self._changed:
            if self._closing:
                raise Busy("the service is stopping; send the request to another")
            if self.waiting + len(rows) > self.max_rows:
                raise Busy(
                    f"{self.waiting:,} texts wait already, of at most {self.max_rows:,}; send the "
                    "request again later"
                )
            if not rows:
                future.set_result([])
                return future
            self.waiting += len(rows)
            self._jobs.append(_Job(rows, probabilities, future))
            if self.waiting >= self._wake_at:
                self._changed.notify()
        return future

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._wake_at = 1
                    self._changed.wait()
                if not self._jobs:
                    return
            if self.max_wait and not self._closing:
                self._gather()
            self._round()

    def _gather(self) -> None:
        """Wait as long as requests keep coming: those that a round has answered ask again."""
        deadline = time.monotonic() + 10 * self.max_wait
        with self._changed:
            if self._comes_alone and len(self._jobs) == 1:
                return  # as the last did, for which the wait was in vain
            self._wake_at = self.prompts.batch_size
            before, left = 0, self.max_wait
            while before < self.waiting < self._wake_at and left > 0 and not self._closing:
                before = self.waiting
                self._changed.wait(left)
                left = min(self.max_wait, deadline - time.monotonic())
            self._comes_alone = len(self._jobs) == 1

    def _take(self) -> list[tuple[_Job, list[Row]]]:
        """Take the rows of a round: of each job a batch at most, the oldest first."""
        size = self.prompts.batch_size
        taken: list[tuple[_Job, list[Row]]] = []
        rows, again = 0, []
        with self._changed:
            while self._jobs and rows < 2 * size:
                job = self._jobs.popleft()
                # From here on nobody can cancel it.
                if not job.begun and not job.future.set_running_or_notify_cancel():
                    self.waiting -= len(job.rows) - job.begun
                    continue
                part = job.rows[job.begun : job.begun + size]
                job.begun += len(part)
                rows += len(part)
                self.waiting -= len(part)
                taken.append((job, part))
                if job.begun < len(job.rows):
                    again.append(job)
            self._jobs.extend(again)
        return taken

    def _round(self) -> None:
        taken = self._take()
        for probabilities in (True, False):
            parts = [pair for pair in taken if pair[0].probabilities == probabilities]
            rows = [row for _, part in parts for row in part]
            if not rows:
                continue
            begin = time.monotonic()
            try:
                predictions = self.prompts.predict(rows, probabilities=probabilities)
            except BaseException as error:
                for job, _ in parts:
                    self._fail(job, error)
                continue
            self.observe(len(rows), len({id(row.prompt) for row in rows}), time.monotonic() - begin)
            start = 0
            for job, part in parts:
                job.predictions += predictions[start : (start := start + len(part))]
                if len(job.predictions) == len(job.rows):
                    job.future.set_result(job.predictions)

    def _fail(self, job: _Job, error: BaseException) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self.waiting -= len(job.rows) - job.begun
        if not job.future.done():
            job.future.set_exception(error)
