"""Rows with their predictions as a file: CSV, TSV, JSON lines or Parquet, by its ending."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from spot_jax.data.table.reading import form_of, pyarrow
from spot_jax.errors import SpotError
from spot_jax.files import write_whole

FORMS = ("csv", "tsv", "jsonl", "parquet")


def check_output(path: str | os.PathLike[str]) -> str:
    """Return the form that a path's ending names; `SpotError` for one that is not written."""
    form = form_of(path)
    if form not in FORMS:
        endings = ", ".join(f".{form}" for form in FORMS)
        raise SpotError(f"expected an output file {endings}, found {os.fspath(path)}; rename it")
    return form


def write_rows(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write rows in one move.

    Args:
        path: path or URL.
        columns: names of the columns, in order.
        rows: values by column; None for a missing one.
    """
    form = check_output(path)
    if form == "jsonl":
        lines = (json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
        write_whole(path, "".join(lines))
    elif form == "parquet":
        arrow = pyarrow()
        table = arrow.table({name: [row.get(name) for row in rows] for name in columns})
        write_whole(path, lambda file: arrow.parquet.write_table(table, file))
    else:
        text = io.StringIO(newline="")
        mark = "," if form == "csv" else "\t"
        writer = csv.DictWriter(text, columns, delimiter=mark, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, text.getvalue())
