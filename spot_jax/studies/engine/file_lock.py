"""Locks on files, so that several processes share a directory and do nothing twice.

The operating system holds a lock for a process and drops it when the process ends, however that
ends, so there are no stale locks to clear away. The lock's file stays where it is, because a file
that one process removes while another opens it would be two locks; its text is for people.
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
def file_lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock while the block runs; yield whether this process has it.

    Args:
        path: file of the lock; its directory is made if need be.
        wait: whether to wait until the process that holds the lock lets go.

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
    """Return which process holds a lock ("process 12 on host"); None if none does."""
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
