"""Rows of a file: CSV, TSV, JSON lines, Parquet, Arrow, or a saved `datasets` directory.

Every cell becomes text, a missing one the empty text. CSV and JSON are read by Python's own
modules, Parquet and Arrow by pyarrow, which is imported when it is first used.
"""

import codecs
import csv
import dataclasses
import datetime
import hashlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import check_no_pointer, fault_text, parse_json

TEXT_FORMS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
ARROW_FORMS = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
FORMS = {**TEXT_FORMS, **ARROW_FORMS}
DELIMITERS = (",", ";", "\t", "|")
# The longest name of a column; a longer one is a text that stands where names should.
LONGEST_NAME = 80
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        columns: names of the columns, in order.
        rows: cells by column, as text; a missing cell is empty.
        form: words for people that say how the file was read.
        sha256: digest of the file's bytes.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    form: str
    sha256: str


def form_of(path: str | os.PathLike[str]) -> str | None:
    """Return the form that the ending of a path names; None for none of ours."""
    return FORMS.get(epath.Path(path).suffix.lower())


def is_saved_dataset(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a directory that `datasets` saved."""
    directory = epath.Path(path)
    names = ("dataset_dict.json", "state.json")
    return directory.is_dir() and any((directory / name).exists() for name in names)


def read_rows(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] = (),
    encoding: str = "",
    delimiter: str = "",
) -> Rows:
    """Read all rows of a file or of a saved `datasets` directory.

    Args:
        path: path or URL; the ending says the form.
        columns: names of the columns of a CSV or TSV file whose first line is a row.
        encoding: encoding of a text file; by default UTF-8, or what a byte-order mark says.
        delimiter: character between cells; by default the one of comma, semicolon, tab and bar
            that the first line has most of.

    Raises:
        SpotError: no such file, another form, another encoding, rows of unequal length, columns
            without a name, no rows.
    """
    place = epath.Path(path)
    name = os.fspath(path)
    if is_saved_dataset(name):
        return _saved_dataset(place, name)
    form = form_of(name)
    if form is None:
        raise SpotError(f"expected a file {', '.join(FORMS)}, found {name}; rename or convert it")
    try:
        raw = place.read_bytes()
    except OSError as error:
        raise SpotError(f"cannot read {name}: {error.strerror or error}; check the path") from error
    check_no_pointer(place)
    digest = hashlib.sha256(raw).hexdigest()
    if form in ARROW_FORMS.values():
        names, cells = _arrow_rows(raw, form, name)
        return Rows(names, _not_empty(cells, name), form.capitalize(), digest)
    text, encoding_used = _decoded(raw, encoding, name)
    if form in ("json", "jsonl"):
        names, cells = _json_rows(text, form, name)
        return Rows(names, _not_empty(cells, name), f"JSON, {encoding_used}", digest)
    mark = delimiter or ("\t" if form == "tsv" else _delimiter_of(text))
    names, cells = _table_rows(text, mark, columns, name)
    words = f"{form.upper()}, {encoding_used}"
    if mark != {"csv": ",", "tsv": "\t"}[form]:
        words += f", {mark!r} between cells"
    return Rows(names, _not_empty(cells, name), words, digest)


def rows_of_frame(frame: Any) -> Rows:
    """Return the rows of a pandas, polars or Arrow table, a `datasets` data set, or of mappings.

    Raises:
        SpotError: none of these, or no rows.
    """
    records: Any
    if hasattr(frame, "to_pylist"):
        records = frame.to_pylist()
    elif hasattr(frame, "to_dicts"):
        records = frame.to_dicts()
    elif hasattr(frame, "to_list"):
        records = frame.to_list()
    elif hasattr(frame, "to_dict"):
        records = frame.to_dict("records")
    else:
        records = frame
    if not isinstance(records, Sequence) or not all(isinstance(row, Mapping) for row in records):
        raise SpotError(
            f"expected a table or a list of mappings from column to value, found "
            f"{type(frame).__name__}; give a path, a frame or such a list"
        )
    names, rows = _as_text(records)
    raw = json.dumps([list(names), [list(row.values()) for row in rows]]).encode()
    _not_empty(rows, "the table")
    return Rows(names, rows, "rows in memory", hashlib.sha256(raw).hexdigest())


def cell(value: Any) -> str:
    """Return a value of any type as the text of a cell; None and NaN are missing, so empty."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _not_empty(rows: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    if not rows:
        raise SpotError(f"{name} has no rows; check that it is the right file")
    return rows


def _decoded(raw: bytes, encoding: str, name: str) -> tuple[str, str]:
    """The text of a file and the name of its encoding, for people."""
    if not encoding:
        encoding = next((e for mark, e in _MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except LookupError as error:
        raise SpotError(f"there is no encoding {encoding!r}; try utf-8 or cp1252") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpotError(
            f"{name}, line {line}: expected text in {encoding.upper()}, found byte "
            f"0x{raw[error.start]:02x}; convert the file, or name its encoding, such as cp1252"
        ) from error
    if "\0" in text:
        raise SpotError(
            f"{name}, line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a NUL, which no "
            "text has; name the file's encoding, such as utf-16, or correct it"
        )
    return text, encoding.upper().replace("-SIG", " with a byte-order mark")


def _delimiter_of(text: str) -> str:
    """The delimiter that parts the first line into most cells; a comma where none does."""
    first = io.StringIO(text, newline="")
    counts = {}
    for mark in DELIMITERS:
        first.seek(0)
        try:
            counts[mark] = len(next(csv.reader(first, delimiter=mark, strict=True), []))
        except csv.Error:
            counts[mark] = 0
    return max(DELIMITERS, key=lambda mark: counts[mark])


def _table_rows(
    text: str, delimiter: str, columns: Sequence[str], name: str
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except TypeError as error:
        raise SpotError(f"a delimiter is one character, found {delimiter!r}") from error
    lines: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                lines.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise SpotError(
            f"{name}: the row that begins on line {start} cannot be read ({error}); correct its "
            "quotes: a cell with quotes, commas or line ends stands in quotes, its own are doubled"
        ) from error
    if not lines:
        raise SpotError(f"{name} is empty; check that it is the right file")
    if columns:
        header = [*columns]
    else:
        header = [cells.strip() for cells in lines.pop(0)[1]]
        width = max((len(cells) for _, cells in lines), default=len(header))
        # A delimiter at the end of each line makes a last column without name and cells.
        while header and not header[-1] and not any(any(c[len(header) - 1 :]) for _, c in lines):
            header.pop()
            lines = [(number, cells[: len(header)]) for number, cells in lines]
        _check_header(header, width, name)
    odd = [(number, len(cells)) for number, cells in lines if len(cells) != len(header)]
    if odd:
        more = f" (and {len(odd) - 1:,} more rows are like that)" if len(odd) > 1 else ""
        expected = "the columns named" if columns else "the first line"
        raise SpotError(
            f"{name}, line {odd[0][0]}: expected {len(header)} cells as in {expected}, found "
            f"{odd[0][1]}{more}; correct the row, or its quotes"
        )
    return tuple(header), [dict(zip(header, cells, strict=True)) for _, cells in lines]


def _check_header(header: Sequence[str], width: int, name: str) -> None:
    example = ",".join(f"column{i}" for i in range(1, min(width, 3) + 1))
    for column in header:
        if not column or len(column) > LONGEST_NAME or "\n" in column or _is_number(column):
            raise SpotError(
                f"expected names of columns in the first line of {name}, found {column[:60]!r}; "
                f"add a first line with names, or give them: --columns {example}"
            )
    repeated = [column for column in header if header.count(column) > 1]
    if repeated:
        raise SpotError(f"{name} has two columns {repeated[0]!r}; rename one")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_rows(text: str, form: str, name: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    text = text.removeprefix("\ufeff")
    records: list[Any] = []
    if form == "json" and text.lstrip().startswith("["):
        try:
            records = parse_json(text)
        except ValueError as error:
            raise SpotError(f"{name} is not JSON: {error}; correct it") from error
        numbered = list(enumerate(records, start=1))
        what = "item"
    else:
        numbered, what = [], "line"
        # Not splitlines: JSON's texts may hold other line ends than \n.
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                numbered.append((number, parse_json(line)))
            except ValueError as error:
                raise SpotError(
                    f"{name}, line {number} is not JSON: {error}; give a JSON object a line"
                ) from error
    for number, record in numbered:
        if not isinstance(record, Mapping):
            raise SpotError(
                f"{name}, {what} {number}: expected a JSON object, found {type(record).__name__}"
            )
    names, rows = _as_text([record for _, record in numbered])
    for (number, _), row in zip(numbered, rows, strict=True):
        try:
            "".join([*row, *row.values()]).encode()
        except UnicodeEncodeError as error:
            raise SpotError(
                f"{name}, {what} {number} holds half a surrogate pair, "
                f"{error.object[error.start]!a}, which no text has; correct it"
            ) from error
    return names, rows


def _as_text(records: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The columns of mappings, in the order in which they come, and their cells as text."""
    records = list(records)
    names = tuple(dict.fromkeys(str(key) for record in records for key in record))
    keyed = [{str(key): value for key, value in record.items()} for record in records]
    return names, [{name: cell(record.get(name)) for name in names} for record in keyed]


def pyarrow() -> Any:
    """Return pyarrow with its readers; `SpotError` where it is not installed."""
    try:
        importlib.import_module("pyarrow.ipc")
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise SpotError(
            f"Parquet and Arrow files need pyarrow ({error}); pip install 'spot-jax[arrow]', or "
            "give CSV or JSON lines"
        ) from error
    return sys.modules["pyarrow"]


def _arrow_rows(raw: bytes, form: str, name: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    arrow = pyarrow()
    try:
        if form == "parquet":
            table = arrow.parquet.read_table(arrow.BufferReader(raw))
        elif raw.startswith(b"ARROW1"):
            table = arrow.ipc.open_file(arrow.BufferReader(raw)).read_all()
        else:
            table = arrow.ipc.open_stream(arrow.BufferReader(raw)).read_all()
        records = table.to_pylist()
    except Exception as error:  # pyarrow has many kinds, and its memory's
        raise SpotError(
            f"{name} is no {form} file, or a damaged one: {fault_text(error)}; write it again"
        ) from error
    names = _class_names(table.schema.metadata or {})
    for column, labels in names.items():
        for record in records:
            value = record.get(column)
            # -1 is how `datasets` writes that a label is missing.
            if isinstance(value, int) and value < len(labels):
                record[column] = None if value < 0 else labels[value]
    columns, rows = _as_text(records)
    return columns or tuple(table.column_names), rows


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the labels that `datasets` stores as numbers, by column."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError):
        return {}


def _saved_dataset(directory: epath.Path, name: str) -> Rows:
    """The rows of one split that `datasets` saved: Arrow streams that its state lists."""
    digest, records, columns = hashlib.sha256(), [], tuple[str, ...]()
    contents: list[tuple[str, bytes]] = []
    try:
        for item in parse_json((directory / "state.json").read_bytes())["_data_files"]:
            file = item["filename"]
            if not file or epath.Path(file).name != file:
                raise ValueError(f"{file!r} is no name of a file in the directory")
            contents.append((file, (directory / file).read_bytes()))
    except Exception as error:
        raise SpotError(
            f"{name} holds no saved data set, or a damaged one ({fault_text(error)}); save it with "
            "`dataset.save_to_disk`"
        ) from error
    for file, raw in contents:
        digest.update(raw)
        columns, rows = _arrow_rows(raw, "arrow", f"{name}/{file}")
        records += rows
    return Rows(columns, _not_empty(records, name), "a saved data set", digest.hexdigest())
