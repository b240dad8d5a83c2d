"""Joining the processes of a pod or a cluster, before a verb begins."""

import importlib.util
import io
import os
import sys
from collections.abc import Sequence

from spot_jax.cli.flags import OneLineParser

FLAGS = ("--coordinator_address", "--process_count", "--process_index", "--process_id")
# A verb that computes nothing is done by the lead, which need not wait for anybody.
TOGETHER = {"train", "transfer", "study", "intrinsic", "eval", "infer"}
# Signs that there may be a cluster; without one JAX, which takes a second, is not asked.
SIGNS = (
    *("SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"),
    *("KUBERNETES_SERVICE_HOST", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"),
)


def join(verb: str, arguments: Sequence[str]) -> bool:
    """Join the other processes of a command, if there are any.

    Only the lead prints: the others' standard output goes nowhere.

    Args:
        verb: word after `spot`.
        arguments: words after the verb.

    Returns:
        Whether this process has anything to do.

    Raises:
        SpotError: flags that do not fit, or processes that do not come together.
    """
    flagged = any(argument.partition("=")[0] in FLAGS for argument in arguments)
    if {"-h", "--help"} & set(arguments) or not (flagged or _may_be_a_cluster()):
        return True
    if any(argument.partition("=")[0] == "--on" for argument in arguments):
        return True  # one process hands out the work
    flags = OneLineParser(prog=f"spot {verb}", add_help=False, allow_abbrev=False)
    flags.add_argument("--coordinator_address")
    flags.add_argument("--process_count", type=int)
    flags.add_argument("--process_index", "--process_id", dest="process_id", type=int)
    values, _ = flags.parse_known_args(list(arguments))

    from spot_jax.training import distributed

    typed = values.coordinator_address, values.process_count, values.process_id
    if verb in TOGETHER or arguments[:1] == ["search"]:
        _keep_output_apart()
        if distributed.start(*typed) and not distributed.is_lead():
            sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        return True
    if flagged:
        return not values.process_id
    cluster = distributed.find_cluster()
    return cluster is None or cluster.process_id == 0


def _keep_output_apart() -> None:
    """Send what libraries in C++ print to standard error, as Gloo does whenever ranks connect."""
    stream = sys.stdout
    if stream is not sys.__stdout__ or not isinstance(stream, io.TextIOWrapper):
        return
    stream.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    buffering = 1 if os.isatty(output) else -1
    sys.stdout = os.fdopen(output, "w", buffering, encoding=stream.encoding, errors=stream.errors)


def end(code: int, message: str) -> None:
    """End this process at once if others are joined to it: they must not wait for it.

    Args:
        code: exit code.
        message: line for standard error.
    """
    distributed = sys.modules.get("spot_jax.training.distributed")
    if distributed is not None and distributed.is_joined():
        sys.stdout.flush()
        distributed.leave(code, message)


def lost_peer(error: BaseException) -> str | None:
    """Return a line if an error means that another process is gone."""
    distributed = sys.modules.get("spot_jax.training.distributed")
    return None if distributed is None else distributed.lost_peer(error)


def _may_be_a_cluster() -> bool:
    named = any(name in os.environ for name in SIGNS)
    return named or importlib.util.find_spec("libtpu") is not None
