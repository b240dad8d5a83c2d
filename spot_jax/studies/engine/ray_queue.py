"""The queue of a study on a Ray cluster: this process hands out the jobs, Ray's workers do them.

Only this process decides who does what, so the workers' machines need no locks between them; it
holds each job's lock as long as the job is out, and other starts of the command stay away from it.
A job whose worker or node died is handed out again and goes on from its last checkpoint. Workers
read and write the study's directory, which every node has to see.
"""

import collections
import contextlib
import dataclasses
import os
import secrets
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from etils import epath

from spot_jax.errors import SpotError, SpotWarning
from spot_jax.files import fault_text, write_whole
from spot_jax.studies.engine.job import Job
from spot_jax.studies.engine.job_lock import file_lock
from spot_jax.studies.engine.ray_cluster import (
    RayCluster,
    amounts,
    check_nodes,
    connected,
    fitting_nodes,
)
from spot_jax.studies.engine.ray_worker import MARK, BlindNodeError, do_job, eventually

_POLL = 2.0
# How long jobs that are stopped may take to save what they have, in seconds.
_GRACE = 20.0
# Variables of the driver that a job reads.
_VARIABLES = ("TFDS_DATA_DIR",)

J = TypeVar("J", bound=Job)
J_ = TypeVar("J_", bound=Job, contravariant=True)
Log = Callable[[str], None]


class RayStudy(Protocol[J_]):
    """What the queue asks of a study."""

    plan: Any
    path: epath.Path

    def is_done(self, job: J_ | str) -> bool:
        """Return whether a job has a result."""
        ...

    def waits_for(self, job: J_) -> list[str]:
        """Return the names of the jobs that have to be done before."""
        ...

    def lock_file(self, job: J_) -> epath.Path:
        """Return the file that a process locks while it does a job."""
        ...

    def needed(self, job: J_ | str) -> Any:
        """Return the result of a job that is done."""
        ...

    def scores(self, result: Any) -> str:
        """Return what a job found, for people."""
        ...

    def time_left(self, at_once: int = 1) -> str:
        """Return an estimate, for people."""
        ...


def run_all(study: RayStudy[J], jobs: Sequence[J], cluster: RayCluster, log: Log) -> None:
    """Do what is left of some jobs on a cluster.

    A job that fails stops only those that need it.

    Args:
        study: study of the jobs.
        jobs: jobs to do; what they need is among them, or done.
        cluster: the cluster, and what each job asks of it.
        log: function called with a line on each job.

    Raises:
        SpotError: a cluster that cannot be reached or lacks what a job asks for, a node that does
            not see the study, or jobs that failed.
    """
    if all(map(study.is_done, jobs)):
        return
    with connected(cluster) as ray:
        nodes = fitting_nodes(ray, cluster)
        mark = _mark(study.path)
        check_nodes(ray, nodes, str(study.path), mark)
        at_once = sum(cluster.fits(node["Resources"]) for node in nodes)
        many = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
        log(f"Ray: {many}, {at_once} jobs at once, each with {amounts(cluster.wanted)}")
        _Driver(ray, study, jobs, cluster, log, mark, at_once).run()


class _Driver(Generic[J]):
    """A run under way: which jobs are out, which wait, which failed."""

    def __init__(
        self,
        ray: Any,
        study: RayStudy[J],
        jobs: Sequence[J],
        cluster: RayCluster,
        log: Log,
        mark: str,
        at_once: int,
    ):
        self.ray, self.study, self.cluster, self.log = ray, study, cluster, log
        self.jobs, self.mark, self.at_once = jobs, mark, at_once
        self.waiting = list(jobs)
        self.out: dict[Any, tuple[J, contextlib.ExitStack]] = {}
        self.deaths: collections.Counter[str] = collections.Counter()
        self.failures: dict[str, BaseException] = {}
        self.lost: set[str] = set()  # those that failed, and those that need them
        self.plan = dataclasses.replace(study.plan, directory=str(study.path))
        # A process for each job: one that has done a job holds on to its accelerators' memory.
        self.task = ray.remote(max_calls=1, max_retries=0)(do_job)

    def run(self) -> None:
        """Hand out jobs until all are done or lost."""
        alone = False
        try:
            while self.waiting or self.out:
                self.hand_out()
                if self.out:
                    ready, _ = self.ray.wait(list(self.out), num_returns=1, timeout=_POLL)
                    for task in ready:
                        self.take_back(task)
                elif self.waiting:
                    if not alone:
                        self.log(f"{len(self.waiting)} jobs left, all of them with other processes")
                    alone = True
                    time.sleep(_POLL)
        except BaseException:
            self.stop()
            raise
        finally:
            for _, lock in self.out.values():
                lock.close()
        self.complain()

    def hand_out(self) -> None:
        """Give every job that is ready and free to the cluster, which may let it wait."""
        for job in list(self.waiting):
            if self.study.is_done(job):
                self.waiting.remove(job)
            elif self.lost & set(job.needs):
                self.lost.add(job.name)
                self.waiting.remove(job)
            elif not self.study.waits_for(job):
                lock = contextlib.ExitStack()
                if not lock.enter_context(file_lock(self.study.lock_file(job))):
                    lock.close()
                    continue
                variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
                task = self.task.options(
                    name=job.name,
                    num_cpus=self.cluster.cpus,
                    num_gpus=self.cluster.gpus,
                    resources=dict(self.cluster.resources),
                ).remote(
                    type(self.study), self.plan, job.name, self.mark, str(Path.cwd()), variables
                )
                self.out[task] = job, lock
                self.waiting.remove(job)

    def take_back(self, task: Any) -> None:
        """Take note of how a job ended."""
        errors = self.ray.exceptions
        job, lock = self.out.pop(task)
        with lock:
            try:
                reply = self.ray.get(task)
            except errors.RayTaskError as error:
                if isinstance(error.cause, BlindNodeError):
                    raise error.cause from None
                self.fail(job, error.cause if isinstance(error.cause, Exception) else error)
                return
            except errors.RayError as error:
                self.begin_again(job, type(error).__name__)
                return
            for line in reply.warnings:
                warnings.warn(line, SpotWarning, stacklevel=2)
            if reply.stopped:
                self.begin_again(job, f"stopped on {reply.node}")
            elif reply.failure:
                self.fail(job, SpotError(reply.failure))
            elif not eventually(lambda: self.study.is_done(job)):
                raise BlindNodeError(
                    f"{reply.node} has done {job.name}, and this machine does not see its result "
                    f"in {self.study.path}; put the study on a path that all of them share"
                )
            else:
                done = sum(map(self.study.is_done, self.jobs))
                scores = self.study.scores(self.study.needed(job))
                left = self.study.time_left(self.at_once)
                self.log(f"[{done}/{len(self.jobs)}] {job.name} on {reply.node}: {scores}{left}")

    def begin_again(self, job: J, reason: str) -> None:
        """Let a job whose worker is gone be handed out again, unless that happened too often."""
        self.deaths[job.name] += 1
        deaths, retries = self.deaths[job.name], self.cluster.retries
        if deaths > retries:
            times = "once" if deaths == 1 else f"{deaths} times"
            line = f"job {job.name}: its worker died {times} ({reason}); see Ray's logs for why"
            self.fail(job, SpotError(f"{line}, or let it be tried more often (--job_retries)"))
            return
        self.log(f"{job.name}: its worker died ({reason}); it goes on, try {deaths + 1}")
        self.waiting.insert(0, job)

    def fail(self, job: J, error: BaseException) -> None:
        """Take note of a job that failed."""
        self.failures[job.name] = error
        self.lost.add(job.name)
        line = (
            str(error) if isinstance(error, SpotError) else f"job {job.name}: {fault_text(error)}"
        )
        self.log(f"failed: {line}")

    def stop(self) -> None:
        """Ask the workers to save what they have and stop; wait a little for them."""
        with contextlib.suppress(Exception):
            for task in self.out:
                self.ray.cancel(task)
            if self.out:
                self.ray.wait(list(self.out), num_returns=len(self.out), timeout=_GRACE)

    def complain(self) -> None:
        """Raise the error of the first job that failed, if any did."""
        for error in self.failures.values():
            others = len(self.lost) - 1
            if others and isinstance(error, SpotError):
                raise SpotError(f"{error} (and {others} more jobs failed or wait for such)")
            raise error


def _mark(path: epath.Path) -> str:
    """Return the content of a study's `MARK`, which the first driver writes."""
    file = path / MARK
    if not file.exists():
        write_whole(file, secrets.token_hex(8))
    return file.read_text()
