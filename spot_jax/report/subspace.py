"""The report of a study of subspaces."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from spot_jax.report.figures.relative import AGAINST, SETTINGS, by_task, over_dimension, over_tasks
from spot_jax.report.labels import count, number, short_names, with_sd
from spot_jax.report.tables import Column, Table
from spot_jax.report.write import rendered, write_page
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.subspace.analysis import (
    ALL,
    MAJORITY,
    Row,
    TaskScores,
    over_random,
    relative_rows,
    stability,
    task_scores,
)
from spot_jax.studies.subspace.jobs import DIFF_IST, SAME_IST, TEST_IST
from spot_jax.studies.subspace.results import (
    FASTFOOD,
    FOUND,
    MODEL_TUNING,
    PROMPT_TUNING,
    RANDOM,
    SubspaceResults,
)

WITHOUT = {
    PROMPT_TUNING: "prompt tuning",
    MODEL_TUNING: "model tuning",
    MAJORITY: "the commonest label",
    NO_PROMPT: "no prompt",
    RANDOM: "in a random subspace",
    FASTFOOD: "Fastfood on all weights",
    FOUND: "",
}
SETS = {
    SAME_IST: "training tasks, same data",
    DIFF_IST: "training tasks, other data",
    TEST_IST: "held-out tasks",
}


def write_report(results: SubspaceResults, directory: str | os.PathLike[str]) -> epath.Path:
    """Write the report into a directory, made if need be; return the page's path.

    Args:
        results: results of a study, finished or half-way.
        directory: path of the report; files of an earlier report are replaced.
    """
    rows, tasks = relative_rows(results), task_scores(results)
    drawn, tables = figures(results, rows, tasks), all_tables(results, rows, tasks)
    page = rendered(
        "intrinsic.html",
        results=results,
        figures=drawn,
        tables=tables,
        facts=_facts(results),
        summary=[*_summary(rows), *_gains(results)],
    )
    return write_page(directory, page, tables, drawn)


def figures(
    results: SubspaceResults, rows: Sequence[Row], tasks: Sequence[TaskScores]
) -> dict[str, dict[str, Any]]:
    """Return every figure that the study has data for, by name, as Vega-Lite."""
    label = short_names([task.task for task in tasks])
    drawn = {
        "dimension": over_dimension(rows),
        "tasks": over_tasks(rows),
        "scores": by_task(tasks, label),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def all_tables(
    results: SubspaceResults, rows: Sequence[Row], tasks: Sequence[TaskScores]
) -> dict[str, Table]:
    """Return every table that has rows, by name."""
    tables = [
        _relative(rows),
        _by_task(results, tasks),
        _stability(results),
        _vectors(results),
        _trained(results),
    ]
    return {table.name: table for table in tables if table.rows}


def _relative(rows: Sequence[Row]) -> Table:
    """E_rel and E_gain of every group, a row each, with columns for either reference."""
    by_group: dict[Any, dict[str, Any]] = {}
    for row in rows:
        group = row.group
        plain = by_group.setdefault(
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
        plain[f"{row.against}_gain"] = 100 * row.gain
        plain[f"{row.against}_gain_sd"] = 100 * row.gain_sd
    for plain in by_group.values():
        for method in AGAINST:
            for key in (method, f"{method}_gain"):
                plain.setdefault(key, math.nan)
                plain.setdefault(f"{key}_sd", math.nan)
    return Table(
        "relative",
        list(by_group.values()),
        (
            Column("tasks", _name, numeric=False),
            Column("of kind", lambda r: "" if r["category"] == "train" else r["category"], False),
            Column("d", lambda r: "" if r["dimension"] is None else str(r["dimension"])),
            Column("from tasks", lambda r: str(r["training_tasks"] or "")),
            Column("against prompt tuning, %", _share(PROMPT_TUNING)),
            Column("against model tuning, %", _share(MODEL_TUNING)),
            Column("of prompt tuning’s gain, %", _share(f"{PROMPT_TUNING}_gain")),
            Column("of model tuning’s gain, %", _share(f"{MODEL_TUNING}_gain")),
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


def _by_task(results: SubspaceResults, tasks: Sequence[TaskScores]) -> Table:
    """Return scores of every task: without a subspace, and in subspaces of each d."""
    label = short_names([scores.task for scores in tasks])
    rows = []
    for scores in tasks:
        row: dict[str, Any] = {
            "task": scores.task,
            "short": label[scores.task],
            "category": scores.category,
        }
        row["majority"] = math.nan if scores.majority is None else scores.majority
        row[NO_PROMPT] = math.nan if scores.no_prompt is None else scores.no_prompt
        for method in AGAINST:
            row[method], row[f"{method}_sd"] = scores.references.get(method, (math.nan, math.nan))
        for subspace in (FOUND, RANDOM):
            for d in results.dimensions:
                pair = scores.subspaces.get((subspace, d), (math.nan, math.nan))
                row[f"{subspace}_{d}"], row[f"{subspace}_{d}_sd"] = pair
        rows.append(row)
    columns = [
        Column("task", lambda r: r["short"], numeric=False),
        Column("kind", lambda r: r["category"], numeric=False),
        Column("commonest label", lambda r: number(r["majority"])),
        Column("no prompt", lambda r: number(r[NO_PROMPT])),
        *(Column(AGAINST[m], _share(m)) for m in AGAINST),
        *(Column(f"d = {d}", _share(f"{FOUND}_{d}")) for d in results.dimensions),
    ]
    if any(not math.isnan(row[f"{RANDOM}_{d}"]) for row in rows for d in results.dimensions):
        columns += [Column(f"random, d = {d}", _share(f"{RANDOM}_{d}")) for d in results.dimensions]
    return Table("scores", rows, columns)


def _stability(results: SubspaceResults) -> Table:
    """Scores over seeds of prompts from scratch, and from a subspace."""
    items = stability(results)
    label = short_names([item.task for item in items])
    dimensions = sorted({d for item in items for d in item.second})
    rows = []
    for item in items:
        row: dict[str, Any] = {"task": item.task, "short": label[item.task]}
        row[PROMPT_TUNING], row[f"{PROMPT_TUNING}_sd"] = item.scratch
        for d in dimensions:
            row[f"d{d}"], row[f"d{d}_sd"] = item.second.get(d, (math.nan, math.nan))
        rows.append(row)
    columns = [
        Column("task", lambda r: r["short"], numeric=False),
        Column("prompt tuning from scratch", _share(PROMPT_TUNING)),
        *(Column(f"from the subspace of d = {d}", _share(f"d{d}")) for d in dimensions),
    ]
    return Table("stability", rows, columns)


def _vectors(results: SubspaceResults) -> Table:
    """Cosines of held-out tasks' vectors, a row for each two."""
    rows = []
    for d, similarity in results.vectors.items():
        label = short_names(list(similarity.tasks))
        for i, first in enumerate(similarity.tasks):
            for j, second in enumerate(similarity.tasks[:i]):
                pair = {"first": label[first], "second": label[second], "dimension": int(d)}
                rows.append({**pair, "cosine": similarity.cosines[i][j]})
    return Table(
        "vectors",
        rows,
        (
            Column("d", lambda r: str(r["dimension"])),
            Column("task", lambda r: r["first"], numeric=False),
            Column("and task", lambda r: r["second"], numeric=False),
            Column("cosine of their vectors", lambda r: number(r["cosine"], 2)),
        ),
    )


def _trained(results: SubspaceResults) -> Table:
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


def _facts(results: SubspaceResults) -> list[str]:
    """Return the line under the title."""
    held_out = sum(map(len, results.test_tasks.values()))
    facts = [
        count(len(results.train_tasks), "training task"),
        count(held_out, "held-out task"),
        count(len(results.seeds), "seed"),
    ]
    if results.backbone:
        facts.append(f"backbone {results.backbone}")
    return [*facts, results.metric, f"reported on {results.split}"]


def _summary(rows: Sequence[Row]) -> list[str]:
    """Return the findings, a sentence each; also what says little."""
    several = any(row.group.category == ALL for row in rows)
    against = [r for r in rows if r.against == PROMPT_TUNING and r.group.draw < 0]

    def value(setting: str, subspace: str, d: int = 0) -> Row | None:
        matching = [
            row
            for row in against
            if (row.group.setting, row.group.subspace, row.group.dimension)
            == (setting, subspace, d)
            and (row.group.category in (ALL, "train") or not several)
        ]
        return matching[0] if matching else None

    sentences = []
    dimensions = sorted({r.group.dimension for r in against if r.group.subspace == FOUND})
    for setting, what in SETS.items():
        parts = []
        for d in dimensions:
            row = value(setting, FOUND, d)
            if row is not None and not math.isnan(row.mean):
                parts.append(f"{number(100 * row.mean)}% with d = {d}")
        if parts:
            text = f"On {what}, tuning in the subspace has of prompt tuning’s score " + ", ".join(
                parts
            )
            for subspace, name in ((MAJORITY, "the commonest label"), (NO_PROMPT, "no prompt")):
                row = value(setting, subspace)
                if row is not None:
                    text += f"; {name} alone has {number(100 * row.mean)}%"
            sentences.append(text + ".")
            gains = [(d, value(setting, FOUND, d)) for d in dimensions]
            parts = [
                f"{number(100 * row.gain)}% with d = {d}"
                for d, row in gains
                if row is not None and not math.isnan(row.gain)
            ]
            if parts:
                sentences.append(
                    f"Of prompt tuning’s gain over no prompt that is {', '.join(parts)}."
                )
    return sentences


def _gains(results: SubspaceResults) -> list[str]:
    """Return a sentence on what finding a subspace is worth; none without random ones."""
    parts = [
        f"{with_sd(mean, sd, sign=True)} with d = {d}"
        for d, (mean, sd) in over_random(results).items()
    ]
    beginning = (
        "On held-out tasks, a found subspace has against a random one, in points of the score, "
    )
    return [f"{beginning}{', '.join(parts)}."] if parts else []
