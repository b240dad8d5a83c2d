"""A Ray cluster for the jobs of a study: what a job asks for, joining it, first checks.

Ray is imported when it is used: it is the extra `ray`.
"""

import contextlib
import dataclasses
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spot_jax.errors import SpotError, require_extra
from spot_jax.files import fault_text
from spot_jax.studies.engine.ray_worker import BlindNodeError, look
from spot_jax.version import __version__

# How long a node may take to answer, and an address to accept a connection, in seconds.
_ANSWER, _CONNECT = 120.0, 5.0
# About the least that Ray takes; jobs exchange nothing by its store.
_STORE_BYTES = 80_000_000
# A slice of up to eight cores or chips is one machine's.
_SLICE = re.compile(r"TPU-.+-(\d+)-head")


@dataclasses.dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, and what each job of a study asks of it.

    Attributes:
        address: "ray://HOST:10001" (Ray's client), "HOST:6379", or "auto" for the cluster of this
            machine; "" for that of RAY_ADDRESS, of this machine, or a new one on it.
        cpus: number of cores of a job, as Ray counts them.
        gpus: number of GPUs of a job.
        resources: amounts of other resources, by name, such as {"TPU": 4}.
        retries: number of times that a job is begun again after its worker or node died.
    """

    address: str = ""
    cpus: float = 1
    gpus: float = 0
    resources: Mapping[str, float] = dataclasses.field(default_factory=dict)
    retries: int = 3

    def __post_init__(self) -> None:
        """Raise `SpotError` for what no job can ask for."""
        for name, amount in self.wanted.items():
            if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
                raise SpotError(f"a job's {name} is {amount!r}; give a number above 0")
            match = _SLICE.fullmatch(name)
            if match and int(match[1]) > 8:
                raise SpotError(
                    f"{name} is a slice of several machines, and a job is one process on one; ask "
                    "for a slice of one machine, such as TPU-v5litepod-8-head"
                )
        if self.retries < 0:
            raise SpotError(f"a job's retries are {self.retries}; give 0 or more")
        if self.address not in ("", "auto"):
            host, _, port = self.address.removeprefix("ray://").rpartition(":")
            if not host or not port.isdigit() or int(port) > 65535:
                raise SpotError(
                    f"{self.address!r} is no address of a Ray cluster; give ray, "
                    "ray://HOST:10001, ray:HOST:6379 or ray:auto"
                )

    @property
    def wanted(self) -> dict[str, float]:
        """Amounts of all resources of a job, by Ray's names."""
        plain = {"CPU": self.cpus, "GPU": self.gpus}
        return {**{name: n for name, n in plain.items() if n != 0}, **self.resources}

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many jobs a node of these resources does at once."""
        return int(min((resources.get(name, 0) // n for name, n in self.wanted.items()), default=1))


@contextlib.contextmanager
def connected(cluster: RayCluster) -> Iterator[Any]:
    """Connect to a cluster while the block runs, or start one on this machine; yield `ray`."""
    require_extra("ray", "--on ray")
    address = cluster.address or os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "auto", "local"):
        _check_reachable(address)
    # What a study does is nobody else's business, unless its user wants it so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

    import ray

    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    ours = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address=address or "auto", **quiet)
        except ConnectionError:
            if address not in ("", "local"):
                raise
            ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise SpotError(
            f"the Ray cluster at {address or 'this machine'} cannot be joined: "
            f"{fault_text(error)}; see `ray status` there, and use its version of Ray and Python"
        ) from error
    finally:
        if ours:  # Ray's own way to end would be a traceback
            signal.signal(signal.SIGTERM, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT).close()
    except (OSError, ValueError) as error:
        raise SpotError(
            f"no Ray cluster answers at {address}: {fault_text(error)}; check host and port "
            "(10001 for ray://, 6379 without) and that `ray start --head` runs there"
        ) from error


def fitting_nodes(ray: Any, cluster: RayCluster) -> list[dict[str, Any]]:
    """Return the nodes that can do a job; `SpotError` if there is none."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    fitting = [node for node in nodes if cluster.fits(node["Resources"])]
    if not fitting:
        kinds = dict.fromkeys(amounts(node["Resources"]) for node in nodes)
        raise SpotError(
            f"no node of the Ray cluster has what a job asks for, {amounts(cluster.wanted)}; "
            f"nodes have {' or '.join(kinds)}: ask for less (--job_cpus, --job_gpus, "
            "--job_resources), or add such a node"
        )
    return fitting


def amounts(resources: Mapping[str, float]) -> str:
    """Return "4 TPU, 1 CPU", without what Ray counts for itself."""
    hidden = ("memory", "object_store_memory")
    named = {n: v for n, v in resources.items() if n not in hidden and not n.startswith("node:")}
    return ", ".join(f"{value:g} {name}" for name, value in sorted(named.items())) or "nothing"


def check_nodes(ray: Any, nodes: Sequence[Mapping[str, Any]], path: str, mark: str) -> None:
    """Raise `SpotError` unless all nodes see the study and have this version of spot-jax."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe, tasks = ray.remote(look), {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = probe.options(num_cpus=0, scheduling_strategy=strategy).remote(path, mark)
        tasks[task] = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    until = time.monotonic() + _ANSWER
    for task, name in tasks.items():
        try:
            version = ray.get(task, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            raise SpotError(
                f"{name} does not answer in {_ANSWER:.0f} s; see `ray status`"
            ) from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BlindNodeError):
                raise error.cause from None
            raise SpotError(
                f"{name} cannot do a job: {fault_text(error.cause)}; install spot-jax there too"
            ) from error
        except ray.exceptions.RayError:
            continue  # a node that has just died does no job
        if version != __version__:
            raise SpotError(
                f"{name} has spot-jax {version}, this machine {__version__}; install the same"
            )
