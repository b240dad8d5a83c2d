"""Starting several processes as one program: pods, clusters, or by hand."""

import os

import jax

from spot_jax.errors import SpotError


def start(
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
) -> bool:
    """Join this process to the others of its run; call it before anything else of JAX.

    By hand all three arguments are given, alike but for `process_id`. On a TPU pod and in a SLURM
    job of several tasks none is needed. With neither the process stays alone.

    Args:
        coordinator_address: host:port of process 0, free on that machine.
        process_count: number of processes.
        process_id: number of this process, from 0.

    Returns:
        Whether there was anything to join.

    Raises:
        SpotError: some of the three are given and not all, or the others did not come.
    """
    arguments = {
        "coordinator_address": coordinator_address,
        "process_count": process_count,
        "process_id": process_id,
    }
    missing = [name for name, value in arguments.items() if value is None]
    if 0 < len(missing) < 3:
        raise SpotError(
            f"several processes need all of {', '.join(arguments)}; "
            f"{', '.join(missing)} is not given"
        )
    if missing and not _in_cluster():
        return False
    if process_count is not None and process_id is not None and process_id >= process_count:
        raise SpotError(
            f"process_id is 0 to {process_count - 1} with process_count={process_count}, "
            f"found {process_id}"
        )
    try:
        jax.distributed.initialize(coordinator_address, process_count, process_id)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpotError(
            f"the processes of this run did not come together: {reason}; start the same command "
            "on every host, with an address of process 0 that all can reach"
        ) from error
    return True


def _in_cluster() -> bool:
    """Return whether the environment is that of several processes that JAX finds by itself."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return True
    return len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
