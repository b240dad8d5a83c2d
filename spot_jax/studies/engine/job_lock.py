"""The lock of a job: of one process, or of the lead of joined ones for all; in a bucket a lease."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from spot_jax.files import is_local, locks
from spot_jax.training.distributed import agreed, is_lead


@contextlib.contextmanager
def file_lock(path: epath.PathLike, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock while the block runs; yield whether it is held.

    Args:
        path: file of the lock.
        wait: whether to wait until a process that holds it lets go; a lease is not waited for.

    Raises:
        SpotError: the file system knows no locks.
    """
    if not is_lead():
        yield agreed(False)
    elif is_local(path):
        with locks.file_lock(Path(path), wait=wait) as ours:
            yield agreed(ours)
    else:
        with locks.sole_owner(path) as other:
            yield agreed(other is None)


def holder(path: epath.PathLike) -> str | None:
    """Return which process holds a lock; None if none does, or if that is unknown, in a bucket."""
    return locks.holder(Path(path)) if is_local(path) else None
