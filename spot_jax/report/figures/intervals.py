"""The method table as a picture: each method's mean with its interval."""

import math
from typing import Any

import altair as alt

from spot_jax.report.figures import theme
from spot_jax.report.labels import method_name, number, span
from spot_jax.studies.transfer.analysis import Analysis
from spot_jax.studies.transfer.published import Printed
from spot_jax.studies.transfer.results import BASELINES

ROW = 20


def method_intervals(analysis: Analysis, printed: Printed | None) -> dict[str, Any] | None:
    """Plot change and relative error reduction against scratch; None if no method but scratch ran.

    Where a paper printed the same table, its values stand beside ours as crosses.
    """
    data: list[dict[str, Any]] = []
    order: list[str] = []
    theirs = (
        {}
        if printed is None
        else {
            (p.method, p.similarity, None if p.method == "oracle" else p.k): p
            for p in printed.methods
        }
    )
    for row in analysis.methods:
        if row.method in ("scratch", *BASELINES):
            continue
        name = method_name(row.method, row.k, row.similarity)
        order.append(name)
        key = (row.method, row.similarity, None if row.method == "oracle" else row.k)
        for what in ("absolute", "relative"):
            estimate = getattr(row, what)
            if math.isnan(estimate.mean):
                continue
            shared = {"method": name, "what": what}
            data.append(
                {
                    **shared,
                    "kind": "this analysis",
                    "mean": estimate.mean,
                    "low": None if math.isnan(estimate.low) else estimate.low,
                    "high": None if math.isnan(estimate.high) else estimate.high,
                    "shown": number(estimate.mean, sign=True),
                    "interval": span(estimate.low, estimate.high) or "–",
                }
            )
            if key in theirs:
                value = getattr(theirs[key], what)[0]
                shown = number(value, sign=True)
                data.append(
                    {**shared, "kind": "printed in the paper", "mean": value, "shown": shown}
                )
    if not data:
        return None
    left = _panel(data, order, "absolute", "change of the mean score", True, printed is not None)
    right = _panel(
        data, order, "relative", "relative error reduction, %", False, printed is not None
    )
    chart = alt.hconcat(left, right, spacing=30)
    return theme.finish(chart, "Each method's change over tuning from scratch, with intervals")


def _panel(
    data: list[dict[str, Any]], order: list[str], what: str, title: str, names: bool, printed: bool
) -> theme.Chart:
    y = alt.Y(
        "method:N",
        sort=order,
        scale=alt.Scale(domain=order),
        axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=360, labelPadding=8)
        if names
        else alt.Axis(labels=False, ticks=False, domain=False, title=None),
    )
    kinds = ["this analysis", "printed in the paper"]
    legend = alt.Legend(title=None, orient="bottom") if printed else None
    base = alt.Chart(theme.rows([row for row in data if row["what"] == what]))
    zero = alt.Chart(theme.rows([{}])).mark_rule(color=theme.SOFT).encode(x=alt.datum(0))
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(color=theme.INK, strokeWidth=1.2)
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y)
    )
    dots = base.mark_point(size=55, strokeWidth=1.4, opacity=1).encode(
        x=alt.X(
            "mean:Q", axis=alt.Axis(title=title, grid=True, gridColor=theme.FAINT, tickCount=6)
        ),
        y=y,
        shape=alt.Shape(
            "kind:N", scale=alt.Scale(domain=kinds, range=["circle", "cross"]), legend=legend
        ),
        fill=alt.Fill(
            "kind:N", scale=alt.Scale(domain=kinds, range=[theme.INK, theme.GAIN]), legend=legend
        ),
        stroke=alt.value(theme.INK),
        tooltip=[
            alt.Tooltip("method:N", title="method"),
            alt.Tooltip("kind:N", title="value"),
            alt.Tooltip("shown:N", title=title),
            alt.Tooltip("interval:N", title="95% interval"),
        ],
    )
    return alt.layer(zero, bars, dots).properties(width=290, height=ROW * len(order))
