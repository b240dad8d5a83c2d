"""The files of a library, on a disk or in a bucket: listed, written in one move, checked."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from spot_jax.files import fault_text, is_local, parse_object, write_whole
from spot_jax.files.digests import digest, json_digest
from spot_jax.library.entry import SUFFIX

FORMAT = 1
# Format 1 did not say what its signatures are of; it is made again without a word.
SIGNATURES_FORMAT = 2


class OldIndexError(Exception):
    """A file of signatures of an earlier format."""


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
    with _damage():
        line, _, body = path.read_bytes().partition(b"\n")
        head = parse_object(line)
        if head["format"] != FORMAT or head["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError("its content does not have the hash that it names")
        return [json.loads(line) for line in body.splitlines()]  # as written, by its hash


def write_signatures(
    path: epath.Path, about: Mapping[str, Any], ids: list[str], signatures: np.ndarray
) -> None:
    """Write an index file of signatures [n, d] float32 and the ids of their entries.

    Args:
        path: path of the file.
        about: facts about what the signatures are of, in JSON's types.
        ids: id of each row's entry.
        signatures: signatures [n, d].
    """
    head: dict[str, Any] = {"format": SIGNATURES_FORMAT, "about": dict(about), "ids": ids}
    head["digest"] = digest(json_digest(head), signatures.data)
    data = safetensors.numpy.save({"signatures": signatures}, {"spot_jax_index": json.dumps(head)})
    write_whole(path, data)


def read_signatures(path: epath.Path, about: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """Return the inverse of `write_signatures`; no ids if there is no such file.

    Raises:
        DamagedIndexError: the file is cut short, changed, or of something else than `about`.
        OldIndexError: the file is of an earlier format.
    """
    if not path.exists():
        return [], np.empty((0, 0), np.float32)
    with _damage():
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        metadata = parse_object(data[8 : 8 + length])["__metadata__"]
        head = parse_object(metadata["spot_jax_index"])
        signatures = safetensors.numpy.load(data)["signatures"]
        # The digest is of the numbers' bytes: what they are read as must be what was written.
        if signatures.dtype != np.float32 or signatures.ndim != 2:
            raise ValueError(f"its signatures are {signatures.dtype} {list(signatures.shape)}")
        if head["format"] == 1 and "sha256" in head:
            raise OldIndexError
        others = {name: value for name, value in head.items() if name != "digest"}
        if head["format"] != SIGNATURES_FORMAT or head["digest"] != digest(
            json_digest(others), signatures.data
        ):
            raise ValueError("its content is not what was written")
        if head["about"] != dict(about) or len(signatures) != len(head["ids"]):
            raise ValueError(f"its signatures are of {head['about']}, not of {dict(about)}")
        return head["ids"], signatures


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Within, whatever a parser raises is a `DamagedIndexError`."""
    try:
        yield
    except OldIndexError:
        raise
    except Exception as error:
        raise DamagedIndexError(fault_text(error)) from error
