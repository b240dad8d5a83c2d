"""Relative performance: over the dimension of the subspace, and over the number of tasks."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from spot_jax.report.figures import theme
from spot_jax.report.labels import number
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.subspace.analysis import ALL, MAJORITY, Row, TaskScores
from spot_jax.studies.subspace.jobs import (
    DIFF_IST,
    SAME_IST,
    TEST_IST,
    TEST_MSF,
    TEST_SECOND,
    TRAIN_MSF,
)
from spot_jax.studies.subspace.results import (
    FASTFOOD,
    FOUND,
    MODEL_TUNING,
    PROMPT_TUNING,
    RANDOM,
)

AGAINST = {PROMPT_TUNING: "prompt tuning", MODEL_TUNING: "model tuning"}
LINES = {  # name: colour, dashes
    "training tasks, gone through (MSF)": ("#7fa3c4", [5, 3]),
    "training tasks, same data (IST)": (theme.LOSS, [1, 0]),
    "training tasks, other data (IST)": (theme.LOSS, [2, 2]),
    "held-out tasks, gone through (MSF)": ("#e3b07f", [5, 3]),
    "held-out tasks (IST)": (theme.GAIN, [1, 0]),
    "held-out tasks, prompt tuning from there": ("#b0572e", [6, 2]),
    "held-out tasks, random subspace": (theme.INK, [2, 2]),
    "held-out tasks, Fastfood on all weights": ("#6a51a3", [4, 2]),
    "held-out tasks, commonest label": ("#a0a0a0", [8, 3]),
    "held-out tasks, no prompt": ("#6d6d6d", [3, 3]),
}
_IN_ORDER = (TRAIN_MSF, SAME_IST, DIFF_IST, TEST_MSF, TEST_IST, TEST_SECOND)
SETTINGS = dict(zip(_IN_ORDER, LINES, strict=False))
PANEL = (330, 300)
SMALL = (220, 150)
COLUMNS = 3


def name_of(row: Row) -> str:
    """Return the line that a row belongs to."""
    if row.group.subspace == RANDOM:
        return "held-out tasks, random subspace"
    if row.group.subspace == FASTFOOD:
        return "held-out tasks, Fastfood on all weights"
    if row.group.subspace == MAJORITY:
        return "held-out tasks, commonest label"
    if row.group.subspace == NO_PROMPT:
        return "held-out tasks, no prompt"
    return SETTINGS[row.group.setting]


def whole(rows: Iterable[Row]) -> list[Row]:
    """Return rows over all held-out tasks where these fall into categories, and over training
    tasks."""
    rows = list(rows)
    several = any(row.group.category == ALL for row in rows)
    return [r for r in rows if not several or r.group.category in (ALL, "train")]


def over_dimension(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Plot E_rel by d, a panel a reference; None without a subspace of all training tasks."""
    data = []
    for row in whole(rows):
        if row.group.draw >= 0 or row.group.subspace not in (FOUND, RANDOM, FASTFOOD):
            continue
        data.append(_point(row, d=row.group.dimension))
    dimensions = sorted({point["d"] for point in data})
    for row in whole(rows):
        if row.group.subspace in (MAJORITY, NO_PROMPT) and row.group.setting == TEST_IST:
            data += [_point(row, d=d) for d in dimensions]
    if not dimensions:
        return None
    panels = [_panel(data, row, dimensions) for row in AGAINST if _of(data, row)]
    chart = alt.hconcat(*panels, spacing=40).resolve_scale(y="shared")
    return theme.finish(chart, "Relative performance over the dimension of the subspace")


def _of(data: Sequence[dict[str, Any]], against: str) -> list[dict[str, Any]]:
    return [point for point in data if point["against"] == against]


def _point(row: Row, **place: Any) -> dict[str, Any]:
    sd = 0.0 if math.isnan(row.sd) else 100 * row.sd
    return {
        **place,
        "line": name_of(row),
        "against": row.against,
        "mean": None if math.isnan(row.mean) else 100 * row.mean,
        "low": 100 * row.mean - sd,
        "high": 100 * row.mean + sd,
        "shown": f"{number(100 * row.mean)}%",
        "sd": f"{number(sd)}%",
        "tasks": len(row.tasks),
    }


def _panel(data: Sequence[dict[str, Any]], against: str, dimensions: Sequence[int]) -> theme.Chart:
    x = alt.X(
        "d:Q",
        scale=alt.Scale(type="log", domain=_wide(dimensions), nice=False),
        axis=alt.Axis(title="dimensions of the subspace", values=list(dimensions), format="d"),
    )
    title = f"performance relative to {AGAINST[against]}, %"
    return _lines(_of(data, against), x, title)


def _wide(values: Sequence[int]) -> list[float]:
    return [min(values) * 0.85, max(values) * 1.18]


def _lines(data: list[dict[str, Any]], x: alt.X, title: str) -> theme.Chart:
    names = [name for name in LINES if any(point["line"] == name for point in data)]
    legend = alt.Legend(
        title=None,
        orient="bottom",
        columns=2,
        symbolType="stroke",
        symbolSize=300,
        labelLimit=320,
        symbolStrokeWidth=2,
        symbolOpacity=1,
    )
    color, dash = theme.line_styles("line:N", {name: LINES[name] for name in names}, legend)
    y = alt.Y(
        "mean:Q",
        scale=alt.Scale(zero=False),
        axis=alt.Axis(title=title, grid=True, gridColor=theme.FAINT, tickCount=6),
    )
    base = alt.Chart(theme.rows(data))
    whole_ = alt.Chart(theme.rows([{}])).mark_rule(color=theme.SOFT).encode(y=alt.datum(100))
    tooltip = [
        alt.Tooltip("line:N", title="setting"),
        alt.Tooltip("shown:N", title="relative"),
        alt.Tooltip("sd:N", title="sd over seeds"),
        alt.Tooltip("tasks:Q", title="tasks"),
    ]
    bars = base.mark_rule(strokeWidth=1, opacity=0.55).encode(
        x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=color
    )
    lines = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color, strokeDash=dash)
    dots = base.mark_circle(size=42, opacity=1).encode(x=x, y=y, color=color, tooltip=tooltip)
    return alt.layer(whole_, bars, lines, dots).properties(width=PANEL[0], height=PANEL[1])


def over_tasks(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Plot E_rel of held-out tasks by number of training tasks, a panel a dimension.

    Of several subsets of the same size the mean is drawn. None without subsets.
    """
    chosen = [
        row
        for row in whole(rows)
        if row.group.setting in (TEST_MSF, TEST_IST)
        and row.group.subspace == FOUND
        and row.against == PROMPT_TUNING
    ]
    dimensions = sorted({row.group.dimension for row in chosen if row.group.draw >= 0})
    panels = []
    for d in dimensions:
        grouped: dict[tuple[str, int], list[Row]] = defaultdict(list)
        for row in chosen:
            if row.group.dimension == d:
                grouped[name_of(row), row.group.tasks].append(row)
        data = [_joined(some, count) for (_, count), some in grouped.items()]
        counts = sorted({point["n"] for point in data})
        x = alt.X(
            "n:Q",
            scale=alt.Scale(zero=False, padding=14, nice=False),
            axis=alt.Axis(title=f"training tasks (d = {d})", values=counts, format="d"),
        )
        panels.append(_lines(data, x, "performance relative to prompt tuning, %"))
    if not panels:
        return None
    chart = alt.hconcat(*panels, spacing=40).resolve_scale(y="shared")
    return theme.finish(chart, "Relative performance over the number of training tasks")


def _joined(rows: Sequence[Row], count: int) -> dict[str, Any]:
    """Return a point for several subsets of one number: their mean, and their widest spread."""
    points = [_point(row, n=count) for row in rows]
    joined = dict(points[0])
    for key in ("mean", "low", "high"):
        joined[key] = math.fsum(point[key] for point in points) / len(points)
    joined["shown"] = f"{number(joined['mean'])}%"
    return joined


def by_task(tasks: Sequence[TaskScores], label: dict[str, str]) -> dict[str, Any] | None:
    """Return each task's score over d beside what it has without a subspace; a panel a task and
    sample."""
    data, marks = [], []
    for scores in tasks:
        panel = f"{label[scores.task]}{' (held out)' if scores.category != 'train' else ''}"
        for (subspace, d), (mean, sd) in scores.subspaces.items():
            sd = 0.0 if math.isnan(sd) else sd
            line = IN_SUBSPACE[subspace]
            data.append(
                {
                    "task": panel,
                    "line": line,
                    "d": d,
                    "score": mean,
                    "low": mean - sd,
                    "high": mean + sd,
                    "shown": f"{number(mean)} ({number(sd)})",
                }
            )
        for method, (mean, _) in scores.references.items():
            marks.append({"task": panel, "line": AGAINST[method], "score": mean})
        if scores.majority is not None:
            marks.append({"task": panel, "line": "commonest label", "score": scores.majority})
        if scores.no_prompt is not None:
            marks.append({"task": panel, "line": "no prompt", "score": scores.no_prompt})
    if not data:
        return None
    order = list(dict.fromkeys(str(point["task"]) for point in (*data, *marks)))
    return theme.finish(_small(data, marks, order), "Scores by task over the dimension")


IN_SUBSPACE = {
    FOUND: "in the subspace",
    RANDOM: "in a random subspace",
    FASTFOOD: "Fastfood on all weights",
}
STYLES = {
    "in the subspace": (theme.GAIN, [1, 0]),
    "in a random subspace": (theme.INK, [2, 2]),
    "Fastfood on all weights": ("#6a51a3", [4, 2]),
    "prompt tuning": (theme.LOSS, [1, 0]),
    "model tuning": ("#7fa3c4", [6, 3]),
    "commonest label": ("#a0a0a0", [8, 3]),
    "no prompt": ("#6d6d6d", [3, 3]),
}


def _small(
    data: list[dict[str, Any]], marks: list[dict[str, Any]], order: Sequence[str]
) -> theme.Chart:
    present = {point["line"] for point in (*data, *marks)}
    names = [name for name in STYLES if name in present]
    legend = alt.Legend(
        title=None,
        orient="top",
        direction="horizontal",
        symbolType="stroke",
        symbolSize=300,
        symbolStrokeWidth=2,
        symbolOpacity=1,
    )
    color, dash = theme.line_styles("line:N", {name: STYLES[name] for name in names}, legend)
    dimensions = sorted({point["d"] for point in data})
    x = alt.X(
        "d:Q",
        scale=alt.Scale(type="log", domain=_wide(dimensions), nice=False),
        axis=alt.Axis(title="d", values=dimensions, format="d"),
    )
    y = alt.Y(
        "score:Q", scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(title="score", tickCount=4)
    )
    # One data set, so that panels can be cut from it: rules have no d.
    base = alt.Chart()
    points = base.transform_filter("isValid(datum.d)")
    rules = base.transform_filter("!isValid(datum.d)")
    tooltip = [alt.Tooltip("line:N"), alt.Tooltip("d:Q"), alt.Tooltip("shown:N", title="score")]
    layers = [
        rules.mark_rule(strokeWidth=1.4).encode(y=y, color=color, strokeDash=dash),
        points.mark_rule(strokeWidth=1, opacity=0.55).encode(
            x=x, y=alt.Y("low:Q", title="score"), y2="high:Q", color=color
        ),
        points.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=color, strokeDash=dash),
        points.mark_circle(size=34, opacity=1).encode(x=x, y=y, color=color, tooltip=tooltip),
    ]
    return (
        alt.layer(*layers, data=theme.rows([*data, *marks]))
        .properties(width=SMALL[0], height=SMALL[1])
        .facet(
            facet=alt.Facet(
                "task:N",
                sort=list(order),
                title=None,
                header=alt.Header(labelAlign="left", labelAnchor="start"),
            ),
            columns=COLUMNS,
        )
        .resolve_scale(x="independent", y="independent")
        .properties(bounds="flush", align="all", spacing={"row": 66, "column": 58})
    )
