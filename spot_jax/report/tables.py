"""The report's tables: the same rows as CSV, as JSON and on the page."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spot_jax.report.labels import (
    SIMILARITIES,
    method_name,
    number,
    p_value,
    short_names,
    span,
    with_sd,
)
from spot_jax.studies.transfer.analysis import Analysis
from spot_jax.studies.transfer.method_table import ORACLE
from spot_jax.studies.transfer.published import Printed
from spot_jax.studies.transfer.results import TransferResults

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the page's table: its head, its text from a row, and whether it is numbers."""

    head: str
    text: Callable[[Row], str]
    numeric: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of plain values (for CSV and JSON), and how the page shows them."""

    name: str
    rows: Sequence[Row]
    columns: Sequence[Column] = ()

    @property
    def cells(self) -> list[list[tuple[str, bool]]]:
        """The page's cells: text, and whether it is a number."""
        return [[(c.text(row), c.numeric) for c in self.columns] for row in self.rows]

    def csv(self) -> str:
        """Return comma-separated values, head first; unknown ones are empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]) if self.rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.plain())
        return text.getvalue()

    def plain(self) -> list[dict[str, Any]]:
        """Return rows with numbers of 6 decimals, and None for unknown values."""
        return [{name: _plain(value) for name, value in row.items()} for row in self.rows]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def tables_json(tables: Sequence[Table]) -> str:
    """Return all tables as one JSON object, by name."""
    return json.dumps({t.name: t.plain() for t in tables}, indent=1, allow_nan=False) + "\n"


def all_tables(analysis: Analysis, printed: Printed | None) -> dict[str, Table]:
    """Return every table that has rows, by name."""
    tables = [
        methods(analysis),
        transfer(analysis),
        targets(analysis),
        correlations(analysis, printed),
        points(analysis),
        families(analysis),
        prompts(analysis),
        *embeddings(analysis),
    ]
    if printed is not None:
        tables += [printed_methods(analysis, printed), printed_transfers(analysis, printed)]
    return {table.name: table for table in tables if table.rows}


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: "" if row[key] is None else str(row[key])


def _number(key: str, digits: int = 1, sign: bool = False) -> Callable[[Row], str]:
    return lambda row: number(row[key], digits, sign=sign)


def _with_sd(key: str, sign: bool = False) -> Callable[[Row], str]:
    return lambda row: with_sd(row[key], row[f"{key}_sd"], sign=sign)


def _span(key: str, digits: int = 1) -> Callable[[Row], str]:
    return lambda row: span(row[f"{key}_low"], row[f"{key}_high"], digits)


def _short_p(p: float) -> str:
    return p_value(p).removeprefix("p ").removeprefix("= ")


def methods(analysis: Analysis) -> Table:
    """Return table 3 of the paper over this study."""
    rows = []
    for row in analysis.methods:
        values: dict[str, Any] = {
            "method": row.method,
            "similarity": row.similarity,
            "k": row.k,
            "targets": row.targets,
            "picked_on": row.picked_on,
        }
        for name in ("absolute", "relative", "score"):
            estimate = getattr(row, name)
            if name != "score" and row.method == "scratch":
                estimate = dataclasses.replace(estimate, mean=math.nan, sd=math.nan, low=math.nan)
            values |= {name: estimate.mean, f"{name}_sd": estimate.sd}
            if name != "score":
                values |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        rows.append(values)
    columns = [
        Column("method", lambda r: method_name(r["method"], r["k"]), False),
        Column("ranked by", lambda r: SIMILARITIES.get(r["similarity"], ""), False),
        Column("change", _with_sd("absolute", True)),
        Column("95% interval", _span("absolute")),
        Column("error reduction, %", _with_sd("relative", True)),
        Column("95% interval", _span("relative")),
        Column("score", _with_sd("score")),
    ]
    if len({row["targets"] for row in rows}) > 1:
        columns.append(Column("targets", _text("targets")))
    return Table("methods", rows, columns)


def transfer(analysis: Analysis) -> Table:
    """Return every pair; the heat map is its picture, so the page has no columns of it."""
    metrics = list(analysis.correlations)
    rows = [
        {
            "source": p.source,
            "target": p.target,
            "score": p.score,
            "sd": p.sd,
            "runs": p.runs or None,
            "baseline": analysis.table.baseline(p.target),
            "change": p.change,
            "relative_error_reduction": p.relative,
            **{f"similarity_{m}": p.similarity.get(m) for m in metrics},
        }
        for p in analysis.pairs
        if not math.isnan(p.score)
    ]
    return Table("transfer", rows)


def targets(analysis: Analysis) -> Table:
    """Return a row a target: scratch against the best source."""
    label = short_names((*analysis.results.targets, *analysis.results.sources))
    rows = [
        {
            "target": t.target,
            "majority": t.majority,
            "no_prompt": t.no_prompt,
            "scratch": t.baseline,
            "scratch_sd": t.sd,
            "runs": t.runs or None,
            "best_source": t.best_source,
            "best": t.best_score,
            "relative_error_reduction": t.best_relative,
            "sources_that_help": t.helped,
            "sources": t.sources,
        }
        for t in analysis.targets
    ]
    columns = [Column("target", lambda r: label[r["target"]], False)]
    if analysis.results.majority:
        columns.append(Column("commonest label", _number("majority")))
    if analysis.results.no_prompt:
        columns.append(Column("no prompt", _number("no_prompt")))
    columns += [
        Column("from scratch", _with_sd("scratch")),
        Column("best source", lambda r: label.get(r["best_source"], "–"), False),
        Column("from it", _number("best")),
        Column("error reduction, %", _number("relative_error_reduction", sign=True)),
        Column("sources that help", lambda r: f"{r['sources_that_help']} of {r['sources']}"),
    ]
    return Table("targets", rows, columns)


def correlations(analysis: Analysis, printed: Printed | None = None) -> Table:
    """Return Pearson's r and p by target and metric."""
    label = short_names(analysis.results.targets)
    rows: list[dict[str, Any]] = []
    for metric, by_target in analysis.correlations.items():
        for c in (*by_target, analysis.pooled[metric]):
            row = {
                "target": c.target,
                "similarity": c.metric,
                "points": len(c.points),
                "r": c.r,
                "p": c.p,
                "r_low": c.low,
                "r_high": c.high,
            }
            if printed is not None:
                r, p = printed.correlations.get(c.target, (math.nan, math.nan))
                row |= {"printed_r": r, "printed_p": p}
            rows.append(row)
    columns = [
        Column("target", lambda r: label.get(r["target"]) or str(r["target"]), False),
        Column("similarity", lambda r: SIMILARITIES[r["similarity"]], False),
        Column("points", _text("points")),
        Column("r", _number("r", 2, True)),
        Column("p", lambda r: _short_p(r["p"])),
        Column("95% interval of r", _span("r", 2)),
    ]
    if printed is not None:
        columns += [
            Column("printed r (48 points)", _number("printed_r", 3, True)),
            Column("printed p", lambda r: _short_p(r["printed_p"])),
        ]
    return Table("correlations", rows, columns)


def points(analysis: Analysis) -> Table:
    """Return a row a point of the scatter plots."""
    rows = [
        {
            "target": c.target,
            "source": p.source,
            "source_seed": p.source_seed,
            "metric": c.metric,
            "similarity": p.similarity,
            "relative_error_reduction": p.relative,
        }
        for correlations_ in analysis.correlations.values()
        for c in correlations_
        for p in c.points
    ]
    return Table("points", rows)


def families(analysis: Analysis) -> Table:
    """Return transfer within a family against across."""
    label = short_names(analysis.results.targets)
    rows = [] if analysis.families is None else analysis.families.rows
    columns = [
        Column("target", lambda r: label[r["target"]], False),
        Column("family", _text("family"), False),
        Column("own family, %", _number("within", sign=True)),
        Column("sources", _text("within_sources")),
        Column("other families, %", _number("across", sign=True)),
        Column("sources", _text("across_sources")),
    ]
    return Table("families", [dataclasses.asdict(row) for row in rows], columns)


def prompts(analysis: Analysis) -> Table:
    """Return a row a prompt: what it is and what it began from."""
    label = short_names((*analysis.results.sources, *analysis.results.targets))
    rows = [
        {
            "task": p.task,
            "role": p.role,
            "seed": p.seed,
            "step": p.step,
            "metrics": ", ".join(f"{name} {value:.4g}" for name, value in p.metrics.items()),
            "began_from": began_from(p.ancestry, label),
            "id": p.id,
            "file": p.file,
            "backbone": p.backbone,
        }
        for p in analysis.results.prompts
    ]
    columns = [
        Column("task", lambda r: label.get(r["task"]) or str(r["task"]), False),
        Column("role", _text("role"), False),
        Column("seed", _text("seed")),
        Column("step", _text("step")),
        Column("metrics", _text("metrics"), False),
        Column("began from", _text("began_from"), False),
        Column("prompt", lambda r: r["id"] or r["file"], False),
    ]
    if not one_backbone(analysis.results):
        columns.append(Column("backbone", lambda r: r["backbone"][:12], False))
    return Table("prompts", rows, columns)


def one_backbone(results: TransferResults) -> str:
    """Return the backbone of all prompts; "" if there are several or it is unknown."""
    backbones = {p.backbone for p in results.prompts}
    return backbones.pop() if len(backbones) == 1 else ""


def began_from(
    ancestry: Sequence[Mapping[str, Any]], label: Mapping[str, str] | None = None
) -> str:
    """Return the prompts a prompt began from, nearest first; those with weights are parts of a
    mean."""
    if not ancestry:
        return "its initialisation"
    text, weighted = "", False
    for a, following in zip(ancestry, [*ancestry[1:], {}], strict=True):
        part = a.get("weight") is not None
        if not a.get("task") and following.get("weight") is not None:
            name = "a weighted average"
        else:
            facts = [f"{key} {a[key]}" for key in ("seed", "step") if a.get(key) is not None]
            facts += [f"weight {a['weight']:.3f}"] if part else []
            task = str(a.get("task") or "a prompt")
            name = (label or {}).get(task, task)
            name += f" ({', '.join(facts)})" if facts else ""
        text += ((" + " if part and weighted else " ← ") if text else "") + name
        weighted = part
    return text


def embeddings(analysis: Analysis) -> list[Table]:
    """Return similarity matrices of tasks and of runs, a row a line."""
    tables = []
    for kind, maps in (("tasks", analysis.embeddings), ("runs", analysis.embedding_runs)):
        for metric, map_ in maps.items():
            rows = [
                {"name": name, **dict(zip(map_.names, map(float, row), strict=True))}
                for name, row in zip(map_.names, map_.values, strict=True)
            ]
            tables.append(Table(f"embeddings_{kind}_{metric}", rows))
    return tables


def printed_methods(analysis: Analysis, printed: Printed) -> Table:
    """Return the paper's table 3 beside ours; rows that only one of them has are left out."""

    def key(
        row: Any,
    ) -> tuple[str, str | None, int | None]:  # the oracle has as many prompts as there are
        return row.method, row.similarity, None if row.method == ORACLE else row.k

    ours = {key(row): row for row in analysis.methods}
    rows = []
    for theirs in printed.methods:
        match = ours.get(key(theirs))
        if match is not None:
            rows.append(
                {
                    "method": theirs.method,
                    "similarity": theirs.similarity,
                    "k": None if theirs.method == ORACLE else theirs.k,
                    "relative": math.nan if theirs.method == "scratch" else match.relative.mean,
                    "printed_relative": theirs.relative[0],
                    "printed_relative_sd": theirs.relative[1],
                    "score": match.score.mean,
                    "printed_score": theirs.score[0],
                    "printed_score_sd": theirs.score[1],
                }
            )
    columns = [
        Column("method", lambda r: method_name(r["method"], r["k"]), False),
        Column("ranked by", lambda r: SIMILARITIES.get(r["similarity"], ""), False),
        Column("error reduction, %", _number("relative", sign=True)),
        Column("printed", _with_sd("printed_relative", True)),
        Column("score", _number("score")),
        Column("printed", _with_sd("printed_score")),
    ]
    return Table("printed_methods", rows, columns)


def printed_transfers(analysis: Analysis, printed: Printed) -> Table:
    """Return the paper's table 7 beside ours."""
    ours = {(p.source, p.target): p.relative for p in analysis.pairs}
    rows = [
        {
            "source": source,
            "target": target,
            "relative_error_reduction": ours.get((source, target), math.nan),
            "printed": value,
        }
        for (source, target), value in printed.relative.items()
    ]
    columns = [
        Column("source", _text("source"), False),
        Column("target", _text("target"), False),
        Column("error reduction, %", _number("relative_error_reduction", sign=True)),
        Column("printed", _number("printed", sign=True)),
    ]
    return Table("printed_transfers", rows, columns)
