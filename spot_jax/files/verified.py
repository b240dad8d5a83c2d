"""Large files that have been read to the end and were right, so that they are read once.

A file is remembered by its size, times and inode under the user's cache directory; when any of them
changes it is read again. A bucket has no inodes, so nothing in it is remembered.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from etils import epath

from spot_jax.files import is_local, parse_json, write_whole
from spot_jax.files.digests import digest, file_digest

# What changed within this time may change again without its times telling.
_SETTLED_SECONDS = 2.0


def is_remembered(path: epath.PathLike, expected: str) -> bool:
    """Return whether a file had this digest when it was last read, and has not changed since."""
    stamp = _stamp(path)
    with contextlib.suppress(OSError, ValueError):
        return stamp is not None and parse_json(_note(path).read_bytes()) == [expected, *stamp]
    return False


def remember(path: epath.PathLike, expected: str) -> None:
    """Note that a file has this digest, where the user's cache directory can be written."""
    stamp = _stamp(path)
    if stamp is None or time.time_ns() - max(stamp[1:3]) < _SETTLED_SECONDS * 1e9:
        return
    with contextlib.suppress(OSError):
        write_whole(_note(path), json.dumps([expected, *stamp]))


def matches(
    path: epath.PathLike,
    expected: str,
    hashed: Callable[[epath.Path], str] = file_digest,
) -> bool:
    """Return whether a file has a digest; it is read unless it is remembered.

    Args:
        path: path of the file.
        expected: digest that it should have.
        hashed: function that reads a file and returns its digest.
    """
    if is_remembered(path, expected):
        return True
    if hashed(epath.Path(path)) != expected:
        return False
    remember(path, expected)
    return True


def _stamp(path: epath.PathLike) -> tuple[int, int, int, int, int] | None:
    """Size, times of content and of entry, inode and device; None in a bucket, which has none."""
    if not is_local(path):
        return None
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def _note(path: epath.PathLike) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "spot_jax" / "digests" / digest(os.path.realpath(os.fspath(path)))
