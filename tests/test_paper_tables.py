"""The tables of the papers' parts in docs/: what stands as here is a file, a command or a setting.

Nothing is run: files are looked up, gin files are read by their names, settings by their classes.
What shows a part, a test or a committed result, stands in a comment after its table, row by row.
"""

import dataclasses
import fnmatch
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from spot_jax.cli import main
from spot_jax.cli.configurables import CONFIGURABLES, target
from spot_jax.methods.base import methods

ROOT = Path(__file__).parents[1]
PAGES = (
    "prompt_tuning",
    "spot",
    "p_tuning",
    "prefix_tuning",
    "y_tuning",
    "intrinsic",
)
OTHERS = ("model_tuning", "lora")
"""Pages of systems whose tables are of settings alone."""
ROW = re.compile(r"(?<!\\)\|")
SHOWN = re.compile(r"(.*): ((?:tests|bench)/.*)")
GIN = {path.name: path for path in (ROOT / "gin_configs").rglob("*.gin")}
MACROS = {
    name
    for path in GIN.values()
    for name in re.findall(r"^([A-Z][A-Z0-9_]+) =", path.read_text(), re.MULTILINE)
}
TASKS = (ROOT / "tasks" / "names.txt").read_text().split()
TASK = re.compile(r"^(?:super_glue|glue|mrqa|lama|crossfit|fewglue|bundled|gem)_[\w*]+$")
SHORT = {"RUN"}
"""What a page says before its table that it stands for."""
CLASSES = {**CONFIGURABLES, **methods()}


def rows():
    """(page, part of the paper, what makes it) of every row of every table of parts."""
    for page in PAGES:
        inside = False
        for line in (ROOT / "docs" / f"{page}.md").read_text().splitlines():
            cells = [cell.strip() for cell in ROW.split(line)[1:-1]]
            if not line.startswith("|"):
                inside = False
            elif cells[0].startswith("in the paper") and cells[1] == "here":
                inside = True
            elif inside and set(cells[0]) != {"-"}:
                yield page, cells[0], cells[1]


ROWS = list(rows())


def fields_of(name):
    kind = target(name)
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    return set(inspect.signature(kind).parameters)


def faults(text):
    """What of a cell's links and code is not there."""
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not (ROOT / "docs" / link).exists():
            yield f"no file {link}"
    for code in re.findall(r"`([^`]+)`", text):
        for name in re.findall(r"([\w/]+\.gin)", code):
            if Path(name).name not in GIN:
                yield f"no gin file {name}"
        for name in re.findall(r"--gin\.([A-Z_]+)", code):
            if name not in MACROS:
                yield f"no macro {name}"
        for name, field in re.findall(r"\b([A-Z]\w+|study|intrinsic|train)\.([a-z]\w+)", code):
            if name in CLASSES and field not in fields_of(name):
                yield f"no setting {name}.{field}"
        for name in re.findall(r"@(\w+)\(", code):
            if name not in CLASSES:
                yield f"nothing called {name}"
        module = re.match(r"python -m ([\w.]+)", code)
        if module and importlib.util.find_spec(module[1]) is None:
            yield f"no module {module[1]}"
        if (verb := re.match(r"spot ([a-z]+)", code)) and verb[1] not in main.VERBS:
            yield f"no command {verb[0]}"
        for task in [*re.findall(r"--task (\w+)", code), *TASK.findall(code)]:
            if not any(fnmatch.fnmatch(name, task) for name in TASKS):
                yield f"no task {task}"
        if re.fullmatch(r"[A-Z][A-Z0-9_]+", code) and code not in {*MACROS, *SHORT}:
            yield f"no macro {code}"
        if re.fullmatch(r"(bench|tests|gin_configs)/[\w/.]+", code) and not (ROOT / code).exists():
            yield f"no file {code}"


def test_every_page_has_a_table_of_its_papers_parts():
    counts = {page: sum(row[0] == page for row in ROWS) for page in PAGES}
    assert all(counts[page] >= 5 for page in PAGES), counts


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}: {row[1][:50]}")
def test_a_part_is_here_by_something_that_there_is_or_not_here_with_a_reason(row):
    _, part, here = row
    assert part and here
    assert not list(faults(here))
    named = re.search(r"`[^`]+`|\]\(|report|study|same|table", here)
    reason = re.search(r"not here[:,] ?\w+|not here, ", here)
    assert named or reason, here


def tables_of(page):
    """(rows, lines) of each table that ends in "here": first and last cells, what shows them."""
    tables, inside, comment = [], False, False
    for line in (ROOT / "docs" / f"{page}.md").read_text().splitlines():
        cells = [cell.strip() for cell in ROW.split(line)[1:-1]]
        if line.startswith("|") and cells[-1] == "here":
            inside = True
            tables.append(([], []))
        elif inside and line.startswith("|"):
            if set(cells[0]) != {"-"}:
                tables[-1][0].append((cells[0], cells[-1]))
        elif line == "<!-- shown by":
            comment = True
        elif line == "-->":
            comment = False
        elif comment:
            tables[-1][1].append(line)
        else:
            inside = False
    return tables


def missing(rows, lines):
    """What of a table's rows nothing shows, and what of the lines shows nothing."""
    parsed = [SHOWN.fullmatch(line) for line in lines]
    yield from (line for line, match in zip(lines, parsed, strict=True) if match is None)
    shown = {match[1]: match[2].split(", ") for match in parsed if match}
    here = [part for part, text in rows if not text.startswith("not here")]
    yield from (f"nothing shows {part}" for part in here if part not in shown)
    yield from (f"no row {part}" for part in shown if part not in here)
    for path, _, name in (item.partition("::") for items in shown.values() for item in items):
        file = ROOT / path
        if not file.is_file() or (name and f"\ndef {name}(" not in file.read_text()):
            yield f"no {path}::{name}"
        elif not name and file.suffix != ".json":
            yield f"{path} without the name of a test"


@pytest.mark.parametrize("page", [*PAGES, *OTHERS])
def test_whatever_is_here_is_shown_by_a_test_or_a_result(page):
    tables = tables_of(page)
    assert tables and all(rows for rows, _ in tables)
    for rows, lines in tables:
        assert not list(missing(rows, lines))


def test_a_row_that_nothing_shows_is_found():
    rows = [("a", "`X`"), ("b", "not here: no"), ("c: d", "the same")]
    here = "tests/test_paper_tables.py"
    assert list(missing(rows, [f"a: {here}::test_a_row_that_nothing_shows_is_found"])) == [
        "nothing shows c: d"
    ]
    lines = [f"a: {here}::test_none", "b: bench/none.json", f"c: d: {here}", "e"]
    assert len(list(missing(rows, lines))) == 5


def test_what_is_not_there_is_found():
    odd = (
        "`no_such.gin`, `--gin.NO_SUCH_MACRO=1`, `PTuning.no_such`, `@NoSuch()`, [x](none.md), "
        "`python -m bench.none`, `spot sing`, `NO_MACRO`, `bench/none.py`, `glue_none`, "
        "`spot eval RUN --task none`"
    )
    assert len(list(faults(odd))) == 11
