"""`spot intrinsic`: subspaces of prompts from many tasks, tasks tuned in them, and the report."""

from collections.abc import Sequence

from spot_jax.cli.flags import parser
from spot_jax.cli.studies import run_study, study_parser
from spot_jax.errors import SpotError

EXAMPLE = "gin_configs/studies/intrinsic_mini.gin"
# Kinds of jobs that find subspaces, as `studies.subspace.study` has them.
FIND = ("subspace",)
VERBS = {
    "msf": "tune prompts of many tasks, or take them from a library, and find subspaces",
    "ist": "all of a study: references, subspaces, and tasks tuned in them",
    "report": "what a study found so far, as one HTML page without network",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot intrinsic --help`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise SpotError(
            f"there is no `spot intrinsic {verb}`, but {', '.join(VERBS)}; see spot intrinsic "
            "--help"
        )
    return _report(rest) if verb == "report" else _study(verb, rest)


def _help() -> str:
    verbs = "\n".join(f"  {verb:8}{line}" for verb, line in VERBS.items())
    return (
        "usage: spot intrinsic VERB [...]\n\n"
        "Intrinsic Prompt Tuning (Qin et al. 2021) as a study: from the prompts of many tasks a\n"
        "subspace of few dimensions, and how well tasks do that are tuned in it alone.\n\n"
        f"{verbs}\n\n"
        "`spot intrinsic VERB --help` says more about each."
    )


def _study(verb: str, arguments: Sequence[str]) -> int:
    command = f"intrinsic {verb}"
    flags = study_parser(command, f"{VERBS[verb].capitalize()}.", EXAMPLE)
    kinds = FIND if verb == "msf" else ()
    return run_study("intrinsic", command, flags, arguments, EXAMPLE, kinds)


def _report(arguments: Sequence[str]) -> int:
    flags = parser(
        "intrinsic report",
        "Write what a study of subspaces found, as far as it is, as one HTML page that needs no\n"
        "network: relative performance over the dimension and over the number of training tasks.\n"
        "The tables go beside it as CSV and JSON, the figures as SVG.",
    )
    flags.add_argument("study", metavar="STUDY_DIR", help="what `spot intrinsic` wrote")
    flags.add_argument("--output_dir", metavar="DIR", help="where to write (default: STUDY_DIR)")
    values = flags.parse_args(list(arguments))

    from spot_jax.report.subspace import write_report
    from spot_jax.studies.engine.results import results_path
    from spot_jax.studies.subspace.results import SubspaceResults

    results = SubspaceResults.read(values.study)
    print(write_report(results, values.output_dir or results_path(values.study).parent))
    return 0
