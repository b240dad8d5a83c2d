"""Cells, a method on a task each, and the one file they are kept in."""

import dataclasses
import json
import os
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from spot_jax.errors import SpotError
from spot_jax.files import write_json

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a method came to on a task.

    Attributes:
        task: the set.
        method: its name.
        accuracies: on test, by seed; one where there is no chance in a method.
        examples: of test that were scored.
        trainable: numbers that were trained, for one seed.
        seconds: of training, for one seed, without compiling and evaluating.
        chosen: the settings that validation chose.
        tried: every setting with its validation accuracy, and the prompt's file where it has one.
        files: the prompts that were scored, by seed; relative to the runs' directory.
        whole_seconds: of the cell, everything in it.
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
        """Over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """Over seeds (n - 1); None with one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


class Results:
    """The cells that are done, in a JSON file that is replaced in one move after each."""

    def __init__(self, path: Path):
        self.path = path
        self.cells: dict[tuple[str, str], Cell] = {}
        self.about: dict[str, Any] = {}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            self.about = stored["about"]
            for fields in stored["cells"]:
                for name in ("accuracies", "tried", "files"):
                    fields[name] = tuple(fields[name])
                self.cells[fields["task"], fields["method"]] = Cell(**fields)

    def get(self, task: str, method: str) -> Cell | None:
        """A cell, if it is done."""
        return self.cells.get((task, method))

    def add(self, cell: Cell) -> None:
        """Keeps a cell, in memory and on disk."""
        self.cells[cell.task, cell.method] = cell
        self.save()

    def save(self) -> None:
        """Writes all cells."""
        stored = {
            "format": FORMAT,
            "about": self.about,
            "cells": [dataclasses.asdict(self.cells[key]) for key in sorted(self.cells)],
        }
        write_json(self.path, stored)


def done(results: Results, task: str, method: str) -> Cell:
    """A cell that another begins from; `SpotError` if it is not done."""
    found = results.get(task, method)
    if found is None:
        raise SpotError(f"{method} on {task} is not done; do it first, with --methods {method}")
    return found


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
