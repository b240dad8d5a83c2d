"""Checks of how much data a task has, which whoever registers tasks may add.

A task that is smaller than its catalogue says is read without an error, and its share of a mixture
is wrong; so the size is compared where data is read.
"""

import functools
import logging
from collections.abc import Callable

# From a task, a split, its number of rows and its number of examples, either None where it is not
# known, to a line that says what is wrong; None where nothing is.
SizeCheck = Callable[[str, str, int | None, int | None], str | None]

_CHECKS: list[SizeCheck] = []


def register(check: SizeCheck) -> None:
    """Add a check to those of `report`; one that was added before changes nothing."""
    if check not in _CHECKS:
        _CHECKS.append(check)


def report(task: str, split: str, *, rows: int | None = None, examples: int | None = None) -> None:
    """Log what the checks say of a split as warnings, each line once in a process.

    Args:
        task: name of the task.
        split: name of the split.
        rows: number of rows that its source holds, where that is known.
        examples: number of examples that its preprocessing makes of them, where that is known.
    """
    for check in _CHECKS:
        line = check(task, split, rows, examples)
        if line is not None:
            _warn(line)


@functools.cache
def _warn(line: str) -> None:
    logging.getLogger(__name__).warning("%s", line)
