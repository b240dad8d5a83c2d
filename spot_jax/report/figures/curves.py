"""Learning curves, a panel a target."""

from collections import defaultdict
from typing import Any

import altair as alt

from spot_jax.report.figures import theme
from spot_jax.report.labels import method_name, short_names
from spot_jax.studies.transfer.analysis import Analysis
from spot_jax.studies.transfer.results import MULTITASK_MIXTURE, SCRATCH, TRANSFER, WEIGHTED_AVERAGE
from spot_jax.studies.transfer.score_table import mean

COLUMNS = 3
PANEL = (275, 170)
MOST_STEPS = 60

BEST = "from the source with the best mean"
OTHER = "from another source"
STYLES = {  # name: colour, width, dashes; later ones are drawn over earlier ones
    OTHER: ("#b9b9b9", 0.8, [1, 0]),
    "multi-task mixture": (theme.LOSS, 1.5, [2, 2]),
    "weighted average": (theme.LOSS, 1.5, [7, 3]),
    BEST: (theme.GAIN, 2.4, [1, 0]),
    "from scratch": (theme.INK, 2.0, [5, 2]),
}


def learning_curves(analysis: Analysis) -> dict[str, Any]:
    """Plot the validation score by step, a line the mean over seeds."""
    results = analysis.results
    label = short_names((*results.sources, *results.targets))
    best = {t.target: t.best_source for t in analysis.targets}
    lines: dict[tuple, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for curve in results.curves:
        key = (curve.target, curve.method, curve.source, curve.k)
        for step, value in zip(curve.steps, curve.validation, strict=True):
            lines[key][step].append(value)
    data: list[dict[str, Any]] = []
    for (target, method, source, k), by_step in lines.items():
        steps = sorted(by_step)
        keep = steps[:: max(1, -(-len(steps) // MOST_STEPS))]
        name = method_name(method, k) if source is None else f"from {label[source]}"
        for step in [*keep, *([steps[-1]] if keep[-1] != steps[-1] else [])]:
            data.append(
                {
                    "target": label[target],
                    "line": name,
                    "kind": _kind(method, source == best.get(target)),
                    "step": step,
                    "validation": mean(by_step[step]),
                }
            )
    order = [label[t] for t in results.targets]
    chart = (
        alt.layer(*_layers({row["kind"] for row in data}, len(data)), data=theme.rows(data))
        .properties(width=PANEL[0], height=PANEL[1])
        .facet(
            facet=alt.Facet(
                "target:N",
                sort=order,
                title=None,
                header=alt.Header(labelAlign="left", labelAnchor="start"),
            ),
            columns=COLUMNS,
        )
        .resolve_scale(x="independent", y="independent")
        .properties(bounds="flush", align="all", spacing={"row": 72, "column": 62})
    )
    return theme.finish(chart, "Validation score by step, of each target")


def _kind(method: str, best: bool) -> str:
    names = {
        SCRATCH: "from scratch",
        WEIGHTED_AVERAGE: "weighted average",
        MULTITASK_MIXTURE: "multi-task mixture",
    }
    return (BEST if best else OTHER) if method == TRANSFER else names[method]


def _layers(present: set[str], size: int) -> list[theme.Chart]:
    names = [name for name in STYLES if name in present]
    legend = alt.Legend(
        title=None, orient="top", direction="horizontal", symbolSize=260, labelLimit=320
    )
    x = alt.X("step:Q", axis=alt.Axis(title="step", tickCount=4, format="~s"))
    y = alt.Y(
        "validation:Q",
        scale=alt.Scale(zero=False, nice=False, padding=10),
        axis=alt.Axis(title="validation score", tickCount=4, labelBound=True),
    )
    tooltip = [
        alt.Tooltip("target:N"),
        alt.Tooltip("line:N", title="begun"),
        alt.Tooltip("step:Q"),
        alt.Tooltip("validation:Q", format=".2f"),
    ]
    color, dash = theme.line_styles(
        "kind:N", {name: (STYLES[name][0], STYLES[name][2]) for name in names}, legend
    )
    layers = []
    for name in names:  # a layer a kind: the important lines on top
        of_kind = alt.Chart().transform_filter(f"datum.kind === {name!r}")
        layers.append(
            of_kind.mark_line(strokeWidth=STYLES[name][1]).encode(
                x=x, y=y, color=color, strokeDash=dash, detail="line:N", tooltip=tooltip
            )
        )
    if size <= 20_000:  # something to hover over at every step
        spots = alt.Chart().mark_circle(size=60, opacity=0)
        layers.append(spots.encode(x=x, y=y, tooltip=tooltip))
    return layers
