"""The files of a library, on a disk or in a bucket: listed, written in one move, checked."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from spot_jax.files import is_local, parse_json, write_whole
from spot_jax.library.entry import SUFFIX

FORMAT = 1


class DamagedIndexError(Exception):
    """An index file that is not what was written."""


def list_prompts(directory: epath.Path) -> set[str]:
    """List the ids of the files in LIB/prompts, from their names; half-written ones have others."""
    if is_local(directory):
        try:
            names = os.listdir(directory)  # noqa: PTH208 - 100,000 paths would take ten times as long
        except FileNotFoundError:
            return set()
    else:
        names = [path.name for path in directory.iterdir()] if directory.exists() else []
    ends = len(SUFFIX)
    return {n[:-ends] for n in names if n.endswith(SUFFIX) and not n.startswith(".")}


def changed(directory: epath.Path) -> float | None:
    """Return when a local directory last gained or lost a file, in seconds; None if unknown."""
    if not is_local(directory):
        return None
    try:
        return Path(directory).stat().st_mtime
    except FileNotFoundError:
        return None


def write_lines(path: epath.Path, rows: list[dict[str, Any]]) -> None:
    """Write an index file of JSON lines, headed by their hash."""
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    head = {"format": FORMAT, "sha256": hashlib.sha256(body).hexdigest()}
    write_whole(path, json.dumps(head).encode() + b"\n" + body)


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """Return the inverse of `write_lines`; empty if there is no such file.

    Raises:
        DamagedIndexError: the file is cut short, changed, or of another format.
    """
    if not path.exists():
        return []
    head, _, body = path.read_bytes().partition(b"\n")
    _check(head, body)
    return [parse_json(line) for line in body.splitlines()]


def write_signatures(path: epath.Path, ids: list[str], signatures: np.ndarray) -> None:
    """Write an index file of signatures [n, d] float32 and the ids of their entries."""
    body = json.dumps(ids)
    head = {"format": FORMAT, "sha256": _digest(body, signatures), "ids": body}
    data = safetensors.numpy.save({"signatures": signatures}, {"spot_jax_index": json.dumps(head)})
    write_whole(path, data)


def read_signatures(path: epath.Path) -> tuple[list[str], np.ndarray]:
    """Return the inverse of `write_signatures`; no ids if there is no such file.

    Raises:
        DamagedIndexError: the file is cut short, changed, or of another format.
    """
    if not path.exists():
        return [], np.empty((0, 0), np.float32)
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + length])["__metadata__"]["spot_jax_index"]
        signatures = safetensors.numpy.load(data)["signatures"]
        body = json.loads(head)["ids"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedIndexError(str(error)) from error
    _check(head, body, signatures)
    ids = parse_json(body)
    # The hash is of the numbers' bytes alone: what they are read as must be what was written.
    if signatures.dtype != np.float32 or signatures.ndim != 2 or len(signatures) != len(ids):
        raise DamagedIndexError(
            f"its signatures are {signatures.dtype} of shape {list(signatures.shape)} where "
            f"float32 with {len(ids)} rows is expected"
        )
    return ids, signatures


def _check(head: bytes | str, *parts: Any) -> None:
    try:
        fields = json.loads(head)
        good = fields["format"] == FORMAT and fields["sha256"] == _digest(*parts)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedIndexError(str(error)) from error
    if not good:
        raise DamagedIndexError("its content does not have the hash that it names")


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else memoryview(part).cast("B"))
    return digest.hexdigest()
