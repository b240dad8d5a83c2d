"""The flags that describe a file of one's own, shared by the commands that read one."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spot_jax.data.table import Table

FIELDS = {
    "text": "text",
    "label": "label",
    "kind": "kind",
    "template": "template",
    "split_column": "split",
    "columns": "columns",
    "encoding": "encoding",
    "delimiter": "delimiter",
}


def add_table_flags(group: Any) -> None:
    """Add the flags that say what a file's columns are."""
    group.add_argument("--text", metavar="A,B", help="columns that are read; default: found")
    group.add_argument("--label", metavar="NAME", help="column that is predicted; default: found")
    group.add_argument(
        "--kind",
        choices=["classification", "regression", "generation"],
        help="of target; default: by the label's values",
    )
    group.add_argument(
        "--template", metavar="TEXT", help="such as '{subject}: {body}'; default: T5's form"
    )
    group.add_argument(
        "--split_column",
        metavar="NAME",
        help="column with train, validation, test; default: a hash",
    )
    group.add_argument("--columns", metavar="A,B,C", help="names, of a file whose line 1 has none")
    group.add_argument("--encoding", metavar="NAME", help="default: UTF-8, or the file's mark")
    group.add_argument("--delimiter", metavar="C", help="between cells; default: found")


def table_of(file: str, values: argparse.Namespace) -> "Table":
    """Return the description of a file that the flags make, over what its name says."""
    import dataclasses

    from spot_jax.data.table import Table

    asked = {field: getattr(values, flag) for flag, field in FIELDS.items()}
    asked = {field: value for field, value in asked.items() if value}
    return dataclasses.replace(Table.parse(file), **asked)


def typed(values: argparse.Namespace) -> list[str]:
    """Return the flags of a table that were typed."""
    return [flag for flag in FIELDS if getattr(values, flag) is not None]
