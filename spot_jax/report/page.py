"""The page: text around the figures and tables, in one HTML file."""

import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from spot_jax.report import vega
from spot_jax.report.labels import SIMILARITIES, count, number, short_names, span
from spot_jax.report.tables import Table, one_backbone
from spot_jax.studies.transfer.analysis import Analysis, mean_correlation
from spot_jax.studies.transfer.method_table import BEST_OF_TOP_K, ONE_SOURCE, ORACLE
from spot_jax.studies.transfer.published import Printed
from spot_jax.version import __version__


def page(
    analysis: Analysis,
    figures: Mapping[str, dict[str, Any]],
    tables: Mapping[str, Table],
    printed: Printed | None = None,
) -> str:
    """The report as one HTML document that loads nothing.

    Args:
        analysis: of the study.
        figures: Vega-Lite specifications by name; a figure that is missing is told of in a
            sentence.
        tables: by name.
        printed: what a paper printed about the same data.
    """
    return rendered(
        "page.html",
        analysis=analysis,
        results=analysis.results,
        figures=figures,
        tables=tables,
        printed=printed,
        summary=summary(analysis),
        facts=facts(analysis),
        metric_names=SIMILARITIES,
        one_backbone=one_backbone(analysis.results),
        count=count,
        span=span,
    )


def rendered(template: str, **values: Any) -> str:
    """A page of this package's templates, its script and style within."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": lambda v: number(v, sign=True), "number": number}
    return environment.get_template(template).render(
        style=_source("page.css"),
        script=vega.javascript(),
        specification=_for_script,
        version=__version__,
        **values,
    )


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _for_script(value: Any) -> str:
    """JSON that can stand in a script element whatever texts are in it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def facts(analysis: Analysis) -> list[str]:
    """The line under the title."""
    results = analysis.results
    made = [count(len(results.sources), "source"), count(len(results.targets), "target")]
    known = [seed for seed in analysis.cells.seeds if seed is not None]
    made.append(count(len(known), "seed") if known else "means over seeds")
    if results.backbone:
        name = results.backbone
        made.append("backbone " + (name if len(name) < 40 else name[:12]))
    return [*made, results.metric, f"reported on {results.split}"]


def summary(analysis: Analysis) -> list[str]:
    """What was found, a sentence each; also where transfer does not help."""
    return [
        text
        for text in (_pairs(analysis), *_methods(analysis), _similarity(analysis))
        if text is not None
    ]


def _pairs(analysis: Analysis) -> str | None:
    known = np.array([p.relative for p in analysis.pairs if not math.isnan(p.relative)])
    if not len(known):
        return None
    up, down = int((known > 0).sum()), int((known < 0).sum())
    label = short_names((*analysis.results.targets, *analysis.results.sources))
    unhelped = [label[t.target] for t in analysis.targets if t.sources and not t.helped]
    text = (
        f"Of {count(len(known), 'pair')} of a source and a target, the mean score is above tuning "
        f"from scratch in {up} and below in {down}; the median relative error reduction is "
        f"{number(float(np.median(known)), sign=True)}%."
    )
    if unhelped:
        text += f" No source helps {', '.join(unhelped)}."
    return text


def _methods(analysis: Analysis) -> list[str]:
    said = []
    rows = analysis.methods
    tops = [r for r in rows if r.method == BEST_OF_TOP_K and r.k == 1]
    for row in tops:
        if not math.isnan(row.absolute.mean):
            said.append(
                "To begin from the most similar source "
                f"({SIMILARITIES[row.similarity or '']}) changes the mean score by "
                f"{_estimate(row.absolute)}."
            )
    for row in rows:
        if row.method == ONE_SOURCE and row.chosen:
            names = sorted({name for picked in row.chosen.values() for name in picked})
            label = short_names(analysis.results.sources)
            which = ", ".join(label[name] for name in names[:3])
            more = " and others" if len(names) > 3 else ""
            said.append(
                f"One source for all targets, chosen on the other targets ({which}{more}), "
                f"changes it by {_estimate(row.absolute)}: what retrieval has to beat."
            )
        elif row.method == ORACLE and not math.isnan(row.absolute.mean):
            said.append(
                f"To try all {count(row.k or 0, 'source prompt')} and keep the best on "
                f"{'validation' if row.picked_on == 'validation' else 'the reported split'} "
                f"changes it by {_estimate(row.absolute)}."
            )
    return said


def _estimate(found: Any) -> str:
    interval = span(found.low, found.high)
    text = number(found.mean, sign=True)
    return f"{text} (95% interval {interval})" if interval else text


def _similarity(analysis: Analysis) -> str | None:
    parts = []
    for metric, rows in analysis.correlations.items():
        known = [c for c in rows if not math.isnan(c.r)]
        if not known:
            continue
        r = mean_correlation(known)
        interval = span(r.low, r.high, 2)
        clear = sum(c.p < 0.05 for c in known)
        parts.append(
            f"{number(r.mean, 2, sign=True)} by {SIMILARITIES[metric]}"
            + (f" (95% interval {interval})" if interval else "")
            + f", with p < 0.05 on {clear} of {len(known)} targets"
        )
    if not parts:
        return None
    return (
        "The correlation of similarity and relative error reduction, mean over targets, is "
        + "; ".join(parts)
        + "."
    )
