"""Sizes found when data is read against the catalogue's, which rates of mixtures go by."""

import functools
import logging

from tasks.papers.catalogue import BY_NAME, NO_PREFIX
from tasks.papers.rows_files import ROUNDED


def report(
    task: str, split: str, *, rows: int | None = None, examples: int | None = None
) -> str | None:
    """Log one warning when a split is not as large as the catalogue says; once in a process.

    Args:
        task: its name; one that is not in the catalogue has nothing to differ from.
        split: of the task.
        rows: what its source holds, if that is known.
        examples: what its preprocessing makes of them, if that is known.

    Returns:
        What was logged, or would be again.
    """
    item = BY_NAME.get(task.removesuffix(NO_PREFIX))
    if item is None or split not in item.sizes:
        return None
    expected, found, what = item.sizes[split], rows, "rows"
    if examples is not None and split == "train":
        expected, found, what = item.training_examples or expected, examples, "examples"
    if found is None or found == expected:
        return None
    if item.name in ROUNDED and round(found, -3) == expected:
        return None
    line = (
        f"expected {expected:,} {what} in split {split} of {task}, found {found:,}; "
        "the catalogue's number goes into the rates of mixtures"
    )
    _warn(line)
    return line


@functools.cache
def _warn(line: str) -> None:
    logging.getLogger(__name__).warning("%s", line)
