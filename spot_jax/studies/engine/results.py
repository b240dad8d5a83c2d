"""What a study found, as one file: `results.json`, from which every table and figure comes.

The dataclasses of results are the file's format: a field is a key, None and NaN are null.
"""

import dataclasses
import os
import platform
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import jax
from etils import epath

from spot_jax.files import as_path
from spot_jax.files.records import read_record, write_record
from spot_jax.studies.engine.job import JobResult

FILE = "results.json"
FORMAT = 1

R = TypeVar("R", bound="Results")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What all studies' results say.

    Attributes:
        title: head of the report.
        backbone: name or fingerprint of the backbone.
        metric: name of a score in words ("accuracy", "mean of each task's metrics").
        split: split of the scores, in words.
        seeds: seeds of the prompts; empty for means.
        majority: score of always answering the most common label, by task.
        no_prompt: score of the bare backbone without any virtual token, by task.
        commands: commands that made the study, in order.
        machine: facts about the machine, by name ("cores": 2).
        notes: remarks for readers of these data, a sentence each.
    """

    command: ClassVar[str] = "spot study"

    title: str
    backbone: str = ""
    metric: str = "score"
    split: str = "test"
    seeds: tuple[int, ...] = ()
    majority: Mapping[str, float] = dataclasses.field(default_factory=dict)
    no_prompt: Mapping[str, float] = dataclasses.field(default_factory=dict)
    commands: tuple[str, ...] = ()
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def write(self, where: str | os.PathLike[str]) -> epath.Path:
        """Write the file in one move, into a directory or as a .json; return its path."""
        path = results_path(where)
        write_record(self, path, FORMAT)
        return path

    @classmethod
    def read(cls: type[R], where: str | os.PathLike[str]) -> R:
        """Read what `write` wrote.

        Raises:
            SpotError: no such file, truncated, not of such a study, of a newer format, or
                contradictory.
        """
        return read_record(cls, results_path(where), FORMAT, cls.command)


def results_path(where: str | os.PathLike[str]) -> epath.Path:
    """Return `results.json` of a study's directory, or the file itself where a .json is given."""
    path = as_path(where)
    return path if path.suffix == ".json" else path / FILE


def devices() -> str:
    """Return the devices of this process: "8 x TPU v5 lite"."""
    kinds = [device.device_kind for device in jax.devices()]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))


def machine(jobs: Iterable[JobResult] = ()) -> dict[str, Any]:
    """Return where a study ran, by name of the fact, and the sum of what its jobs took."""
    jobs = list(jobs)
    return {
        "cores": os.cpu_count(),
        "devices": "; ".join(sorted({job.devices for job in jobs if job.devices})) or devices(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "seconds": round(sum(job.seconds for job in jobs)),
    }
