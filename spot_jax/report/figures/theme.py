"""What all figures share: type, ink, colours that also differ in grey."""

from collections.abc import Mapping
from typing import Any, Literal

import altair as alt

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
INK = "#1c1c1c"
SOFT = "#6b6b6b"
FAINT = "#dcdcdc"
EMPTY = "#f1f1f1"

# Losses go to a dark blue and gains to a light orange, so that grey tells them apart too.
LOSS = "#1f4e79"
GAIN = "#e8822a"
DIVERGING = [LOSS, "#7fa3c4", "#ffffff", "#f7c599", GAIN]
SEQUENTIAL = ["#fbfbfa", "#cfdbe6", "#86a9c6", "#3f729f", "#12365a"]

# Where colours come from pairs of these, in RGB: other ways between them leave their hues.
INTERPOLATE: Literal["rgb"] = "rgb"

Chart = Any  # Altair's charts have no common public type


def rows(values: list[dict[str, Any]]) -> alt.Data:
    """Return data that travel inside the chart."""
    return alt.Data(values=values)


def line_styles(
    field: str, styles: Mapping[str, tuple[str, list[int]]], legend: alt.Legend
) -> tuple[alt.Color, alt.StrokeDash]:
    """Return kinds of lines by colour and by dashes, in one legend: they differ in grey print.

    Args:
        field: name of the field that holds a line's kind.
        styles: colour and dashes of each kind, in the legend's order.
        legend: legend of both.
    """
    names = list(styles)
    colors, dashes = zip(*styles.values(), strict=True) if styles else ((), ())
    return (
        alt.Color(field, scale=alt.Scale(domain=names, range=list(colors)), legend=legend),
        alt.StrokeDash(field, scale=alt.Scale(domain=names, range=list(dashes)), legend=legend),
    )


def is_dark(palette: list[str], place: float) -> bool:
    """Return whether white is easier to read than ink on a palette's colour at a place from 0 to
    1."""
    at = max(0.0, min(1.0, place)) * (len(palette) - 1)
    left = min(int(at), len(palette) - 2)
    mixed = [
        int(a, 16) * (left + 1 - at) + int(b, 16) * (at - left)
        for a, b in ((palette[left][i : i + 2], palette[left + 1][i : i + 2]) for i in (1, 3, 5))
    ]
    red, green, blue = ((v / 255) ** 2.2 for v in mixed)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.22


def finish(chart: Chart, description: str) -> dict[str, Any]:
    """Return the chart as a Vega-Lite specification in the report's style.

    Args:
        chart: Altair chart.
        description: text for screen readers on what it shows.
    """
    text = {"labelFont": FONT, "titleFont": FONT, "labelColor": INK, "titleColor": INK}
    finished = (
        chart.properties(description=description, background="white", padding=4)
        .configure(font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            **text,
            titleFontWeight="normal",
            titleFontSize=12,
            labelFontSize=11,
            grid=False,
            domainColor=SOFT,
            tickColor=SOFT,
            titlePadding=8,
        )
        .configure_header(**text, labelFontSize=12, labelFontWeight="bold", titleFontSize=12)
        .configure_legend(
            **text, titleFontWeight="normal", titleFontSize=12, labelFontSize=11, titleLimit=500
        )
        .configure_text(font=FONT)
    )
    specification = finished.to_dict()
    del specification["$schema"]  # an address, which this page has no use for
    return specification
