"""What the methods came to: cells, a method on a task each, in one file."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.studies.engine.results import Results


@dataclasses.dataclass(frozen=True)
class Cell:
    """A method on a task.

    Attributes:
        task: name of the set.
        method: name of the method.
        accuracies: accuracy on test, by seed; one where there is no chance in a method.
        examples: number of test examples that were scored.
        trainable: number of numbers that were trained, for one seed.
        seconds: time of training, for one seed, without compiling and evaluating.
        chosen: settings that validation chose.
        tried: every setting with its validation accuracy, and the prompt's file where it has one.
        files: paths of the scored prompts, by seed; relative to the study's directory.
        whole_seconds: time of the cell, everything in it.
    """

    task: str
    method: str
    accuracies: tuple[float, ...]
    examples: int
    trainable: int = 0
    seconds: float = 0.0
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tried: tuple[Mapping[str, Any], ...] = ()
    files: tuple[str, ...] = ()
    whole_seconds: float = 0.0

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n - 1); None with one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodResults(Results):
    """Every method on every task, as far as it is done.

    Attributes:
        cells: finished cells, by task and method.
        settings: settings of the study.
    """

    command = "python -m bench.methods"

    title: str = "Every method on the tasks that ship"
    cells: tuple[Cell, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def get(self, task: str, method: str) -> Cell | None:
        """Return a cell; None if it is not done."""
        return next((c for c in self.cells if (c.task, c.method) == (task, method)), None)

    def done(self, task: str, method: str) -> Cell:
        """Return a cell that another begins from; `SpotError` if it is not done."""
        cell = self.get(task, method)
        if cell is None:
            raise SpotError(f"{method} on {task} is not done; do it first, with --methods {method}")
        return cell
