"""A claim on a piece of work, so that several processes share a directory without meeting.

A claim is a lock that the operating system holds for a process: it ends with the process, however
that ends, so there are no stale ones to clear away. The lock's file stays where it is, because a
file that one removes while another opens it would be two locks; what it says is for people.
"""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from spot_jax.errors import SpotError

UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Claims the work that `path` stands for while the block runs; yields whether it is ours.

    Args:
        path: the lock's file; its directory is made.
        wait: until whoever holds it lets go.

    Raises:
        SpotError: the file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        ours = _lock(descriptor, path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if ours:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield ours
    finally:
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Who works on what `path` stands for ("process 12 on host"); None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _lock(descriptor, path, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return None
        return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        raise SpotError(
            f"the file system of {path.parent} has no locks ({error.strerror}), which keep two "
            "processes apart; put the study on one that has"
        ) from error
    return True
