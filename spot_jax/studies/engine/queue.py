"""The queue of a study: a process takes the next job that is ready and that no other does."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.studies.engine.job import Job
from spot_jax.studies.engine.job_lock import file_lock, holder
from spot_jax.training.distributed import agreed

POLL = 2.0

J = TypeVar("J", bound=Job)
J_ = TypeVar("J_", bound=Job, contravariant=True)


class Jobs(Protocol[J_]):
    """What the queue asks of a study."""

    def is_done(self, job: J_ | str) -> bool:
        """Return whether a job has a result."""
        ...

    def waits_for(self, job: J_) -> list[str]:
        """Return the names of the jobs that have to be done before."""
        ...

    def lock_file(self, job: J_) -> epath.Path:
        """Return the file that a process locks while it does a job."""
        ...


def run_all(
    study: Jobs[J], jobs: Sequence[J], do: Callable[[J], None], log: Callable[[str], None]
) -> None:
    """Do what is left of some jobs, together with whoever else is at it.

    Args:
        study: study of the jobs.
        jobs: jobs to do; what they need is among them, or done.
        do: function that does one job and leaves its result.
        log: function called with a line when nothing is left but to wait for others.
    """
    while left := [job for job in jobs if not agreed(study.is_done(job))]:
        if not _run_next(study, left, do):
            _wait(study, left, log)


def run_one(study: Jobs[J], job: J, do: Callable[[J], None], log: Callable[[str], None]) -> None:
    """Do one job; nothing if it is done.

    Raises:
        SpotError: its needs are not done, or another process does it.
    """
    if study.is_done(job):
        log(f"{job.name} is done")
        return
    if waiting := study.waits_for(job):
        more = f" and {len(waiting) - 1} more" if waiting[1:] else ""
        raise SpotError(
            f"{job.name} needs what {waiting[0]}{more} will have written; run --job={waiting[0]} "
            "first"
        )
    with file_lock(study.lock_file(job)) as ours:
        if not ours:
            process = holder(study.lock_file(job)) or "another process"
            raise SpotError(
                f"{job.name} is being done by {process}; wait for it, or run another job"
            )
        do(job)


def _run_next(study: Jobs[J], left: Sequence[J], do: Callable[[J], None]) -> bool:
    """Do the first job that is ready and free; return whether there was such a job."""
    for job in left:
        if agreed(study.waits_for(job)):
            continue
        with file_lock(study.lock_file(job)) as ours:
            if not ours:
                continue
            # Another process may have done it since we looked.
            if not agreed(study.is_done(job)):
                do(job)
            return True
    return False


def _wait(study: Jobs[J], left: Sequence[J], log: Callable[[str], None]) -> None:
    """Until another process has done something."""
    log(f"{len(left)} jobs left, all of them with other processes or waiting for theirs")
    before = len(left)
    while True:
        time.sleep(POLL)
        now = [job for job in left if not study.is_done(job)]
        free = [j for j in now if not study.waits_for(j) and not holder(study.lock_file(j))]
        if agreed(len(now) < before or bool(free)):
            return
