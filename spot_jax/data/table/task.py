"""A file of rows as a task: its texts and targets in splits, its labels and its metrics."""

import collections
import dataclasses
import datetime
import difflib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from spot_jax import metrics
from spot_jax.data import fields
from spot_jax.data.examples import Example, Examples
from spot_jax.data.sources import JOIN, unknown_split
from spot_jax.data.table import splitting
from spot_jax.data.table.description import FRAME, Table, exists, frame_of
from spot_jax.data.table.reading import Rows, read_rows
from spot_jax.data.table.splitting import SPLITS, Bounds
from spot_jax.errors import SpotError, SpotWarning
from spot_jax.files import is_local
from spot_jax.metrics import Metric
from spot_jax.t5.vocabulary import EOS, Vocabulary

LABEL_NAMES = ("label", "labels", "target", "targets", "class", "category", "answer", "output")
TEXT_NAMES = ("text", "sentence", "inputs", "input", "question")
SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("training", "tr"), "train"),
    **dict.fromkeys(("valid", "val", "dev", "development", "eval"), "validation"),
    **dict.fromkeys(("testing", "heldout", "held-out"), "test"),
}
NO_NUMBER = ("na", "n/a", "nan", "null", "none", "-", "?")
"""What stands for a missing number, lower case."""
MOST_LABELS = 500
# Rows that a label has on average, for a column to be one of labels.
ROWS_A_LABEL = 5
FEW_LABELS = 10
NUMBERED_LABELS = 20
LONG_TARGET = 8  # words


@dataclasses.dataclass
class Counts:
    """What was seen, and what was done, while a file was read.

    Attributes:
        rows: rows of the file.
        without_label: rows left out as their label is missing.
        without_text: rows left out as all of their text is missing.
        unknown_label: rows left out as the run does not know their label.
        missing: rows in use that lack a text column, by column.
        duplicates: rows whose text and label another row has too.
        contradictions: texts that come with several labels.
        overlaps: texts of a named split that `train` holds too, by split.
        alike: labels that differ in case alone.
        small: labels with too few texts for each split to have one.
    """

    rows: int = 0
    without_label: int = 0
    without_text: int = 0
    unknown_label: int = 0
    missing: dict[str, int] = dataclasses.field(default_factory=dict)
    duplicates: int = 0
    contradictions: int = 0
    overlaps: dict[str, int] = dataclasses.field(default_factory=dict)
    alike: list[str] = dataclasses.field(default_factory=list)
    small: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Item:
    """A row in use.

    Attributes:
        text: text of the inputs.
        target: text that is written, or the label.
        gold: target as the file has it, which metrics compare with.
    """

    text: str
    target: str
    gold: str


@dataclasses.dataclass(frozen=True)
class TableTask:
    """A file of rows that was read.

    Attributes:
        table: description of the file, with all that was found from it.
        labels: label words, in order; empty where nothing is classified.
        splits: rows of each split.
        bounds: bounds of the hashed split; None where the file names all of its splits.
        sha256: digest of the file.
        form: words that say how the file was read.
        columns: names of all columns.
        counts: numbers of rows that were left out or are odd.
    """

    table: Table
    labels: tuple[str, ...]
    splits: dict[str, list[Item]]
    bounds: Bounds | None
    sha256: str
    form: str
    columns: tuple[str, ...]
    counts: Counts

    def items(self, split: str) -> list[Item]:
        """Return the rows of a split; `SpotError` for one that the file lacks."""
        if not self.splits.get(split):
            existing = [name for name, items in self.splits.items() if items]
            raise unknown_split(str(self.table.file), existing, split)
        return self.splits[split]

    def examples(self, split: str, vocabulary: Vocabulary, limit: int | None = None) -> Examples:
        """Return the token ids of a split, eos appended; of the first `limit` rows."""
        items = self.items(split)[:limit]
        inputs = vocabulary.encode_all([item.text for item in items])
        targets = vocabulary.encode_all([item.target for item in items])
        pairs = [
            Example(np.array([*i, EOS], np.int32), np.array([*t, EOS], np.int32), keeps_eos=True)
            for i, t in zip(inputs, targets, strict=True)
        ]
        return Examples.from_lists(pairs, task=self.table.name)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the kind of target."""
        if self.table.kind == "classification":
            return [metrics.accuracy, metrics.macro_f1]
        if self.table.kind == "regression":
            return [metrics.pearson_corrcoef, metrics.spearman_corrcoef]
        words = [len(item.gold.split()) for items in self.splits.values() for item in items]
        if float(np.mean(words)) <= LONG_TARGET:
            return [metrics.exact_match, metrics.word_f1]
        return [metrics.rouge]

    def facts(self) -> dict[str, Any]:
        """Return what a run keeps of it, in JSON's types, for `restore`."""
        table = {**dataclasses.asdict(self.table), "file": _absolute(self.table.file)}
        sizes = {split: len(items) for split, items in self.splits.items()}
        rest = {"labels": self.labels, "bounds": self.bounds, "sha256": self.sha256}
        return {**table, **rest, "sizes": sizes}


@dataclasses.dataclass(frozen=True)
class _Stored:
    """What a run knew of a file."""

    table: Table
    labels: tuple[str, ...]
    bounds: Bounds | None
    sha256: str
    fixed: bool = True


_stored: dict[str, _Stored] = {}
_tasks: dict[str, tuple[Any, TableTask]] = {}
CACHED = 8


def is_registered(name: str) -> bool:
    """Return whether a name was given to `register` or `restore`."""
    return name in _stored


def register(name: str, table: Table) -> None:
    """Let a name stand for a table, with nothing of it fixed but its description."""
    _stored[name] = _Stored(table, (), None, "", fixed=False)
    _tasks.pop(name, None)


def restore(name: str, facts: Mapping[str, Any]) -> None:
    """Let a name stand for the file that a run was trained on, as it was then.

    Labels, kind and the bounds of the splits are the run's, so that a row is in the split that it
    was in whatever has come to the file since.

    Raises:
        SpotError: facts that `TableTask.facts` did not write.
    """
    values = dict(facts)
    try:
        rest = [values.pop(key) for key in ("labels", "bounds", "sha256", "sizes")][:3]
        stored = _Stored(Table(**values), tuple(rest[0]), rest[1], rest[2])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SpotError(
            f"what the run keeps of {name} is damaged ({error}); start its `spot train` again, "
            "which writes it anew"
        ) from error
    if _stored.get(name) != stored:
        _stored[name] = stored
        _tasks.pop(name, None)


def forget(names: Iterable[str]) -> None:
    """Let names of files, and of mixtures of them, mean what they say, not what a run restored."""
    for name in (part for joint in names for part in (joint, *joint.split(JOIN))):
        if name in _stored and _stored[name].fixed:
            del _stored[name]
            _tasks.pop(name, None)


def as_test(facts: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the facts of another file like a run's, all of whose rows are of test.

    Args:
        facts: facts of the run's file, by `TableTask.facts`.
        file: path or URL of the other file.
    """
    labels = facts["labels"] or ("",)
    whole = {"file": _absolute(file), "split": "", "sha256": "", "sizes": {}}
    return {**facts, **whole, "bounds": dict.fromkeys(labels, (0.0, 1.0))}


def table_of(name: str) -> Table:
    """Return the description that a name stands for, read or not."""
    return _stored[name].table if name in _stored else Table.parse(name)


def labels_of(name: str) -> tuple[str, ...]:
    """Return the label words of a name; those of a stored one without its file."""
    if name in _stored and _stored[name].fixed:
        return _stored[name].labels
    return open_table(name).labels


def template_of(name: str) -> str:
    """Return the template of a name; that of a stored one without its file."""
    if name in _stored and _stored[name].fixed:
        return _stored[name].table.template
    return open_table(name).table.template


def open_table(name: str) -> TableTask:
    """Read the file that a name stands for; once, as long as it does not change.

    Raises:
        SpotError: whatever is wrong with the file, or with what the name says of it.
    """
    table = table_of(name)
    mark = _mark(table.file)
    if name in _tasks and _tasks[name][0] == mark:
        return _tasks[name][1]
    task = _read(table, _stored.get(name))
    _tasks[name] = mark, task
    while len(_tasks) > CACHED:
        del _tasks[next(iter(_tasks))]
    return task


def check_unchanged(name: str, facts: Mapping[str, Any]) -> None:
    """Raise `SpotError` when the file of a name is not the one that a run began with.

    Args:
        name: name of the table.
        facts: facts of the file when the run began, by `TableTask.facts`.
    """
    if not exists(name) and exists(str(facts.get("file"))):
        # The command was typed elsewhere than when the run began.
        register(name, dataclasses.replace(table_of(name), file=str(facts["file"])))
    task = open_table(name)
    if task.sha256 != facts.get("sha256"):
        raise SpotError(
            f"{task.table.file} has changed since the run began ({_sizes(facts.get('sizes', {}))} "
            f"rows then, {_sizes({k: len(v) for k, v in task.splits.items()})} now); bring the old "
            "file back, or choose another MODEL_DIR"
        )


def _sizes(sizes: Mapping[str, int]) -> str:
    return f"{sum(sizes.values()):,}"


def _absolute(file: str) -> str:
    if not is_local(file) or frame_of(file) is not None:
        return file
    return str(Path(file).expanduser().absolute())


def _mark(file: str) -> Any:
    """What differs when a local file has changed; buckets are read once in a process."""
    if not is_local(file) or "{split}" in file:
        return None
    try:
        status = Path(file).expanduser().stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(table: Table, stored: _Stored | None) -> TableTask:
    files = dict(_files(table))
    columns = next(iter(files.values())).columns
    table = _with_columns(table, columns)
    if table.kind == "" and stored is not None and stored.labels:
        table = dataclasses.replace(table, kind="classification")
    counts = Counts(rows=sum(len(rows.rows) for rows in files.values()))
    named, table = _items(table, files, counts, stored.labels if stored else ())
    labels = stored.labels if stored else ()
    if table.kind == "classification" and not labels:
        labels = _labels(named, table)
    counts.alike = _alike(labels)
    bounds = None if stored is None else stored.bounds
    splits, bounds = _split(table, named, bounds, counts)
    if stored is None or not stored.fixed:
        _check_sizes(table, splits)
    sha256 = "-".join(rows.sha256 for rows in files.values())
    if stored and stored.sha256 and sha256 != stored.sha256:
        left_out = f", {counts.unknown_label:,} rows of other labels are left out"
        warnings.warn(
            f"{table.file} has changed since the run was trained; rows that were there are in "
            f"their old splits{left_out if counts.unknown_label else ''}",
            SpotWarning,
            stacklevel=2,
        )
    form = next(iter(files.values())).form
    return TableTask(table, labels, splits, bounds, sha256, form, columns, counts)


def _files(table: Table) -> Iterator[tuple[str, Rows]]:
    """The rows of each named split, or all of them under the name "" where none is named."""
    frame = frame_of(table.file)
    if frame is not None:
        yield "", frame
        return
    if table.file.endswith(FRAME):
        raise SpotError(
            "the run was trained on a table in memory, which is not stored; give rows as a file: "
            "spot eval RUN --data FILE"
        )
    options: Any = {
        "columns": table.columns,
        "encoding": table.encoding,
        "delimiter": table.delimiter,
    }
    path = epath.Path(table.file).expanduser()
    if (path / "dataset_dict.json").exists():
        places = {SPLIT_NAMES.get(p.name, ""): p for p in sorted(path.iterdir()) if p.is_dir()}
    elif "{split}" in table.file:
        every = {split: epath.Path(str(path).replace("{split}", split)) for split in SPLITS}
        places = {split: place for split, place in every.items() if place.exists()}
    else:
        yield "", read_rows(path, **options)
        return
    if "train" not in places:
        raise SpotError(
            f"expected a file of training at {table.file.replace('{split}', 'train')}, found none; "
            "check the path"
        )
    for split in SPLITS:
        if split in places:
            yield split, read_rows(places[split], **options)


def _with_columns(table: Table, columns: Sequence[str]) -> Table:
    """The table with its label, text and template, which must be among the columns."""
    label = table.label or _label_among(columns, table)
    text = table.text or _text_among(columns, label, table)
    for column in (label, *text, *([table.split] if table.split else [])):
        if column not in columns:
            near = difflib.get_close_matches(column, columns, 1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SpotError(
                f"{table.file} has no column {column!r}{hint}; it has {_listed(columns)}"
            )
    if label in text:
        raise SpotError(f"the column {label!r} is the label, and so cannot be text as well")
    odd = next((column for column in text if set(column) & set("{}:!")), None)
    if odd is not None and not table.template:
        raise SpotError(f"the column {odd!r} has a sign of templates in its name; rename it")
    template = table.template or fields.template_from(tuple(text))
    for column in fields.names_in(template):
        if column not in columns:
            raise SpotError(
                f"the template has a column {column!r}, {table.file} has {_listed(columns)}"
            )
    return dataclasses.replace(table, label=label, text=tuple(text), template=template)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:20]) + (" ..." if len(columns) > 20 else "")


def _label_among(columns: Sequence[str], table: Table) -> str:
    named = [column for column in columns if column.lower() in LABEL_NAMES]
    if len(named) == 1:
        return named[0]
    rest = [column for column in columns if column not in (*table.text, table.split)]
    if len(rest) == 1 and len(columns) > 1:
        return rest[0]
    raise SpotError(
        f"which column of {table.file} is the label? It has {_listed(columns)}; add --label NAME, "
        f"or write {table.file}?label=NAME"
    )


def _text_among(columns: Sequence[str], label: str, table: Table) -> tuple[str, ...]:
    rest = [column for column in columns if column not in (label, table.split)]
    named = [column for column in rest if column.lower() in TEXT_NAMES]
    for chosen in (rest, named):
        if len(chosen) == 1:
            return tuple(chosen)
    raise SpotError(
        f"which columns of {table.file} are text? Beside {label} it has {_listed(rest)}; add "
        f"--text NAME,NAME or write {table.file}?text=NAME,NAME"
    )


def _items(
    table: Table, files: Mapping[str, Rows], counts: Counts, labels: Sequence[str]
) -> tuple[list[tuple[str, str, Item]], Table]:
    """The rows in use, each with its named split or "" and its key, and the table with its kind."""
    kept: list[tuple[str, dict[str, str], str]] = []
    columns = dict.fromkeys((*table.text, *fields.names_in(table.template)))
    for split, rows in files.items():
        missing = [c for c in (*columns, table.label) if c not in rows.columns]
        if missing:
            raise SpotError(
                f"the file of split {split} has no column {missing[0]!r}; it has "
                f"{_listed(rows.columns)}"
            )
        for row in rows.rows:
            label = row[table.label].strip()
            if not label:
                counts.without_label += 1
            elif not any(row[column].strip() for column in columns):
                counts.without_text += 1
            else:
                kept.append((_named_split(table, row) if table.split else split, row, label))
    if not kept:
        raise SpotError(
            f"no row of {table.file} has both text and a label ({counts.without_label:,} lack "
            f"{table.label}, {counts.without_text:,} lack {', '.join(columns)}); check the columns"
        )
    values = [label for _, _, label in kept]
    kind = table.kind or _kind_of(values, table)
    table = dataclasses.replace(table, kind=kind)
    items: list[tuple[str, str, Item]] = []
    for split, row, label in kept:
        target = label
        if kind == "regression":
            number = _number(label)
            if number is None:
                if label.lower() not in NO_NUMBER:
                    raise SpotError(
                        f"expected numbers in {table.label} of {table.file}, found {label[:40]!r}; "
                        "correct it, or say that labels are meant: --kind classification"
                    )
                counts.without_label += 1
                continue
            target = f"{number:.4g}"
        elif kind == "classification" and labels and label not in labels:
            counts.unknown_label += 1
            continue
        for column in columns:
            if not row[column].strip():
                counts.missing[column] = counts.missing.get(column, 0) + 1
        text = fields.write(table.template, row)
        items.append((split, "\n".join(row[c] for c in table.text), Item(text, target, label)))
    _count_repeated(items, counts)
    return items, table


def _named_split(table: Table, row: Mapping[str, str]) -> str:
    value = row[table.split].strip().lower()
    if value not in SPLIT_NAMES:
        raise SpotError(
            f"expected train, validation or test in the column {table.split}, found "
            f"{row[table.split]!r}; correct it, or leave the split to us"
        )
    return SPLIT_NAMES[value]


def _count_repeated(items: Sequence[tuple[str, str, Item]], counts: Counts) -> None:
    labels: dict[str, set[str]] = collections.defaultdict(set)
    pairs = collections.Counter[tuple[str, str]]()
    for _, text, item in items:
        key = splitting.key_of(text)
        labels[key].add(item.gold)
        pairs[key, item.gold] += 1
    counts.duplicates = sum(number - 1 for number in pairs.values())
    counts.contradictions = sum(len(several) > 1 for several in labels.values())


def _kind_of(values: Sequence[str], table: Table) -> str:
    """The kind of target that a label column's values make.

    Raises:
        SpotError: one value in all rows, or dates.
    """
    different = set(values)
    if len(different) == 1:
        raise SpotError(
            f"{table.label} is {values[0]!r} in all rows of {table.file}, so nothing can be told "
            "apart; give another --label"
        )
    numbers = [_number(value) for value in values if value.lower() not in NO_NUMBER]
    if numbers and None not in numbers:
        whole = all(float(number).is_integer() for number in numbers if number is not None)
        few = len(different) <= min(NUMBERED_LABELS, len(values) / ROWS_A_LABEL) or (
            len(different) <= FEW_LABELS and len(values) >= 2 * len(different)
        )
        return "classification" if whole and few else "regression"
    if all(map(_is_date, different)):
        raise SpotError(
            f"{table.label} holds dates (such as {values[0]!r}), which are neither labels nor "
            "numbers; give another --label, or write them as text with --kind generation"
        )
    enough = ROWS_A_LABEL if len(different) > FEW_LABELS else 2
    if len(different) <= MOST_LABELS and len(values) >= enough * len(different):
        return "classification"
    return "generation"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_date(text: str) -> bool:
    for pattern in (None, "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d"):
        try:
            if pattern is None:
                datetime.datetime.fromisoformat(text)
            else:
                datetime.datetime.strptime(text, pattern)
        except ValueError:
            continue
        return True
    return False


def _labels(items: Sequence[tuple[str, str, Item]], table: Table) -> tuple[str, ...]:
    labels = {item.gold for _, _, item in items}
    if len(labels) < 2:
        raise SpotError(
            f"expected two different labels or more in {table.label} of {table.file}, found "
            f"{', '.join(labels)}; give another --label"
        )
    numbers = {label: _number(label) for label in labels}
    if None in numbers.values():
        return tuple(sorted(labels))
    return tuple(sorted(labels, key=lambda label: (numbers[label] or 0.0, label)))


def _alike(labels: Sequence[str]) -> list[str]:
    by_case = collections.defaultdict(list)
    for label in labels:
        by_case[label.casefold()].append(label)
    return [label for group in by_case.values() if len(group) > 1 for label in group]


def _split(
    table: Table, items: Sequence[tuple[str, str, Item]], bounds: Bounds | None, counts: Counts
) -> tuple[dict[str, list[Item]], Bounds | None]:
    """The rows by split, and the bounds of the hashed part, if there is one."""
    named = {split for split, _, _ in items}
    to_split = "" if named == {""} else "train"
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    hashed = to_split == "" or "validation" not in named
    texts = [text for split, text, _ in items if split == to_split]
    golds = [
        item.gold if table.kind == "classification" else ""
        for split, _, item in items
        if split == to_split
    ]
    label_of = splitting.first_labels(texts, golds) if hashed else {}
    if hashed and bounds is None:
        bounds = splitting.bounds_of(texts, golds)
        if to_split:
            # A file with splits of its own has no part of training for a test.
            bounds = {label: (first, first) for label, (first, _) in bounds.items()}
    for split, text, item in items:
        if hashed and split == to_split:
            label = label_of[splitting.key_of(text)]
            split = splitting.split_of(text, label, bounds or {})
        splits[split].append(item)
    if hashed:
        sizes = collections.Counter(label_of.values())
        counts.small = sorted(label for label, n in sizes.items() if n < splitting.SMALLEST)
    else:
        train = {splitting.key_of(text) for split, text, _ in items if split == "train"}
        for split in ("validation", "test"):
            keys = {splitting.key_of(text) for name, text, _ in items if name == split}
            if keys & train:
                counts.overlaps[split] = len(keys & train)
    return splits, bounds if hashed else None


def _check_sizes(table: Table, splits: Mapping[str, Sequence[Item]]) -> None:
    rows = sum(map(len, splits.values()))
    for split in ("train", "validation"):
        if not splits[split]:
            raise SpotError(
                f"{table.file} leaves no row for {split} ({rows} rows in use); give more "
                f"rows, at least {splitting.SMALLEST} different texts a label, or name the splits"
            )
