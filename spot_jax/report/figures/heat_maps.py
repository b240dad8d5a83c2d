"""Heat maps: transfer of sources to targets, and similarity of task embeddings."""

import math
from typing import Any

import altair as alt
import numpy as np

from spot_jax.report.figures import theme
from spot_jax.report.labels import SIMILARITIES, number, short_names, with_sd
from spot_jax.studies.transfer.analysis import CLIP, Analysis, EmbeddingMap
from spot_jax.studies.transfer.clustering import Tree

WIDEST = 820
TREE_WIDTH = 90
LETTER = 6.5  # width of a letter of a label, about


def transfer_map(analysis: Analysis) -> dict[str, Any]:
    """Plot relative error reduction of every pair; rows are sources, columns targets, clustered."""
    results = analysis.results
    label = short_names((*results.sources, *results.targets))
    sources = [label[results.sources[i]] for i in analysis.source_tree.order]
    targets = [label[results.targets[i]] for i in analysis.target_tree.order]
    width = _column(targets)
    height = _step(len(sources), 18, 28)
    data = []
    for pair in analysis.pairs:
        defined = not math.isnan(pair.relative)
        data.append(
            {
                "source": label[pair.source],
                "target": label[pair.target],
                "value": max(-CLIP, min(CLIP, pair.relative)) if defined else None,
                "text": _cell_text(pair.relative, width) if defined else "·",
                "dark": defined
                and theme.is_dark(theme.DIVERGING, (pair.relative + CLIP) / (2 * CLIP)),
                "relative": f"{number(pair.relative, sign=True)}%" if defined else "not run",
                "score": with_sd(pair.score, pair.sd),
                "scratch": number(analysis.table.baseline(pair.target)),
                "change": number(pair.change, sign=True),
                **{m: number(v, 2) for m, v in pair.similarity.items()},
            }
        )
    tooltip = [
        alt.Tooltip("source:N", title="source"),
        alt.Tooltip("target:N", title="target"),
        alt.Tooltip("relative:N", title="relative error reduction"),
        alt.Tooltip("score:N", title="score from the source"),
        alt.Tooltip("scratch:N", title="score from scratch"),
        alt.Tooltip("change:N", title="change"),
        *[
            alt.Tooltip(f"{m}:N", title=f"similarity, {SIMILARITIES[m]}")
            for m in analysis.correlations
        ],
    ]
    color = alt.Color(
        "value:Q",
        scale=alt.Scale(
            domain=[-CLIP, -CLIP / 2, 0, CLIP / 2, CLIP],
            range=theme.DIVERGING,
            interpolate=theme.INTERPOLATE,
            clamp=True,
        ),
        legend=alt.Legend(
            title=f"relative error reduction, % (colours end at ±{CLIP:.0f})",
            orient="bottom",
            direction="horizontal",
            gradientLength=260,
            gradientThickness=10,
            values=[-CLIP, 0, CLIP],
            labelExpr=(
                "(datum.value > 0 ? '≥ +' : datum.value < 0 ? '≤ −' : '') + abs(datum.value)"
            ),
        ),
    )
    chart = _grid(data, ("source", sources), ("target", targets), (width, height), color, tooltip)
    return theme.finish(chart, "Relative error reduction of each target from each source")


def embedding_map(map_: EmbeddingMap) -> dict[str, Any]:
    """Plot the similarity of task embeddings, rows and columns clustered, the tree at the left."""
    label = short_names(map_.names)
    if len(set(label.values())) < len(label):
        label = {name: name for name in map_.names}
    order = [label[map_.names[i]] for i in map_.tree.order]
    values = map_.values
    others = values[~np.eye(len(values), dtype=bool)]
    defined = others[np.isfinite(others)]
    low, high = (float(defined.min()), float(defined.max())) if len(defined) else (0.0, 1.0)
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    step = _step(len(order), 9, 36)
    data = []
    for i, a in enumerate(map_.names):
        for j, b in enumerate(map_.names):
            value = float(values[i, j])
            known_here = math.isfinite(value)
            data.append(
                {
                    "one": label[a],
                    "other": label[b],
                    "value": round(value, 4) if known_here else None,
                    "text": _similarity_text(value, step) if known_here else "",
                    "dark": known_here
                    and theme.is_dark(theme.SEQUENTIAL, (value - low) / (high - low)),
                    "similarity": number(value, 3) if known_here else "itself",
                }
            )
    tooltip = [
        alt.Tooltip("one:N", title="task"),
        alt.Tooltip("other:N", title="task"),
        alt.Tooltip("similarity:N", title="similarity"),
    ]
    color = alt.Color(
        "value:Q",
        scale=alt.Scale(
            domain=list(np.linspace(low, high, 5)),
            range=theme.SEQUENTIAL,
            interpolate=theme.INTERPOLATE,
            clamp=True,
        ),
        legend=alt.Legend(
            title=f"cosine similarity, {SIMILARITIES[map_.metric]}",
            orient="bottom",
            direction="horizontal",
            gradientLength=260,
            gradientThickness=10,
            format=".2f",
            tickCount=5,
        ),
    )
    grid = _grid(data, ("one", order), ("other", order), (step, step), color, tooltip)
    if not map_.tree.branches:
        return theme.finish(grid, "Similarity of task embeddings")
    tree = _dendrogram(map_.tree, step * len(order))
    chart = alt.hconcat(tree, grid, spacing=6)
    return theme.finish(chart, "Similarity of task embeddings, with their clustering")


def _step(cells: int, smallest: int, largest: int) -> int:
    return int(max(smallest, min(largest, WIDEST / max(cells, 1))))


def _column(names: list[str]) -> int:
    """Width of a column: its name's if all fit so, else as much as fits."""
    wide = int(LETTER * max(map(len, names), default=0)) + 10
    width = wide if wide * len(names) <= WIDEST else _step(len(names), 12, 52)
    return max(width, 52) if len(names) <= 12 else width


def _font(step: int) -> int:
    return int(max(7, min(11, step - 2)))


def _cell_text(value: float, width: int) -> str:
    """Return the value if it fits, else its sign; gains and losses differ without colour."""
    if width >= 24:
        return number(value, 0, sign=True)
    return "" if abs(value) < 0.5 else "+" if value > 0 else "−"


def _similarity_text(value: float, step: int) -> str:
    return number(value, 2).replace("0.", ".") if step >= 23 else ""


def _grid(
    data: list[dict[str, Any]],
    down: tuple[str, list[str]],
    across: tuple[str, list[str]],
    step: tuple[int, int],
    color: alt.Color,
    tooltip: list[alt.Tooltip],
) -> theme.Chart:
    """Draw cells with their values in them."""
    steep = max((len(name) for name in across[1]), default=0) * LETTER > step[0]
    angle = (-60 if step[0] >= 18 else -90) if steep else 0
    plain: dict[str, Any] = {
        "title": None,
        "ticks": False,
        "domain": False,
        "labelPadding": 4,
        "labelLimit": 220,
        "labelOverlap": False,
    }
    top = alt.Axis(
        orient="top",
        labelAngle=angle,
        labelAlign="left" if steep else "center",
        labelBaseline="middle" if angle == -90 else "bottom",
        labelFontSize=_font(step[0]),
        **plain,
    )
    side = alt.Axis(labelFontSize=_font(step[1]), **plain)
    base = alt.Chart(theme.rows(data)).encode(
        x=alt.X(f"{across[0]}:N", sort=across[1], scale=alt.Scale(domain=across[1]), axis=top),
        y=alt.Y(f"{down[0]}:N", sort=down[1], scale=alt.Scale(domain=down[1]), axis=side),
    )
    line: dict[str, Any] = {"stroke": "white", "strokeWidth": 1} if step[0] >= 12 else {}
    defined = base.transform_filter("isValid(datum.value)")
    missing = base.transform_filter("!isValid(datum.value)")
    layers = [
        missing.mark_rect(color=theme.EMPTY, **line).encode(tooltip=tooltip),
        defined.mark_rect(**line).encode(color=color, tooltip=tooltip),
    ]
    if any(row["text"] for row in data):
        size = 11 if min(step[0] / 2.4, step[1]) >= 14 else 9 if step[0] >= 23 else 8
        layers.append(
            base.mark_text(fontSize=size, baseline="middle", tooltip=None).encode(
                text="text:N",
                color=alt.condition("datum.dark", alt.value("white"), alt.value(theme.INK)),
            )
        )
    return alt.layer(*layers).properties(
        width=step[0] * len(across[1]), height=step[1] * len(down[1])
    )


def _dendrogram(tree: Tree, height: int) -> theme.Chart:
    data = [
        {"branch": i, "point": j, "place": place, "distance": round(distance, 4)}
        for i, branch in enumerate(tree.branches)
        for j, (place, distance) in enumerate(branch)
    ]
    leaves = len(tree.order)
    highest = max(distance for branch in tree.branches for _, distance in branch)
    ticks = [0, round(highest, 1)] if highest >= 0.1 else [0]
    return (
        alt.Chart(theme.rows(data))
        .mark_line(color=theme.SOFT, strokeWidth=1)
        .encode(
            x=alt.X(
                "distance:Q",
                scale=alt.Scale(reverse=True, nice=False, zero=True),
                axis=alt.Axis(orient="top", title="1 − similarity", values=ticks, titleFontSize=10),
            ),
            y=alt.Y(
                "place:Q",
                scale=alt.Scale(domain=[leaves - 0.5, -0.5], nice=False),
                axis=None,
            ),
            detail="branch:N",
            order="point:Q",
        )
        .properties(width=TREE_WIDTH, height=height)
    )
