"""Every data set of the papers, and how to find it."""

import difflib

from spot_jax.errors import SpotError
from tasks.papers import rows_generation, rows_glue, rows_understanding
from tasks.papers.data_set import DataSet
from tasks.papers.rows_files import FILE_SETS

TFDS_SETS: tuple[DataSet, ...] = (
    *rows_glue.GLUE,
    *rows_glue.SUPER_GLUE,
    *rows_understanding.NLI,
    *rows_understanding.MRQA,
    *rows_understanding.RAINBOW,
    *rows_understanding.SENTIMENT,
    *rows_understanding.QUESTIONS,
    *rows_generation.TRANSLATION,
    *rows_generation.SUMMARIZATION,
    *rows_generation.GEM,
    *rows_generation.PRETRAINING,
)
CATALOGUE: tuple[DataSet, ...] = (*TFDS_SETS, *FILE_SETS)
BY_NAME: dict[str, DataSet] = {item.name: item for item in CATALOGUE}
NO_PREFIX = "_no_prefix"
PTUNING = "_ptuning"


def base_of(task: str) -> str:
    """Return the name of a task's data set: without what tells its forms apart."""
    return task.removesuffix(NO_PREFIX).removesuffix(PTUNING)


def find(task: str) -> DataSet:
    """Return the record of a task's data set, whatever its form; `SpotError` without one."""
    name = base_of(task)
    if name not in BY_NAME:
        near = difflib.get_close_matches(name, BY_NAME, 3)
        raise SpotError(
            f"expected a task over one of the papers' {len(BY_NAME)} data sets, found {task!r} "
            f"(nearest: {', '.join(near) or 'none'}); `spot tasks list` shows them"
        )
    return BY_NAME[name]


def in_family(family: str) -> tuple[DataSet, ...]:
    """Return the records of a family, in the catalogue's order."""
    return tuple(item for item in CATALOGUE if family in item.families)


def with_role(role: str) -> tuple[DataSet, ...]:
    """Return the records that play a role in a study: `source`, `target` or `shift`."""
    return tuple(item for item in CATALOGUE if role in item.roles)
