"""A run directory: what is in it, and whether a run may go on in it.

checkpoints/STEP/        state and data position, one Orbax step each
prompts/best-I.safetensors, last-I.safetensors   prompt I of the run, best by validation, last
prompts/embedding-I.safetensors                  prompt I at an early step: its task's embedding
prompts/step-STEP-I.safetensors                  prompt I at a step of CheckpointPlan.prompt_steps
profile/                 a trace of some steps, where train.profile_steps asks for one
backbone/                the tuned weights, in our stored form (model tuning)
run.json                 what the run is; a run of another kind is refused here
setup.json               what `spot eval` and `spot infer` need to know
environment.json         versions, devices and command of each start
config.gin               the operative configuration
metrics.jsonl            one line a report; TensorBoard's event files stand beside it
trackers.json            the run's identifier at each of its trackers; wandb/ has wandb's files
tokens/                  the data as several hosts tokenised it together, until the run ends
.owner                   locked by the process that trains here; a second start is refused
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from spot_jax.errors import SpotError, SpotWarning
from spot_jax.files import (
    as_path,
    clear_leftovers,
    fault_text,
    parse_json,
    part_path,
    read_object,
    write_json,
)
from spot_jax.files.locks import sole_owner

RUN_REMEDY = "restore it, or choose another MODEL_DIR"
OWNER = ".owner"
"""File in a run directory that its owner locks."""


def run_path(model_dir: str | os.PathLike[str]) -> epath.Path:
    """Return the run directory, made if need be; `SpotError` if it cannot be written."""
    if not os.fspath(model_dir).strip():
        raise SpotError("MODEL_DIR is empty; give the directory of the run, such as 'runs/first'")
    if os.fspath(model_dir).startswith("s3://"):
        raise SpotError(
            f"{os.fspath(model_dir)}: a run's checkpoints cannot be in s3://, since Orbax writes "
            "arrays to disks and gs:// alone; give a MODEL_DIR on a disk or in gs:// (prompts, "
            "libraries, backbones and data may be in s3://)"
        )
    path = as_path(model_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = part_path(path / "writable")
        probe.write_bytes(b"")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError of a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise SpotError(
            f"cannot write the run directory {os.fspath(path)!r}: {reason}; give another MODEL_DIR"
        ) from error
    return path


@contextlib.contextmanager
def owned(directory: epath.Path) -> Iterator[None]:
    """Hold a run directory while the block runs, and clear what killed starts left in it.

    The lead process of several holds it for all.

    Raises:
        SpotError: another start has it, by name.
    """
    if jax.process_index() != 0:
        yield
        return
    with sole_owner(directory / OWNER) as other:
        if other is not None:
            raise SpotError(
                f"{directory} is in use by another start ({other}); wait for it or stop it, or "
                "choose another MODEL_DIR"
            )
        for place in (directory, directory / "prompts"):
            clear_leftovers(place)
        yield


def check_same_run(
    directory: epath.Path, description: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Write run.json at the first start; afterwards refuse a run that is another.

    Args:
        directory: the run directory.
        description: everything that decides the path of training, in JSON's types. What may
            change between two starts (number of steps, periods, mesh) is not in it.
        defaults: the method's default settings: what a run had of those that are new since.

    Raises:
        SpotError: a field that differs, with both values.
    """
    path = directory / "run.json"
    description = json.loads(json.dumps(description))
    if not path.exists():
        # Without a digest: every start compares all of it with what it is itself.
        write_json(path, description)
        return
    stored = read_object(path, RUN_REMEDY) or {}
    stored = _as_written_today(stored, description, defaults or {})
    keys = description.keys() | stored.keys()
    odd = sorted(k for k in keys if description.get(k) != stored.get(k))
    if odd:
        name = odd[0]
        more = f" (and {len(odd) - 1} more: {', '.join(odd[1:4])})" if len(odd) > 1 else ""
        raise SpotError(
            f"{directory} holds a run with {name} = {_short(stored.get(name))}, this one has "
            f"{_short(description.get(name))}{more}; choose another MODEL_DIR, or the same settings"
        )


def _as_written_today(
    stored: dict[str, Any], description: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a run.json of an earlier version as this one would have written it."""
    # Runs of before these were written down are taken on trust.
    trusted = ("vocabulary", "parameter_dtype", "scan_layers")
    stored = {**{name: description.get(name) for name in trusted}, **stored}
    method = str(stored.get("method", "")).removesuffix("Recipe")
    settings = stored.get("method_settings") or {}
    if isinstance(settings, Mapping):  # what else a damaged file has there is seen to differ
        settings = {**defaults, **settings}
    return {**stored, "method": method, "method_settings": settings}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_environment(directory: epath.Path) -> None:
    """Add this start to environment.json: command, versions, devices.

    A damaged file says nothing that a run needs: it is put aside.
    """
    path = directory / "environment.json"
    starts: list[Any] = []
    if path.exists():
        try:
            starts = parse_json(path.read_bytes())
            if not isinstance(starts, list):
                raise ValueError("no list of starts")
        except (OSError, ValueError) as error:
            aside = path.with_suffix(".damaged.json")
            warnings.warn(
                f"{path} is damaged ({fault_text(error)}); it is put aside as {aside.name}",
                SpotWarning,
                stacklevel=2,
            )
            path.replace(aside)
            starts = []
    names = ("spot-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "seqio")
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    devices = [f"{d.platform}:{d.device_kind}" for d in jax.devices()]
    start = {
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "versions": versions,
        "devices": {kind: devices.count(kind) for kind in sorted(set(devices))},
        "processes": jax.process_count(),
    }
    write_json(path, [*starts, start])
