"""Metrics of a run: JSON lines, which are exact, and trackers, to look at."""

import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

import jax
import numpy as np

from spot_jax.files import as_path, is_local, parse_object, write_whole
from spot_jax.training.trackers import Background, TensorBoard, numbers_by_tag

FILE = "metrics.jsonl"


def plain(value: Any) -> Any:
    """Return a value in JSON's types: arrays as lists, NaN and infinities as text.

    JSON lacks the latter; the texts are "NaN", "Infinity" and "-Infinity", which Python's `float`
    reads back.
    """
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events in one directory, and a run's other trackers.

    A line is `{"step": 10, "train/loss": 0.5, ...}`; the values of N prompts are a list. Lines are
    whole and flushed when `write` returns. Process 0 writes, the others do nothing. No object of a
    bucket can be appended to, so for a bucket both are files of this machine that `sync` copies.
    """

    def __init__(self, directory: str | os.PathLike[str], trackers: Sequence[Background] = ()):
        """Open a log in the directory of a run, whose files are created at the first line.

        Args:
            directory: run directory.
            trackers: other trackers, which their opener closes.
        """
        self.path = as_path(directory) / FILE
        self._on = jax.process_index() == 0
        self._file: TextIO | None = None
        self._events: TensorBoard | None = None
        self._trackers = trackers
        # Tags of steps that an earlier start has logged and this one will do again.
        self._repeated: set[tuple[int, str]] = set()
        self._kept: int | None = None
        self._local = pathlib.Path(self.path)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if self._on and not is_local(self.path):
            self._temporary = tempfile.TemporaryDirectory(prefix="spot-metrics-")
            self._local = pathlib.Path(self._temporary.name) / FILE

    def truncate_after(self, step: int) -> None:
        """Take out what was logged after the step a run goes on from: it will be logged again.

        A last line that a kill cut short goes too. Trackers keep what they have of those steps, as
        the same numbers come again; one that is new to the run gets the steps before, too. Call it
        before the first `write`.
        """
        if not self._on or not self.path.exists():
            return
        self._catch_up(step)
        kept = [line for line in self.path.read_bytes().split(b"\n") if _is_upto(line, step)]
        write_whole(self.path, b"".join(line + b"\n" for line in kept))
        self._kept = step
        if self._temporary is not None:
            write_whole(self._local, self.path.read_bytes())

    def _catch_up(self, step: int) -> None:
        if not self._trackers:
            return
        rows = [
            (int(row.pop("step")), numbers_by_tag(row)) for row in read_metrics(self.path.parent)
        ]
        for tracker in self._trackers:
            if tracker.is_new:
                tracker.log([row for row in rows if row[0] <= step])
        self._repeated = {(at, tag) for at, numbers in rows if at > step for tag in numbers}

    def _open(self) -> tuple[TextIO, TensorBoard]:
        if self._file is None or self._events is None:
            self._local.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._local.open("a", encoding="utf-8")
            # TensorBoard hides the events from this step on that earlier starts wrote.
            purge = None if self._kept is None else self._kept + 1
            self._events = TensorBoard(str(self._local.parent), purge)
        return self._file, self._events

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log values of one step: numbers, texts, or arrays [n] of one number a prompt."""
        if not self._on:
            return
        row = {"step": int(step), **{name: plain(value) for name, value in values.items()}}
        file, events = self._open()
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        numbers = numbers_by_tag(values)
        events.log([(int(step), numbers)])
        for tracker in self._trackers:
            tracker.log([(int(step), self._new_to(tracker, int(step), numbers))])

    def _new_to(
        self, tracker: Background, step: int, numbers: Mapping[str, float]
    ) -> Mapping[str, float]:
        """What a tracker does not have of a step yet."""
        if tracker.is_new or not self._repeated:
            return numbers
        return {tag: x for tag, x in numbers.items() if (step, tag) not in self._repeated}

    def sync(self) -> None:
        """Copy what was logged into the run's bucket; a local log is up to date as it is."""
        if self._temporary is None or self._events is None:
            return
        self._events.flush()
        for path in self._local.parent.iterdir():
            write_whole(self.path.parent / path.name, path.read_bytes())

    def close(self) -> None:
        """Flush and close both."""
        if self._file is not None and self._events is not None:
            self.sync()
            self._file.close()
            self._events.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> "MetricsLog":
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log."""
        self.close()


def read_metrics(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of a run's log, the last one left out if a kill cut it short."""
    path = as_path(directory) / FILE
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [parse_object(line) for line in lines if _is_upto(line, None)]


def _is_upto(line: bytes, step: int | None) -> bool:
    """Whether a line is whole, and of a step up to this one."""
    try:
        row = parse_object(line)
        return int(row["step"]) >= 0 if step is None else int(row["step"]) <= step
    except (ValueError, KeyError, TypeError, OverflowError):
        return False
