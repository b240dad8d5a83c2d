"""Invented raw rows of each data set, in the form that its source has them.

The table of formats in the docs is made of them, and so is the data of the tests.
"""

import functools
import json
from pathlib import Path
from typing import Any

from tasks.papers.catalogue import find

Row = dict[str, Any]
_SAME = {
    "glue_mnli_mismatched": "glue_mnli",
    "anli_r2": "anli_r1",
    "anli_r3": "anli_r1",
    "race_high": "race_middle",
}


@functools.cache
def _all() -> dict[str, list[Row]]:
    return json.loads(Path(__file__).with_name("samples.json").read_text(encoding="utf-8"))


def rows(name: str) -> list[Row]:
    """Return the rows of a data set of TFDS; fields that its task does not read may be missing."""
    key = find(name).name
    key = "mrqa" if key.startswith("mrqa_") else _SAME.get(key, key)
    return _all()[key]


def raw(name: str) -> Row:
    """Return one row of a data set of TFDS."""
    return rows(name)[0]
