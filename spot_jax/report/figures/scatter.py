"""Similarity against transfer, a panel a target (the paper's figures 5 and 8)."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from spot_jax.report.figures import theme
from spot_jax.report.labels import SIMILARITIES, number, p_value, short_names
from spot_jax.studies.transfer.analysis import Correlation
from spot_jax.studies.transfer.results import TransferResults

COLUMNS = 4
PANEL = (195, 145)


def similarity_scatter(
    results: TransferResults, correlations: Sequence[Correlation]
) -> dict[str, Any]:
    """Return a point a source prompt; filled ones are of the target's own family, where it is
    known."""
    label = short_names((*results.sources, *results.targets))
    shown = [c for c in correlations if c.points]
    panels = {c.target: f"{label[c.target]}|{_statistics(c)}" for c in shown}
    data: list[dict[str, Any]] = []
    for c in shown:
        family = results.families.get(c.target)
        for p in c.points:
            kin = family is not None and results.families.get(p.source) == family
            data.append(
                {
                    "panel": panels[c.target],
                    "mark": "point",
                    "kin": "own family" if kin else "another family",
                    "similarity": p.similarity,
                    "relative": p.relative,
                    "source": label[p.source]
                    + ("" if p.source_seed is None else f", seed {p.source_seed}"),
                    "gain": f"{number(p.relative, sign=True)}%",
                }
            )
        data += [{"panel": panels[c.target], "mark": "line", **end} for end in _line(c)]
    many = any(results.families.get(c.target) for c in shown)
    chart = (
        alt.layer(*_layers(many, SIMILARITIES[shown[0].metric]), data=theme.rows(data))
        .properties(width=PANEL[0], height=PANEL[1])
        .facet(
            facet=alt.Facet(
                "panel:N",
                sort=list(panels.values()),
                title=None,
                header=alt.Header(
                    labelExpr="split(datum.label, '|')", labelAlign="left", labelAnchor="start"
                ),
            ),
            columns=COLUMNS,
        )
        .resolve_scale(x="independent", y="independent")
        .properties(bounds="flush", align="all", spacing={"row": 92, "column": 62})
    )
    return theme.finish(chart, "Similarity of embeddings against relative error reduction")


def _layers(families: bool, metric: str) -> list[theme.Chart]:
    x = alt.X(
        "similarity:Q",
        scale=alt.Scale(zero=False, nice=False, padding=10),
        axis=alt.Axis(
            title=f"similarity, {metric}", tickCount=4, titleFontSize=11, labelBound=True
        ),
    )
    y = alt.Y(
        "relative:Q",
        # No label at the very top: it would push its panel's title up, and its neighbours' not.
        scale=alt.Scale(nice=False, padding=10),
        axis=alt.Axis(title="error reduction, %", tickCount=4, titleFontSize=11, labelBound=True),
    )
    points = alt.Chart().transform_filter("datum.mark === 'point'")
    fill: Any = alt.value("white")
    shape: dict[str, Any] = {}
    if families:
        names = ["own family", "another family"]
        legend = alt.Legend(title="source is of", orient="top", direction="horizontal")
        fill = alt.Fill(
            "kin:N", scale=alt.Scale(domain=names, range=[theme.GAIN, "white"]), legend=legend
        )
        shape["shape"] = alt.Shape(
            "kin:N", scale=alt.Scale(domain=names, range=["diamond", "circle"]), legend=legend
        )
    return [
        alt.Chart()
        .transform_filter("datum.mark === 'point'")
        .mark_rule(color=theme.FAINT)
        .encode(y=alt.datum(0)),
        alt.Chart()
        .transform_filter("datum.mark === 'line'")
        .mark_line(color=theme.SOFT, strokeWidth=1, strokeDash=[4, 3])
        .encode(x=x, y=y),
        points.mark_point(size=42, stroke=theme.INK, strokeWidth=0.9, opacity=0.9).encode(
            x=x,
            y=y,
            fill=fill,
            **shape,
            tooltip=[
                alt.Tooltip("source:N", title="source"),
                alt.Tooltip("similarity:Q", title="similarity", format=".3f"),
                alt.Tooltip("gain:N", title="error reduction"),
            ],
        ),
    ]


def _statistics(c: Correlation) -> str:
    if math.isnan(c.r):
        return f"no r: {len(c.points)} points"
    return f"r = {number(c.r, 2)}, {p_value(c.p)}"


def _line(c: Correlation) -> list[dict[str, float]]:
    """Return the least squares line's two ends."""
    if math.isnan(c.r):
        return []
    x = np.array([p.similarity for p in c.points])
    y = np.array([p.relative for p in c.points])
    slope, offset = np.polyfit(x, y, 1)
    return [
        {"similarity": float(at), "relative": float(slope * at + offset)}
        for at in (x.min(), x.max())
    ]
