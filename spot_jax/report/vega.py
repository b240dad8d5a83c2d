"""Vega without a network: the JavaScript that draws figures on the page, and figures as SVG."""

import functools
from typing import Any

import altair as alt
import vl_convert

# The Vega-Lite that Altair writes for, as vl-convert names versions ("6.1").
VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


@functools.cache
def javascript() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which sets `window.vegaEmbed`."""
    # The stub asks for a snippet; without one the bundle sets window.vegaEmbed.
    bundle: str = vl_convert.javascript_bundle(vl_version=VERSION)  # type: ignore[call-arg]
    # In a function, so that its names stay its own.
    return "(() => {\n" + bundle.replace("</script", "<\\/script") + "\n})();"


def svg(specification: dict[str, Any]) -> str:
    """Return a figure as SVG."""
    return vl_convert.vegalite_to_svg(specification, vl_version=VERSION)


def png(specification: dict[str, Any], scale: float = 1.5) -> bytes:
    """Return a figure as PNG."""
    return vl_convert.vegalite_to_png(specification, vl_version=VERSION, scale=scale)
