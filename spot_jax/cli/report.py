"""`spot report`: a study's results as one HTML page, with its tables and figures."""

from collections.abc import Sequence

from spot_jax.cli.flags import parser
from spot_jax.errors import require_extra


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot report --help`."""
    flags = parser(
        "report",
        "Write what a study found as one HTML page that needs no network: transfer of sources to\n"
        "targets, task embeddings, similarity against transfer, ways to choose a source, learning\n"
        "curves, and where each prompt came from. The tables go beside it as CSV and JSON, the\n"
        "figures as SVG. A study that is not finished is reported as far as it is.",
    )
    flags.add_argument("study", metavar="STUDY_DIR", help="what `spot study` wrote")
    flags.add_argument("--output_dir", metavar="DIR", help="where to write (default: STUDY_DIR)")
    values = flags.parse_args(list(arguments))
    require_extra("report", "spot report")

    from spot_jax.report.transfer import write_report
    from spot_jax.studies.engine.results import results_path
    from spot_jax.studies.transfer.results import TransferResults

    results = TransferResults.read(values.study)
    print(write_report(results, values.output_dir or results_path(values.study).parent))
    return 0
