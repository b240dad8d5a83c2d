"""Writes the report of a study of subspaces: the page, its tables and its figures.

DIRECTORY/index.html          everything, in one file that loads nothing
DIRECTORY/tables.json         every table
DIRECTORY/tables/NAME.csv     a table
DIRECTORY/figures/NAME.svg    a figure
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from spot_jax.report import vega
from spot_jax.report.figures.relative import AGAINST, SETTINGS, by_task, over_dimension, over_tasks
from spot_jax.report.labels import count, number, short_names, with_sd
from spot_jax.report.page import rendered
from spot_jax.report.tables import Column, Table, tables_json
from spot_jax.studies.subspace.analysis import (
    ALL,
    MAJORITY,
    Row,
    TaskScores,
    over_random,
    relative_rows,
    task_scores,
)
from spot_jax.studies.subspace.jobs import DIFF_IST, SAME_IST, TEST_IST
from spot_jax.studies.subspace.results import (
    FOUND,
    MODEL_TUNING,
    PROMPT_TUNING,
    RANDOM,
    IntrinsicResults,
)

PAGE = "index.html"
WITHOUT = {
    PROMPT_TUNING: "prompt tuning",
    MODEL_TUNING: "model tuning",
    MAJORITY: "the commonest label",
    RANDOM: "in a random subspace",
    FOUND: "",
}
SETS = {
    SAME_IST: "training tasks, same data",
    DIFF_IST: "training tasks, other data",
    TEST_IST: "held-out tasks",
}


def write_report(results: IntrinsicResults, directory: str | os.PathLike[str]) -> epath.Path:
    """Writes the report into a directory, made if need be; returns the page's path.

    Args:
        results: a study, finished or half-way.
        directory: where; files of an earlier report there are replaced.
    """
    place = epath.Path(directory)
    rows, tasks = relative_rows(results), task_scores(results)
    drawn, tables = figures(results, rows, tasks), all_tables(results, rows, tasks)
    for name in ("tables", "figures"):
        (place / name).mkdir(parents=True, exist_ok=True)
    for table in tables.values():
        (place / "tables" / f"{table.name}.csv").write_text(table.csv())
    (place / "tables.json").write_text(tables_json(list(tables.values())))
    for name, specification in drawn.items():
        (place / "figures" / f"{name}.svg").write_text(vega.svg(specification))
    path = place / PAGE
    path.write_text(
        rendered(
            "intrinsic.html",
            results=results,
            figures=drawn,
            tables=tables,
            facts=_facts(results),
            summary=[*_summary(rows), *_gains(results)],
        )
    )
    return path


def figures(
    results: IntrinsicResults, rows: Sequence[Row], tasks: Sequence[TaskScores]
) -> dict[str, dict[str, Any]]:
    """Every figure that the study has data for, by name, as Vega-Lite."""
    label = short_names([one.task for one in tasks])
    made = {
        "dimension": over_dimension(rows),
        "tasks": over_tasks(rows),
        "scores": by_task(tasks, label),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def all_tables(
    results: IntrinsicResults, rows: Sequence[Row], tasks: Sequence[TaskScores]
) -> dict[str, Table]:
    """Every table that has rows, by name."""
    made = [_relative(rows), _by_task(results, tasks), _trained(results)]
    return {table.name: table for table in made if table.rows}


def _relative(rows: Sequence[Row]) -> Table:
    """E_rel of every group, a row each, with a column for either reference."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        group = row.group
        plain = found.setdefault(
            group,
            {
                "setting": group.setting,
                "category": group.category,
                "subspace": group.subspace,
                "dimension": group.dimension or None,
                "training_tasks": group.tasks or None,
                "draw": None if group.draw < 0 else group.draw,
                "tasks": len(row.tasks),
                "left_out": " ".join(row.left_out),
                "seeds": row.seeds,
            },
        )
        plain[row.against] = 100 * row.mean
        plain[f"{row.against}_sd"] = 100 * row.sd
    for plain in found.values():
        for method in AGAINST:
            plain.setdefault(method, math.nan)
            plain.setdefault(f"{method}_sd", math.nan)
    return Table(
        "relative",
        list(found.values()),
        (
            Column("tasks", _name, numeric=False),
            Column("of kind", lambda r: "" if r["category"] == "train" else r["category"], False),
            Column("d", lambda r: "" if r["dimension"] is None else str(r["dimension"])),
            Column("from tasks", lambda r: str(r["training_tasks"] or "")),
            Column("against prompt tuning, %", _share(PROMPT_TUNING)),
            Column("against model tuning, %", _share(MODEL_TUNING)),
            Column("tasks", lambda r: str(r["tasks"])),
            Column("left out", lambda r: r["left_out"], numeric=False),
        ),
    )


def _name(row: Mapping[str, Any]) -> str:
    if row["subspace"] == FOUND:
        return SETTINGS[row["setting"]]
    return f"{SETS[row['setting']]}: {WITHOUT[row['subspace']]}"


def _share(method: str) -> Any:
    return lambda row: with_sd(row[method], row[f"{method}_sd"])


def _by_task(results: IntrinsicResults, tasks: Sequence[TaskScores]) -> Table:
    """Scores of every task: without a subspace, and in subspaces of each d."""
    label = short_names([one.task for one in tasks])
    rows = []
    for one in tasks:
        row: dict[str, Any] = {"task": one.task, "short": label[one.task], "category": one.category}
        row["majority"] = math.nan if one.majority is None else one.majority
        for method in AGAINST:
            row[method], row[f"{method}_sd"] = one.references.get(method, (math.nan, math.nan))
        for subspace in (FOUND, RANDOM):
            for d in results.dimensions:
                pair = one.subspaces.get((subspace, d), (math.nan, math.nan))
                row[f"{subspace}_{d}"], row[f"{subspace}_{d}_sd"] = pair
        rows.append(row)
    columns = [
        Column("task", lambda r: r["short"], numeric=False),
        Column("kind", lambda r: r["category"], numeric=False),
        Column("commonest label", lambda r: number(r["majority"])),
        *(Column(AGAINST[m], _share(m)) for m in AGAINST),
        *(Column(f"d = {d}", _share(f"{FOUND}_{d}")) for d in results.dimensions),
    ]
    if any(not math.isnan(row[f"{RANDOM}_{d}"]) for row in rows for d in results.dimensions):
        columns += [Column(f"random, d = {d}", _share(f"{RANDOM}_{d}")) for d in results.dimensions]
    return Table("scores", rows, columns)


def _trained(results: IntrinsicResults) -> Table:
    rows: list[dict[str, Any]] = [
        {"what": f"vector of d = {d}", "numbers": d} for d in results.dimensions
    ]
    names = {PROMPT_TUNING: "a prompt", MODEL_TUNING: "the model"}
    for what, numbers in results.trained.items():
        dimension = what.removeprefix("subspace ")
        name = names.get(what, f"a subspace of d = {dimension}, once for all tasks")
        rows.append({"what": name, "numbers": numbers})
    return Table(
        "trained",
        rows,
        (
            Column("what is trained", lambda r: r["what"], numeric=False),
            Column("numbers", lambda r: f"{r['numbers']:,}"),
        ),
    )


def _facts(results: IntrinsicResults) -> list[str]:
    """The line under the title."""
    held_out = sum(map(len, results.test_tasks.values()))
    made = [
        count(len(results.train_tasks), "training task"),
        count(held_out, "held-out task"),
        count(len(results.seeds), "seed"),
    ]
    if results.backbone:
        made.append(f"backbone {results.backbone}")
    return [*made, results.metric, f"reported on {results.split}"]


def _summary(rows: Sequence[Row]) -> list[str]:
    """What was found, a sentence each; also what says little."""
    several = any(row.group.category == ALL for row in rows)
    against = [r for r in rows if r.against == PROMPT_TUNING and r.group.draw < 0]

    def value(setting: str, subspace: str, d: int = 0) -> Row | None:
        found = [
            row
            for row in against
            if (row.group.setting, row.group.subspace, row.group.dimension)
            == (setting, subspace, d)
            and (row.group.category in (ALL, "train") or not several)
        ]
        return found[0] if found else None

    said = []
    dimensions = sorted({r.group.dimension for r in against if r.group.subspace == FOUND})
    for setting, what in SETS.items():
        parts = []
        for d in dimensions:
            row = value(setting, FOUND, d)
            if row is not None and not math.isnan(row.mean):
                parts.append(f"{number(100 * row.mean)}% with d = {d}")
        majority = value(setting, MAJORITY)
        if parts:
            text = f"On {what}, tuning in the subspace has of prompt tuning’s score " + ", ".join(
                parts
            )
            if majority is not None:
                text += f"; the commonest label alone has {number(100 * majority.mean)}%"
            said.append(text + ".")
    return said


def _gains(results: IntrinsicResults) -> list[str]:
    """A sentence on what the finding of a subspace is worth; none without random ones."""
    parts = [
        f"{with_sd(mean, sd, sign=True)} with d = {d}"
        for d, (mean, sd) in over_random(results).items()
    ]
    said = "On held-out tasks, a found subspace has against a random one, in points of the score, "
    return [f"{said}{', '.join(parts)}."] if parts else []
