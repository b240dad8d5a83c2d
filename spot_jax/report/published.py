"""The report over the SPoT paper's own published scores."""

import os

from etils import epath

from spot_jax.report.transfer import write_report
from spot_jax.studies.transfer.published import paper_results, printed


def write(directory: str | os.PathLike[str]) -> epath.Path:
    """Write the paper's results.json and its report into a directory; return the page's path."""
    results = paper_results()
    results.write(directory)
    return write_report(results, directory, printed=printed())
