"""Starting several processes as one program: pods, clusters, or by hand."""

import ctypes
import dataclasses
import functools
import json
import os
import secrets
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from etils import epath
from jax._src import distributed as jax_distributed
from jax._src.clusters import ClusterEnv
from jax._src.clusters.mpi4py_cluster import Mpi4pyCluster
from jax.experimental import multihost_utils

from spot_jax.data.shared_examples import Hosts
from spot_jax.errors import SpotError

T = TypeVar("T")

PEER_LOST = 3
"""Exit code of a process whose run lost another process."""

# Seconds without a sign of life after which a process counts as lost; JAX waits for 100.
HEARTBEAT_SECONDS = 30
# Seconds in which a file that one host wrote is to be seen by the others.
_PATIENCE = 10.0
# Standard error: a copy once joined, as the process may end while it is turned away from what an
# import prints.
_errors = 2


def start(
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
) -> bool:
    """Join this process to the others of its run; call it before anything else of JAX.

    By hand all three arguments are given, alike but for `process_id`. None is needed where JAX
    finds the cluster by itself: on a Cloud TPU pod (GCE or GKE), in a SLURM job, under MPI, in an
    indexed Kubernetes job. Elsewhere, and in a cluster of one process, the process stays alone.

    Args:
        coordinator_address: host:port of process 0, free on that machine.
        process_count: number of processes.
        process_id: number of this one, from 0.

    Returns:
        Whether there was anything to join.

    Raises:
        SpotError: some of the three are given and not all, the others did not come, or a launcher
            started several processes and JAX cannot find them.
    """
    if jax_distributed.global_state.client is not None:
        return True
    flags = {
        "coordinator_address": coordinator_address,
        "process_count": process_count,
        "process_id": process_id,
    }
    missing = [name for name, value in flags.items() if value is None]
    if 0 < len(missing) < 3:
        raise SpotError(
            f"several processes need all of {', '.join(flags)}; {', '.join(missing)} is not given"
        )
    cluster = find_cluster() if missing else None
    if missing and cluster is None:
        return False
    if process_count is not None and process_id is not None:
        _check_numbers(str(coordinator_address), process_count, process_id)
    # JAX's own way to end a process whose run lost another is a page of C++ and SIGABRT.
    runtime = jax_distributed._jax
    connect = runtime.get_distributed_runtime_client
    runtime.get_distributed_runtime_client = functools.partial(
        connect, missed_heartbeat_callback=_lost_by_heartbeat
    )
    try:
        jax.distributed.initialize(
            coordinator_address,
            process_count,
            process_id,
            cluster_detection_method=(
                "mpi4py" if cluster is not None and cluster.name == "mpi4py" else None
            ),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpotError(
            f"the processes of this run did not come together: {reason}; start the same command "
            "on every host, with an address of process 0 that all can reach"
        ) from error
    finally:
        runtime.get_distributed_runtime_client = connect
    global _errors
    _errors = os.dup(2)
    _end_on_abort()
    jax_distributed.shutdown = functools.partial(_take_leave, jax_distributed.shutdown)
    return True


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes that a launcher started together.

    Attributes:
        name: name of the launcher, as JAX has it.
        process_count: number of processes, at least 2.
        process_id: number of this one.
    """

    name: str
    process_count: int
    process_id: int


def find_cluster() -> Cluster | None:
    """Return the processes that this one was started with, as JAX detects them; None if alone.

    Raises:
        SpotError: a launcher started several processes, and JAX cannot find them.
    """
    # Any pod is in a Kubernetes cluster; only those of an indexed job have a number.
    indexed = "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ
    with warnings.catch_warnings():
        # What JAX says of Kubernetes without its package is said below, in a line.
        warnings.simplefilter("ignore")
        for kind in ClusterEnv._cluster_types:
            if kind.opt_in_only_method or (kind.__name__ == "K8sCluster" and not indexed):
                continue
            if kind.is_env_present():
                return _cluster(kind)
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        if Mpi4pyCluster.is_env_present():
            return _cluster(Mpi4pyCluster)
        raise _cannot_find("mpirun", "install mpi4py")
    if indexed:
        raise _cannot_find("an indexed Kubernetes job", "pip install kubernetes")
    return None


def _cluster(kind: type[ClusterEnv]) -> Cluster | None:
    count = kind.get_process_count()
    return Cluster(kind.name, count, kind.get_process_id()) if count > 1 else None


def _cannot_find(launcher: str, remedy: str) -> SpotError:
    return SpotError(
        f"{launcher} started this process among others, and JAX cannot find them; {remedy}, or "
        "give --coordinator_address, --process_count and --process_id"
    )


def _check_numbers(address: str, count: int, number: int) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SpotError(f"coordinator_address is HOST:PORT of process 0, found {address!r}")
    if not 0 <= number < count:
        raise SpotError(
            f"process_id is 0 to {count - 1} with process_count={count}, found {number}"
        )


def is_joined() -> bool:
    """Return whether this process is one of several that are joined."""
    return jax_distributed.global_state.client is not None and jax.process_count() > 1


def is_lead() -> bool:
    """Return whether this process prints and writes what is one for all."""
    return jax.process_index() == 0


def check_one_directory(directory: epath.Path) -> None:
    """Raise `SpotError` on every process unless all see one run directory.

    The lead writes a file that the others look for.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    mark = directory / f".seen-by-all.{int(number):08x}"
    if is_lead():
        mark.write_bytes(b"")
    multihost_utils.sync_global_devices("the mark of the run directory is written")
    until = time.monotonic() + _PATIENCE
    while not (seen := mark.exists()) and time.monotonic() < until:
        time.sleep(0.2)
    all_seen = multihost_utils.process_allgather(np.asarray(seen)).reshape(-1)
    if is_lead():
        mark.unlink(missing_ok=True)
    if not all_seen.all():
        blind = ", ".join(str(i) for i in np.flatnonzero(~all_seen))
        raise SpotError(
            f"processes {blind} do not see what process 0 writes to {directory}: the hosts share "
            "no such directory; give a MODEL_DIR in a bucket (gs://...) or on a shared disk"
        )


def hosts(directory: epath.Path) -> Hosts | None:
    """Return the processes of this run, which share their tokens there; None if this one is alone.

    Args:
        directory: run directory.
    """
    if jax.process_count() == 1:
        return None
    return Hosts(
        jax.process_index(),
        jax.process_count(),
        directory / "tokens",
        multihost_utils.sync_global_devices,
    )


def agreed(value: T) -> T:
    """Return the lead's value, a thing that JSON has, on every process."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if is_lead() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.uint32(len(text))))
    data = np.zeros(length, np.uint8)
    data[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes())


def by_lead(do: Callable[[], object]) -> None:
    """Do something on the lead alone; the others wait until it is done.

    Raises:
        SpotError: as the lead's, on every process.
    """
    message = ""
    if is_lead():
        try:
            do()
        except SpotError as error:
            if jax.process_count() == 1:
                raise
            message = str(error)
    if message := agreed(message):
        raise SpotError(message)


def leave(code: int, message: str) -> NoReturn:
    """End this process at once with one line, while others may wait for it in vain."""
    os.write(_errors, f"spot: {message}\n".encode())
    os._exit(code)


def lost_peer(error: BaseException) -> str | None:
    """Return the line for an error that says that another process is gone; None for others.

    A save in which others take part fails by it too, and says so as its cause.
    """
    cause: BaseException | None = error
    while is_joined() and cause is not None:
        by_jax = type(cause).__name__ in ("XlaRuntimeError", "JaxRuntimeError", "ValueError")
        if by_jax and any(mark in str(cause) for mark in _LOST_MARKS):
            return _LOST
        cause = cause.__cause__
    return None


# In errors of a collective that another process does not take part in any more.
_LOST_MARKS = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Gloo"),
    *("heartbeat", "UNAVAILABLE", "coordination service", "CoordinationService"),
)
_LOST = (
    "another process of this run ended or cannot be reached; the same command on every host goes "
    "on from the last checkpoint"
)


def _end_on_abort() -> None:
    """End with our line and code where JAX's C++ aborts the process because another is gone.

    It does so before it calls anything of Python's where its service, which lives in the lead, is
    gone; and where it does call, it cannot hand its error to Python, and aborts over that.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _ON_ABORT)


_ON_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: leave(PEER_LOST, _LOST))


def _take_leave(shutdown: Callable[[], None]) -> None:
    """Leave the others at the exit, when the work is done; who is gone need not be waited for."""
    try:
        shutdown()
    except Exception as error:
        # JAX's C++ cannot hand its error to Python, as in `_end_on_abort`, and says only that.
        if not any(mark in str(error) for mark in (*_LOST_MARKS, "std::bad_cast")):
            raise


def _lost_by_heartbeat(*_: Any) -> None:
    leave(PEER_LOST, _LOST)
