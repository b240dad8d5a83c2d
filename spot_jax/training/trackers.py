"""Where the numbers of a run go beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow.

A tracker is a view: `metrics.jsonl` stays exact and whole. Where a tracker fails in the middle of a
run, there is one warning and the training goes on without it.
"""

import contextlib
import os
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from etils import epath

from spot_jax.errors import SpotError, SpotWarning, check_choice, require_extra
from spot_jax.files import fault_text, is_local, read_versioned, write_object
from spot_jax.training.distributed import by_lead

FILE = "trackers.json"
FORMAT = 1
PROJECT = "spot-jax"
# Seconds that the end of a run waits for what a service has not taken yet.
PATIENCE = 60.0

Row = tuple[int, Mapping[str, float]]
"""A step, and its numbers by tag."""
End = Literal["finished", "stopped", "failed"]


class Tracker(Protocol):
    """What takes the numbers of a run."""

    def log(self, rows: Sequence[Row]) -> None:
        """Take rows, in the order of their steps."""
        ...

    def close(self, end: End) -> None:
        """Take what is left, and the way in which this start of the run ended."""
        ...


class TensorBoard:
    """Event files in a directory."""

    def __init__(self, directory: str, purge_step: int | None):
        """Take what a new event file needs, which the first row opens.

        Args:
            directory: local directory.
            purge_step: step from which on the events of earlier files are hidden; None for none.
        """
        self._directory, self._purge_step = directory, purge_step
        self._events: Any = None

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        if self._events is None:
            # Late: its import takes as long as many a first step.
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(self._directory, purge_step=self._purge_step)
        for step, numbers in rows:
            for tag, number in numbers.items():
                self._events.add_scalar(tag, number, step)

    def flush(self) -> None:
        """Write out what was logged."""
        if self._events is not None:
            self._events.flush()

    def close(self, end: End = "finished") -> None:
        """See `Tracker`."""
        if self._events is not None:
            self._events.close()


class WandB:
    """A run of Weights & Biases; its WANDB_* variables say where and how."""

    def __init__(self, directory: epath.Path, id: str | None, settings: Mapping[str, Any]):
        """Start a run, or go on with one.

        Args:
            directory: run directory, whose name is the run's.
            id: identifier of a run to go on with; None for a new one.
            settings: settings of the run, in JSON's types.
        """
        import wandb

        beside = is_local(directory) and "WANDB_DIR" not in os.environ
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", directory.name),
            dir=str(directory) if beside else None,
            id=id,
            resume="allow" if id else None,
            config={**settings},
            settings=wandb.Settings(console="off"),
        )
        self.id = str(self._run.id)

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        for step, numbers in rows:
            self._run.log(dict(numbers), step=step)

    def close(self, end: End) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=1 if end == "failed" else 0)


class MLflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI points."""

    STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
    # What a request may hold.
    METRICS, PARAMETERS, LETTERS = 1000, 100, 6000

    def __init__(self, directory: epath.Path, id: str | None, settings: Mapping[str, Any]):
        """Start a run, or go on with one; see `WandB`."""
        # Only what was asked for is sent, and a server that is gone is noticed within seconds.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if id is not None:
            self._client.update_run(id, status="RUNNING")
            self.id = id
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        stored = self._client.get_experiment_by_name(experiment)
        number = stored.experiment_id if stored else self._client.create_experiment(experiment)
        name = os.environ.get("MLFLOW_RUN_NAME", directory.name)
        self.id = str(self._client.create_run(number, run_name=name).info.run_id)
        self._log_parameters(settings)

    def _log_parameters(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        texts = {_tag(name): str(value) for name, value in flat(settings).items()}
        for name, text in texts.items():
            if len(text) > self.LETTERS:
                texts[name] = f"{text[: self.LETTERS - 3]}..."
        parameters = [Param(name, text) for name, text in texts.items()]
        for i in range(0, len(parameters), self.PARAMETERS):
            self._client.log_batch(self.id, params=parameters[i : i + self.PARAMETERS])

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_tag(tag), number, now, step)
            for step, numbers in rows
            for tag, number in numbers.items()
        ]
        for i in range(0, len(metrics), self.METRICS):
            self._client.log_batch(self.id, metrics=metrics[i : i + self.METRICS])

    def close(self, end: End) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self.id, self.STATUS[end])


TRACKERS: dict[str, Callable[[epath.Path, str | None, Mapping[str, Any]], Any]] = {
    "wandb": WandB,
    "mlflow": MLflow,
}
"""Trackers that a run may ask for, by name; the extras have the same names."""


class Background:
    """A tracker that a thread feeds, so that no step of the training waits for a network."""

    def __init__(self, name: str, tracker: Tracker, is_new: bool):
        """Start the thread.

        Args:
            name: name of the tracker, for the warning.
            tracker: tracker to feed.
            is_new: whether it has nothing of the run yet.
        """
        self.name, self.is_new = name, is_new
        self._tracker = tracker
        self._rows: queue.SimpleQueue[Row | End] = queue.SimpleQueue()
        self._fault: BaseException | None = None
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, rows: Sequence[Row]) -> None:
        """See `Tracker`; returns at once, and warns the first time that the tracker has failed."""
        self._warn()
        if not self._warned:
            for row in rows:
                self._rows.put(row)

    def close(self, end: End) -> None:
        """See `Tracker`; gives up after `PATIENCE` seconds."""
        self._rows.put(end)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._fault = TimeoutError(f"not done {PATIENCE:.0f} seconds after the end of the run")
        self._warn()

    def _work(self) -> None:
        try:
            while True:
                items = [self._rows.get()]
                while not self._rows.empty():
                    items.append(self._rows.get())
                if rows := [item for item in items if not isinstance(item, str)]:
                    self._tracker.log(rows)
                if isinstance(items[-1], str):
                    self._tracker.close(items[-1])
                    return
        except BaseException as error:  # whatever a package of others does, the training goes on
            self._fault = error

    def _warn(self) -> None:
        if self._fault is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name} failed and gets no more of this start: {fault_text(self._fault)}; "
                "metrics.jsonl has everything",
                SpotWarning,
                stacklevel=3,
            )


class Tracked:
    """The trackers of one start of a run, and whether it reached its end.

    Attributes:
        trackers: trackers of the lead process; none on the others.
        finished: whether the run reached its last step, which its caller sets.
    """

    def __init__(self) -> None:
        self.trackers: list[Background] = []
        self.finished = False


def check_trackers(names: Sequence[str]) -> None:
    """Raise `SpotError` for a tracker that does not exist, or that is not installed."""
    if isinstance(names, str):
        raise SpotError(f"train.trackers is a list of names, such as [{names!r}], found {names!r}")
    for name in names:
        check_choice("train.trackers", name, tuple(TRACKERS))
        require_extra(name, f"--track {name}")


@contextlib.contextmanager
def tracking(
    directory: epath.Path, names: Sequence[str], settings: Mapping[str, Any]
) -> Iterator[Tracked]:
    """Open a run's trackers on the lead process, and close them at the end of the block.

    The identifier of the run at each tracker stands in trackers.json, so that a later start of the
    run goes on in the same one.

    Args:
        directory: run directory.
        names: names of trackers, see `TRACKERS`.
        settings: settings of the run, in JSON's types.

    Yields:
        The trackers.

    Raises:
        SpotError: a tracker that has nothing of this run yet does not start. One that has is left
            out with a warning, so that a run goes on while a service is down.
    """
    tracked = Tracked()

    def begin() -> None:
        for name in dict.fromkeys(names):
            tracker = _opened(directory, name, settings)
            if tracker is not None:
                tracked.trackers.append(tracker)

    end: End = "failed"
    try:
        if names:
            by_lead(begin)
        yield tracked
        end = "finished" if tracked.finished else "stopped"
    except KeyboardInterrupt:
        end = "stopped"
        raise
    finally:
        for tracker in tracked.trackers:
            tracker.close(end)


def _opened(directory: epath.Path, name: str, settings: Mapping[str, Any]) -> Background | None:
    path = directory / FILE
    remedy = "remove it, and the trackers begin new runs"
    ids: dict[str, str] = read_versioned(path, FORMAT, dict, remedy) or {}
    id = ids.get(name)
    try:
        tracker = TRACKERS[name](directory, id, settings)
    except (Exception, SystemExit) as error:
        if id is None:
            raise SpotError(
                f"{name} does not start: {fault_text(error)}; see docs/tracking.md, or leave out "
                f"--track {name}"
            ) from error
        warnings.warn(
            f"{name} does not go on with its run {id}, and gets nothing of this start: "
            f"{fault_text(error)}; metrics.jsonl has everything",
            SpotWarning,
            stacklevel=2,
        )
        return None
    if id != tracker.id:
        write_object(path, {"format": FORMAT, **ids, name: tracker.id})
    return Background(name, tracker, id is None)


def numbers_by_tag(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among a step's values; those of N prompts as NAME/0 to NAME/N-1.

    Text, None, and the NaN of a metric that a prompt's task does not have, are left out.
    """
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if value is None or isinstance(value, str):
            continue
        array = np.asarray(value, np.float64)
        for index in np.ndindex(array.shape):
            if not np.isnan(array[index]):
                numbers["/".join([name, *map(str, index)])] = float(array[index])
    return numbers


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names; lists stay values."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def _tag(name: str) -> str:
    """A name in the letters that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name)
