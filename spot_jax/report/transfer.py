"""The report of a transfer study."""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from spot_jax.report.figures.curves import learning_curves
from spot_jax.report.figures.heat_maps import embedding_map, transfer_map
from spot_jax.report.figures.intervals import method_intervals
from spot_jax.report.figures.scatter import similarity_scatter
from spot_jax.report.labels import SIMILARITIES, count, number, p_value, short_names, span
from spot_jax.report.tables import Table, all_tables, one_backbone
from spot_jax.report.write import rendered, write_page
from spot_jax.studies.transfer.analysis import Analysis, analyse, mean_correlation
from spot_jax.studies.transfer.method_table import BEST_OF_TOP_K, ONE_SOURCE, ORACLE
from spot_jax.studies.transfer.published import Printed
from spot_jax.studies.transfer.results import TransferResults

MOST_RUNS = 120  # rows of the map of single runs; more would be a megabyte of specks


def write_report(
    results: TransferResults, directory: str | os.PathLike[str], *, printed: Printed | None = None
) -> epath.Path:
    """Write the report into a directory, made if need be; return the page's path.

    Args:
        results: results of a study, finished or half-way.
        directory: path of the report; files of an earlier report are replaced.
        printed: values that a paper printed about the same data, to show beside it.
    """
    analysis = analyse(results)
    drawn, tables = figures(analysis, printed), all_tables(analysis, printed)
    return write_page(directory, page(analysis, drawn, tables, printed), tables, drawn)


def page(
    analysis: Analysis,
    figures: Mapping[str, dict[str, Any]],
    tables: Mapping[str, Table],
    printed: Printed | None = None,
) -> str:
    """Return the report as one HTML document that loads nothing.

    Args:
        analysis: analysis of the study.
        figures: Vega-Lite specifications by name; a sentence stands for a missing figure.
        tables: tables by name.
        printed: values that a paper printed about the same data.
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


def figures(analysis: Analysis, printed: Printed | None = None) -> dict[str, dict[str, Any]]:
    """Return every figure that the study has data for, by name, as Vega-Lite."""
    drawn: dict[str, dict[str, Any] | None] = {"methods": method_intervals(analysis, printed)}
    if any(target.sources for target in analysis.targets):
        drawn["transfer"] = transfer_map(analysis)
    for metric, map_ in analysis.embeddings.items():
        drawn[f"embeddings_{metric}"] = embedding_map(map_)
    for metric, map_ in analysis.embedding_runs.items():
        if len(map_.names) <= MOST_RUNS:
            drawn[f"embedding_runs_{metric}"] = embedding_map(map_)
    for metric, rows in analysis.correlations.items():
        if any(row.points for row in rows):
            drawn[f"similarity_{metric}"] = similarity_scatter(analysis.results, rows)
    if analysis.results.curves:
        drawn["curves"] = learning_curves(analysis)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def facts(analysis: Analysis) -> list[str]:
    """Return the line under the title."""
    results = analysis.results
    parts = [count(len(results.sources), "source"), count(len(results.targets), "target")]
    seeds = [seed for seed in analysis.table.seeds if seed is not None]
    parts.append(count(len(seeds), "seed") if seeds else "means over seeds")
    if results.backbone:
        name = results.backbone
        parts.append("backbone " + (name if len(name) < 40 else name[:12]))
    return [*parts, results.metric, f"reported on {results.split}"]


def summary(analysis: Analysis) -> list[str]:
    """Return the findings, a sentence each; also where transfer does not help."""
    return [
        text
        for text in (_pairs(analysis), *_methods(analysis), _similarity(analysis))
        if text is not None
    ]


def _pairs(analysis: Analysis) -> str | None:
    gains = np.array([p.relative for p in analysis.pairs if not math.isnan(p.relative)])
    if not len(gains):
        return None
    up, down = int((gains > 0).sum()), int((gains < 0).sum())
    label = short_names((*analysis.results.targets, *analysis.results.sources))
    unhelped = [label[t.target] for t in analysis.targets if t.sources and not t.helped]
    text = (
        f"Of {count(len(gains), 'pair')} of a source and a target, the mean score is above tuning "
        f"from scratch in {up} and below in {down}; the median relative error reduction is "
        f"{number(float(np.median(gains)), sign=True)}%."
    )
    if unhelped:
        text += f" No source helps {', '.join(unhelped)}."
    return text


def _methods(analysis: Analysis) -> list[str]:
    sentences = []
    rows = analysis.methods
    tops = [r for r in rows if r.method == BEST_OF_TOP_K and r.k == 1]
    for row in tops:
        if not math.isnan(row.absolute.mean):
            sentences.append(
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
            sentences.append(
                f"One source for all targets, chosen on the other targets ({which}{more}), "
                f"changes it by {_estimate(row.absolute)}: what retrieval has to beat."
            )
        elif row.method == ORACLE and not math.isnan(row.absolute.mean):
            sentences.append(
                f"To try all {count(row.k or 0, 'source prompt')} and keep the best on "
                f"{'validation' if row.picked_on == 'validation' else 'the reported split'} "
                f"changes it by {_estimate(row.absolute)}."
            )
    return sentences


def _estimate(estimate: Any) -> str:
    interval = span(estimate.low, estimate.high)
    text = number(estimate.mean, sign=True)
    return f"{text} (95% interval {interval})" if interval else text


def _similarity(analysis: Analysis) -> str | None:
    parts = []
    for metric, rows in analysis.correlations.items():
        defined = [c for c in rows if not math.isnan(c.r)]
        if not defined:
            continue
        r = mean_correlation(defined)
        interval = span(r.low, r.high, 2)
        clear = sum(c.p < 0.05 for c in defined)
        pooled = analysis.pooled[metric]
        parts.append(
            f"{number(r.mean, 2, sign=True)} by {SIMILARITIES[metric]}"
            + (f" (95% interval {interval})" if interval else "")
            + f", with p < 0.05 on {clear} of {len(defined)} targets; over all pairs, each "
            f"target’s mean taken out, {number(pooled.r, 2, sign=True)} ({p_value(pooled.p)})"
        )
    if not parts:
        return None
    return (
        "The correlation of similarity and relative error reduction, mean over targets, is "
        + "; ".join(parts)
        + "."
    )
