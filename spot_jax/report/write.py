"""Writes a report: a page that loads nothing, its tables and its figures.

DIRECTORY/index.html          everything, in one file
DIRECTORY/tables.json         every table
DIRECTORY/tables/NAME.csv     a table
DIRECTORY/figures/NAME.svg    a figure
"""

import json
import os
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from etils import epath

from spot_jax.files import write_whole
from spot_jax.report import vega
from spot_jax.report.labels import number
from spot_jax.report.tables import Table, tables_json
from spot_jax.version import __version__

PAGE = "index.html"


def write_page(
    directory: str | os.PathLike[str],
    page: str,
    tables: Mapping[str, Table],
    figures: Mapping[str, dict[str, Any]],
) -> epath.Path:
    """Write a report into a directory, made if need be; return the page's path.

    Args:
        directory: path of the report; files of an earlier report are replaced.
        page: page as HTML.
        tables: tables by name; those that have rows.
        figures: Vega-Lite specifications by name.
    """
    place = epath.Path(directory)
    for table in tables.values():
        write_whole(place / "tables" / f"{table.name}.csv", table.csv())
    write_whole(place / "tables.json", tables_json(list(tables.values())))
    for name, specification in figures.items():
        write_whole(place / "figures" / f"{name}.svg", vega.svg(specification))
    path = place / PAGE
    write_whole(path, page)
    return path


def rendered(template: str, **values: Any) -> str:
    """Return a page of this package's templates, its script and style within."""
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
