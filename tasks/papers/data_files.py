"""Data sets kept as files in a directory: where they are, what they look like, what is wrong.

The environment variable SPOT_DATA_DIR names the directory, on disk or in a bucket. It is looked at
when data is read and not before. A set has a directory of its own below it, with a file a split:

    $SPOT_DATA_DIR/cr/train.jsonl        one JSON object a line, or
    $SPOT_DATA_DIR/cr/train.tsv          a line of column names, then one example a line

All text is UTF-8. In TSV nothing is quoted, so a field holds neither tab nor line break.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from spot_jax.errors import SpotError

VARIABLE = "SPOT_DATA_DIR"
SUFFIXES = (".jsonl", ".tsv")
Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a set's files must hold.

    Attributes:
        directory: name of the directory below the data directory.
        fields: columns of text, which may be empty.
        target: the column of the answer, never empty.
        labels: values that the target may have; empty for a number.
        bounds: lowest and highest number the target may be, where it is one.
        splits: the splits that must be there, each a file's stem.
    """

    directory: str
    fields: tuple[str, ...]
    target: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    splits: tuple[str, ...] = ("train", "validation", "test")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a file; it may have more."""
        return (*self.fields, self.target)

    def describe(self) -> str:
        """Return one line: the files, their columns, the target's values."""
        files = f"{self.directory}/{{{','.join(self.splits)}}}.jsonl or .tsv"
        values = f"one of {', '.join(self.labels)}" if self.labels else "a text"
        if self.bounds is not None:
            values = f"a number from {self.bounds[0]:g} to {self.bounds[1]:g}"
        return f"{files} with {', '.join(self.fields)}, and {self.target}: {values}"


def data_directory() -> epath.Path:
    """Return the directory that SPOT_DATA_DIR names; `SpotError` when it names none."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        raise SpotError(
            f"expected {VARIABLE} to name the directory of the data files, found it unset; "
            f"export {VARIABLE}=DIRECTORY (`spot tasks check NAME` shows the layout below it)"
        )
    return epath.Path(directory)


def find(layout: Layout, split: str) -> epath.Path:
    """Return the file of a split; `SpotError` with the paths looked at and the layout."""
    folder = data_directory() / layout.directory
    paths = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
    for path in paths:
        if path.exists():
            return path
    raise SpotError(
        f"expected {paths[0]} or {paths[1].name}, found neither; put the set there as "
        f"{layout.describe()}"
    )


def read(layout: Layout, split: str) -> list[Row]:
    """Return the examples of a split, every one checked.

    Raises:
        SpotError: an absent file, a missing column, a broken line, a target that is empty or not
            among the labels; with the file and the line's number.
    """
    path = find(layout, split)
    rows = []
    for number, row in _table(path, layout):
        _check_target(row[layout.target], layout, f"{path}:{number}")
        rows.append(row)
    if not rows:
        raise SpotError(f"expected examples in {path}, found none; {layout.describe()}")
    return rows


def lines(path: epath.Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers from 1, blank ones left out.

    Raises `SpotError` for a line that is not UTF-8.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise SpotError(
                    f"{path}:{number}: expected text in UTF-8, found {error.reason} at byte "
                    f"{error.start}; convert the file"
                ) from error
            if line.strip():
                yield number, line


def json_object(path: epath.Path, number: int, line: str, keys: Sequence[str]) -> Row:
    """Return the keys of one line of JSON as text; `SpotError` with file and line otherwise."""
    where = f"{path}:{number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SpotError(
            f"{where}: expected one JSON object, found a broken line: {error}"
        ) from error
    if not isinstance(row, Mapping):
        raise SpotError(f"{where}: expected one JSON object a line, found {line[:40]!r}")
    missing = [key for key in keys if key not in row]
    if missing:
        raise SpotError(f"{where}: expected column {missing[0]!r}, found only {', '.join(row)}")
    for key in keys:
        if isinstance(row[key], bool) or not isinstance(row[key], str | int | float):
            raise SpotError(f"{where}: expected text or a number as {key!r}, found {row[key]!r}")
    return {key: str(row[key]) for key in keys}


def _table(path: epath.Path, layout: Layout) -> Iterator[tuple[int, Row]]:
    if path.suffix == ".jsonl":
        for number, line in lines(path):
            yield number, json_object(path, number, line, layout.columns)
        return
    head: list[str] | None = None
    for number, line in lines(path):
        cells = line.split("\t")
        if head is None:
            head = cells
            missing = [name for name in layout.columns if name not in head]
            if missing:
                raise SpotError(
                    f"{path}:{number}: expected column {missing[0]!r} in the first line, found "
                    f"{', '.join(head)}"
                )
            continue
        if len(cells) != len(head):
            raise SpotError(
                f"{path}:{number}: expected {len(head)} fields parted by tabs as in the first "
                f"line, found {len(cells)}; take tabs and line breaks out of the text"
            )
        row = dict(zip(head, cells, strict=True))
        yield number, {name: row[name] for name in layout.columns}


def _check_target(target: str, layout: Layout, where: str) -> None:
    if not target.strip():
        raise SpotError(
            f"{where}: expected {layout.target!r}, found an empty target; leave the line out"
        )
    if layout.labels and target not in layout.labels:
        raise SpotError(
            f"{where}: expected {layout.target!r} among {', '.join(layout.labels)}, found "
            f"{target!r}; correct the label"
        )
    if layout.bounds is None:
        return
    try:
        inside = layout.bounds[0] <= float(target) <= layout.bounds[1]
    except ValueError:
        inside = False
    if not inside:
        raise SpotError(
            f"{where}: expected {layout.target!r} to be a number from {layout.bounds[0]:g} to "
            f"{layout.bounds[1]:g}, found {target!r}"
        )
