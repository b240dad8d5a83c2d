"""What a file of rows holds and what was done with it, as lines for people."""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from spot_jax.data.table.lengths import Lengths
from spot_jax.data.table.splitting import SHARES
from spot_jax.data.table.task import TableTask
from spot_jax.files import aligned

LABELS_SHOWN = 20
TEXT_SHOWN = 100


def summary(
    task: TableTask, lengths: Lengths | None = None, chosen: Mapping[str, int] | None = None
) -> list[str]:
    """Return the lines of `spot data check`.

    Args:
        task: file that was read.
        lengths: lengths in tokens; None leaves them out.
        chosen: feature lengths that texts are cut by; those that suit by default.
    """
    table, counts = task.table, task.counts
    columns = _some(len(task.columns), "column")
    lines = [
        f"{table.file}: {_some(counts.rows, 'row')} of {columns} ({task.form})",
        f"text      {', '.join(table.text)}, written as {table.template!r}",
        f"label     {table.label}: {_kind(task)}",
    ]
    lines += [f"left out  {line}" for line in _left_out(task)]
    lines += [f"note      {line}" for line in _notes(task)]
    lines.append(f"splits    {_how_split(task)}")
    lines += [f"          {line}" for line in _balance(task)]
    if lengths is not None:
        lines += _lengths(lengths, chosen or lengths.suited(), task)
    first = task.items("train")[0]
    lines.append(f"first     {_short(first.text)!r} -> {_short(first.target)!r}")
    return lines


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _short(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN] + " ..."


def _kind(task: TableTask) -> str:
    names = ", ".join(metric.__name__ for metric in task.metrics)
    if task.labels:
        return f"classification, {len(task.labels)} labels; scored by {names}"
    what = {"regression": "numbers", "generation": "text that is written"}[task.table.kind]
    return f"{task.table.kind}, {what}; scored by {names}"


def _left_out(task: TableTask) -> list[str]:
    counts, table = task.counts, task.table
    lines = {
        f"without {table.label}": counts.without_label,
        f"without any text in {', '.join(table.text)}": counts.without_text,
        "with a label that the run does not know": counts.unknown_label,
    }
    return [f"{_some(number, 'row')} {words}" for words, number in lines.items() if number]


def _notes(task: TableTask) -> list[str]:
    counts = task.counts
    lines = [
        f"{_some(number, 'row')} without {column}, which stays empty in the text"
        for column, number in counts.missing.items()
    ]
    if counts.duplicates:
        lines.append(f"{_some(counts.duplicates, 'row')} with a text and label that came before")
    if counts.contradictions:
        lines.append(f"{_some(counts.contradictions, 'text')} with several labels")
    if counts.alike:
        lines.append(f"labels that differ in case alone: {', '.join(counts.alike[:6])}")
    if counts.small:
        names = ", ".join(counts.small[:6]) + (" ..." if len(counts.small) > 6 else "")
        lines.append(f"too few texts for validation and test: {names}")
    for split, number in counts.overlaps.items():
        lines.append(f"{_some(number, 'text')} of {split} in train too, so that scores flatter")
    return lines


def _how_split(task: TableTask) -> str:
    if task.bounds is None:
        return "as the file names them" + (f" ({task.table.split})" if task.table.split else "")
    validation, test = (f"{share:.0%}" for share in SHARES)
    balanced = ", each label in equal shares" if task.labels else ""
    if task.table.split or "{split}" in task.table.file:
        return f"as the file names them, but {validation} of train by a hash are validation"
    return (
        f"{validation} validation and {test} test by a hash of the text: a text is in one split "
        f"only{balanced}"
    )


def _balance(task: TableTask) -> list[str]:
    splits = {name: items for name, items in task.splits.items() if items}
    rows = [["", *splits]]
    if task.labels:
        counts = {
            name: collections.Counter(item.gold for item in items) for name, items in splits.items()
        }
        ordered = sorted(task.labels, key=lambda label: -counts["train"][label])
        for label in ordered[:LABELS_SHOWN]:
            rows.append([label, *(f"{counts[name][label]:,}" for name in splits)])
        if len(ordered) > LABELS_SHOWN:
            rest = ordered[LABELS_SHOWN:]
            sums = [f"{sum(counts[name][label] for label in rest):,}" for name in splits]
            rows.append([f"{len(rest)} more labels", *sums])
    rows.append(["rows", *(f"{len(items):,}" for items in splits.values())])
    return aligned(rows)


def _lengths(lengths: Lengths, chosen: Mapping[str, int], task: TableTask) -> list[str]:
    def side(name: str, numbers: Any) -> str:
        return f"{name} median {int(np.median(numbers))}, longest {int(numbers.max())}"

    cut = lengths.cut(chosen)
    total = len(lengths.inputs)
    lines = [
        f"tokens    {side('inputs', lengths.inputs)}; {side('targets', lengths.targets)}",
        f"lengths   {chosen['inputs']} and {chosen['targets']}: {cut['inputs']:,} of {total:,} "
        f"inputs and {cut['targets']:,} targets are cut",
    ]
    if lengths.unknown > 0.01:
        lines.append(f"note      the vocabulary lacks {lengths.unknown:.0%} of the texts' tokens")
    return lines
