"""Locks and leases, so that several processes share a directory and do nothing twice.

The operating system holds a lock for a process and drops it when the process ends, however that
ends, so there are no stale locks to clear away. The lock's file stays where it is, because a file
that one process removes while another opens it would be two locks; its text is for people.

Where there are no locks, in a bucket and on some network file systems, a lease does: a small file
that its owner renews. Whoever finds it renewed lately stays away; a lease of a process of this
machine that is no more, or that nobody has renewed for a while, is taken over.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import (
    is_alive,
    is_local,
    machine_mark,
    parse_object,
    write_json,
)

RENEWED_SECONDS = 20.0
"""How often the owner of a lease renews it."""
STALE_SECONDS = 100.0
"""After how long without renewal a lease of another machine is nobody's."""
# Of two that begin at once the last to write has it; so long the first waits to see.
_SETTLED_SECONDS = 1.0

UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


_handed_out = False


class NoLocksError(SpotError):
    """A file system that knows no locks."""


@contextlib.contextmanager
def handed_out() -> Iterator[None]:
    """Let this process own what it opens, without a lock or a lease, while the block runs.

    For work that another process hands out, each piece to one worker at a time: a worker that died
    with its machine leaves nothing that the next one would have to wait for.
    """
    global _handed_out
    before, _handed_out = _handed_out, True
    try:
        yield
    finally:
        _handed_out = before


@contextlib.contextmanager
def sole_owner(path: epath.PathLike) -> Iterator[str | None]:
    """Hold a file as its only owner while the block runs, on any file system and in a bucket.

    Args:
        path: file of the lock or lease; its directory exists.

    Yields:
        None, or who holds it if that is another ("process 12 on host").
    """
    if _handed_out:
        yield None
        return
    if is_local(path):
        try:
            with file_lock(Path(path)) as ours:
                yield None if ours else holder(Path(path)) or "another process"
            return
        except NoLocksError:
            pass
    with _lease(epath.Path(path)) as other:
        yield other


@contextlib.contextmanager
def _lease(path: epath.Path) -> Iterator[str | None]:
    other = _other_owner(path)
    if other is not None:
        yield other
        return
    token, over = secrets.token_hex(8), threading.Event()
    write_json(path, _lease_fields(token))
    time.sleep(_SETTLED_SECONDS)
    if (fields := _read_lease(path)) is not None and fields.get("token") != token:
        yield str(fields.get("owner", "another process"))
        return

    def renew() -> None:
        while not over.wait(RENEWED_SECONDS):
            # A store that is away for a moment is tried again.
            with contextlib.suppress(Exception):
                write_json(path, _lease_fields(token))

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield None
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def _lease_fields(token: str) -> dict[str, Any]:
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    machine = {"machine": machine_mark(), "process": os.getpid()}
    return {"owner": owner, **machine, "token": token, "renewed": time.time()}


def _read_lease(path: epath.Path) -> dict[str, Any] | None:
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError):
        return None


def _other_owner(path: epath.Path) -> str | None:
    """Who holds a lease; None if nobody does, or its owner is no more."""
    fields = _read_lease(path)
    if fields is None:
        return None
    owner, process, renewed = (fields.get(name) for name in ("owner", "process", "renewed"))
    if fields.get("machine") == machine_mark() and isinstance(process, int):
        return str(owner) if is_alive(process) else None
    fresh = isinstance(renewed, int | float) and time.time() - renewed < STALE_SECONDS
    return str(owner) if fresh else None


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
        raise NoLocksError(
            f"the file system of {path.parent} has no locks ({error.strerror}), which keep two "
            "processes apart; put the study on one that has"
        ) from error
    return True
