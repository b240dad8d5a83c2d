"""`spot study`: sources x targets x seeds, every way to begin, one set of results and a report."""

from collections.abc import Sequence

from spot_jax.cli.studies import run_study, study_parser
from spot_jax.errors import SpotError, require_extra

EXAMPLE = "gin_configs/studies/mini.gin"


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot study --help`."""
    flags = study_parser(
        "study",
        "Tune prompts on every source, every target from each of them and in other ways, and\n"
        "report what helps.",
        EXAMPLE,
    )
    flags.usage = f"{flags.usage}\n       spot study --from_paper --output_dir=DIR"
    flags.add_argument("--from_paper", action="store_true", help="report the paper's own scores")
    flags.add_argument("--output_dir", metavar="DIR", help="of --from_paper")
    if "--from_paper" in arguments:
        return _from_paper(flags.parse_args(list(arguments)).output_dir)
    return run_study("study", "study", flags, arguments, EXAMPLE)


def _from_paper(directory: str | None) -> int:
    if directory is None:
        raise SpotError("--from_paper writes a report: add --output_dir=DIR")
    require_extra("report", "--from_paper")

    from spot_jax.report.published import write

    print(write(directory))
    return 0
