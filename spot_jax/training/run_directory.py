"""A run directory: what is in it, and whether a run may go on in it.

checkpoints/STEP/        state and data position, one Orbax step each
prompts/best-I.safetensors, last-I.safetensors   prompt I of the run, best by validation, last
prompts/embedding-I.safetensors                  prompt I at an early step: its task's embedding
backbone/                the tuned weights, in our stored form (model tuning)
run.json                 what the run is; a run of another kind is refused here
setup.json               what `spot eval` and `spot infer` need to know
environment.json         versions, devices and command of each start
config.gin               the operative configuration
metrics.jsonl            one line a report; TensorBoard's event files stand beside it
"""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from spot_jax.errors import SpotError
from spot_jax.files import parse_json, write_json


def run_path(model_dir: str | os.PathLike[str]) -> Path:
    """Return the run directory, made if need be; `SpotError` if it cannot be written."""
    path = Path(model_dir).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise SpotError(
            f"cannot write the run directory {path}: {error.strerror}; give another MODEL_DIR"
        ) from error
    return path


def check_same_run(
    directory: Path, description: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
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
        write_json(path, description)
        return
    try:
        stored = parse_json(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError(f"a JSON object is expected, found {type(stored).__name__}")
    except ValueError as error:
        raise SpotError(f"{path} is damaged ({error}); choose another MODEL_DIR") from error
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
    # Runs of before the vocabulary was written down are taken on trust.
    stored = {"vocabulary": description.get("vocabulary"), **stored}
    method = str(stored.get("method", "")).removesuffix("Recipe")
    settings = {**defaults, **stored.get("method_settings", {})}
    return {**stored, "method": method, "method_settings": settings}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_environment(directory: Path) -> None:
    """Add this start to environment.json: command, versions, devices."""
    path = directory / "environment.json"
    starts = json.loads(path.read_text()) if path.exists() else []
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
