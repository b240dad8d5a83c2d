"""What a file of rows is as a task: which columns are text, which is the label, which kind it is.

A name says all of it, so that whatever takes a task's name takes a file:

    tickets.csv?text=subject,body&label=queue

After the `?` stand fields of `Table`; what is left out is found from the file.
"""

import dataclasses
import difflib
import urllib.parse
from collections.abc import Iterable
from typing import Any

from etils import epath

from spot_jax.data import fields
from spot_jax.data.sources import JOIN
from spot_jax.data.table.reading import Rows, form_of, is_saved_dataset, rows_of_frame
from spot_jax.errors import SpotError
from spot_jax.files import is_local

KINDS = ("classification", "regression", "generation")
FRAME = ".frame"
"""Ending of the name of a table in memory."""
_LISTS = ("text", "columns")
# Characters that stand for themselves in a name.
_PLAIN = " ,{}:/<>()'!;@*|"

_FRAMES: dict[str, Rows] = {}


@dataclasses.dataclass(frozen=True)
class Table:
    """A file, or a table in memory, to train on and to predict.

    Attributes:
        file: path or URL of a CSV, TSV, JSON lines, Parquet or Arrow file, or of a directory that
            `datasets` saved; `{split}` in it stands for train, validation and test. Or a pandas,
            polars or Arrow table, or a list of mappings.
        text: names of the columns that are read, each written after its name as T5's tasks do.
        label: name of the column that is predicted.
        kind: "classification", "regression" or "generation"; found from the label's values.
        template: text with columns in braces, such as "{subject}: {body}", in place of T5's form.
        split: name of the column that says each row's split; without one, splits follow from a
            hash of the text.
        columns: names of the columns of a CSV file that has no first line with names.
        encoding: encoding of a text file; UTF-8, or what a byte-order mark says.
        delimiter: character between cells; found from the first line.
    """

    file: Any
    text: tuple[str, ...] = ()
    label: str = ""
    kind: str = ""
    template: str = ""
    split: str = ""
    columns: tuple[str, ...] = ()
    encoding: str = ""
    delimiter: str = ""

    def __post_init__(self) -> None:
        for field in _LISTS:
            value = getattr(self, field)
            names = _names(value) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, field, names)
        if self.kind and self.kind not in KINDS:
            raise SpotError(f"expected a kind among {', '.join(KINDS)}, found {self.kind!r}")
        if self.template:
            names = fields.names_in(self.template)
            if not self.text:
                object.__setattr__(self, "text", names)
        if not isinstance(self.file, str) and hasattr(self.file, "__fspath__"):
            object.__setattr__(self, "file", self.file.__fspath__())
        if not isinstance(self.file, str):
            rows = rows_of_frame(self.file)
            name = f"rows-{rows.sha256[:12]}{FRAME}"
            _FRAMES[name] = rows
            object.__setattr__(self, "file", name)

    @property
    def name(self) -> str:
        """The name that stands for it wherever a task's name does."""
        words = []
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value and not (field.name == "text" and self.template):
                text = _quoted(value) if isinstance(value, str) else _joined(value)
                words.append(f"{field.name}={text}")
        return f"{self.file}?{'&'.join(words)}" if words else self.file

    @classmethod
    def parse(cls, name: str) -> "Table":
        """Read a name; `SpotError` for a field that no table has."""
        file, _, query = name.partition("?")
        settings = [field.name for field in dataclasses.fields(cls)[1:]]
        values: dict[str, Any] = {}
        for pair in query.split("&") if query else []:
            field, _, value = pair.partition("=")
            if field not in settings:
                near = difflib.get_close_matches(field, settings, 1) or settings
                raise SpotError(
                    f"a file has no setting {field!r} ({name}); did you mean {', '.join(near)}?"
                )
            values[field] = value if field in _LISTS else urllib.parse.unquote(value)
        return cls(file, **values)


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe=_PLAIN)


def _joined(columns: Iterable[str]) -> str:
    return ",".join(_quoted(column).replace(",", "%2C") for column in columns)


def _names(value: str) -> tuple[str, ...]:
    """Column names of a list with commas; a comma within a name is written %2C."""
    return tuple(urllib.parse.unquote(part.strip()) for part in value.split(",") if part.strip())


def is_table(name: str) -> bool:
    """Return whether a name is that of a file of rows."""
    file = name.partition("?")[0]
    return form_of(file) is not None or file.endswith(FRAME) or is_saved_dataset(file)


def exists(name: str) -> bool:
    """Return whether a local file, or a table in memory, lies where a name says."""
    file, _, query = name.partition("?")
    if JOIN in query:  # one within a table's own name is written %2B
        return False
    return file in _FRAMES or (is_local(file) and epath.Path(file).exists())


def frame_of(file: str) -> Rows | None:
    """Return the rows of a table in memory; None for a file."""
    return _FRAMES.get(file)
