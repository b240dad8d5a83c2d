"""A job of a study on a worker of a Ray cluster: what the driver calls there, and what it replies.

No lock is taken here: the driver hands out each job to one worker at a time.
"""

import contextlib
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from spot_jax.errors import SpotError, SpotWarning
from spot_jax.files.locks import handed_out
from spot_jax.version import __version__

MARK = ".cluster"
"""File in a study's directory by which a node is seen to see it."""
PATIENCE = 20.0
"""Seconds in which what one machine wrote is to be seen by another."""


class BlindNodeError(SpotError):
    """A node that does not see the study's directory."""


class Reply(NamedTuple):
    """What a worker says of a job.

    Attributes:
        node: name of its machine.
        failure: line of the `SpotError` that ended the job; "" for one that is done.
        stopped: whether a signal ended it.
        warnings: lines of the `SpotWarning`s on the way.
    """

    node: str
    failure: str = ""
    stopped: bool = False
    warnings: tuple[str, ...] = ()


def look(path: str, mark: str) -> str:
    """Return the version of spot-jax on this node; `BlindNodeError` if it does not see `path`."""
    file = epath.Path(path) / MARK

    def seen() -> bool:
        with contextlib.suppress(OSError):
            return file.read_text() == mark
        return False

    if not eventually(seen):
        raise BlindNodeError(
            f"node {socket.gethostname()} does not see {path} as this machine does; put the study "
            "in a bucket (gs://...), or on a disk that all nodes have at the same path"
        )
    return __version__


def do_job(
    kind: Callable[..., Any],
    plan: Any,
    name: str,
    mark: str,
    directory: str,
    variables: Mapping[str, str],
) -> Reply:
    """Do a job of a study, or what an earlier worker left of it.

    Args:
        kind: class of the study.
        plan: plan of the study, its directory an absolute path.
        name: name of the job; what it needs is done.
        mark: content of the study's `MARK`.
        directory: working directory of the driver, used where the node has it.
        variables: variables of the environment.

    Raises:
        BlindNodeError: this node does not see the study.
    """
    os.environ.update(variables)
    with contextlib.suppress(OSError):
        os.chdir(directory)
        sys.path += [directory] if directory not in sys.path else []
    node, failure, stopped = socket.gethostname(), "", False
    look(plan.directory, mark)
    with warnings.catch_warnings(record=True) as caught, handed_out():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SpotWarning)
        try:
            study = kind(plan, look=True)
            job = study.job(name)
            eventually(lambda: not study.waits_for(job))
            if not study.is_done(job):
                with study.caches():
                    study.work(job, False)
        except SpotError as error:
            failure = str(error)
        except KeyboardInterrupt:
            stopped = True
    return Reply(node, failure, stopped, tuple(str(warning.message) for warning in caught))


def eventually(test: Callable[[], bool]) -> bool:
    """Return whether a test is passed within `PATIENCE`."""
    until = time.monotonic() + PATIENCE
    while not (passed := test()) and time.monotonic() < until:
        time.sleep(0.5)
    return passed
