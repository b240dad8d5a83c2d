"""`spot report`: a study's results as one HTML page, with its tables and figures."""

from collections.abc import Sequence

from spot_jax.cli.flags import parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot report --help`."""
    made = parser(
        "report",
        "Write what a study found as one HTML page that needs no network: transfer of sources to\n"
        "targets, task embeddings, similarity against transfer, ways to choose a source, learning\n"
        "curves, and where each prompt came from. The tables go beside it as CSV and JSON, the\n"
        "figures as SVG. A study that is not finished is reported as far as it is.",
    )
    made.add_argument("study", metavar="STUDY_DIR", help="what `spot study` wrote")
    made.add_argument("--output_dir", metavar="DIR", help="where to write (default: STUDY_DIR)")
    given = made.parse_args(list(arguments))

    from spot_jax.report.write import write_report
    from spot_jax.studies.transfer.results import read_results, results_path

    results = read_results(given.study)
    output = given.output_dir or results_path(given.study).parent
    print(write_report(results, output))
    return 0
