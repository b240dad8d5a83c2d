"""Writes a report: the page, its tables and its figures.

DIRECTORY/index.html          everything, in one file
DIRECTORY/tables.json         every table
DIRECTORY/tables/NAME.csv     a table
DIRECTORY/figures/NAME.svg    a figure
"""

import os
from typing import Any

from etils import epath

from spot_jax.report import vega
from spot_jax.report.figures.curves import learning_curves
from spot_jax.report.figures.heat_maps import embedding_map, transfer_map
from spot_jax.report.figures.intervals import method_intervals
from spot_jax.report.figures.scatter import similarity_scatter
from spot_jax.report.page import page
from spot_jax.report.tables import all_tables, tables_json
from spot_jax.studies.transfer.analysis import Analysis, analyse
from spot_jax.studies.transfer.published import Printed
from spot_jax.studies.transfer.results import StudyResults

PAGE = "index.html"
MOST_RUNS = 120  # rows of the map of single runs; more would be a megabyte of specks


def write_report(
    results: StudyResults, directory: str | os.PathLike[str], *, printed: Printed | None = None
) -> epath.Path:
    """Writes the report into a directory, made if need be; returns the page's path.

    Args:
        results: a study, finished or half-way.
        directory: where; files of an earlier report there are replaced.
        printed: what a paper printed about the same data, to be shown beside it.
    """
    place = epath.Path(directory)
    analysis = analyse(results)
    drawn = figures(analysis, printed)
    tables = all_tables(analysis, printed)
    for name in ("tables", "figures"):
        (place / name).mkdir(parents=True, exist_ok=True)
    for table in tables.values():
        (place / "tables" / f"{table.name}.csv").write_text(table.csv())
    (place / "tables.json").write_text(tables_json(list(tables.values())))
    for name, specification in drawn.items():
        (place / "figures" / f"{name}.svg").write_text(vega.svg(specification))
    path = place / PAGE
    path.write_text(page(analysis, drawn, tables, printed))
    return path


def figures(analysis: Analysis, printed: Printed | None = None) -> dict[str, dict[str, Any]]:
    """Every figure that the study has data for, by name, as Vega-Lite."""
    made: dict[str, dict[str, Any] | None] = {"methods": method_intervals(analysis, printed)}
    if any(target.sources for target in analysis.targets):
        made["transfer"] = transfer_map(analysis)
    for metric, found in analysis.embeddings.items():
        made[f"embeddings_{metric}"] = embedding_map(found)
    for metric, found in analysis.embedding_runs.items():
        if len(found.names) <= MOST_RUNS:
            made[f"embedding_runs_{metric}"] = embedding_map(found)
    for metric, rows in analysis.correlations.items():
        if any(row.points for row in rows):
            made[f"similarity_{metric}"] = similarity_scatter(analysis.results, rows)
    if analysis.results.curves:
        made["curves"] = learning_curves(analysis)
    return {name: figure for name, figure in made.items() if figure is not None}
