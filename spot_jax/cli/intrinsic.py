"""`spot intrinsic`: subspaces of prompts from many tasks, tasks tuned in them, and the report."""

import shlex
from collections.abc import Sequence

from spot_jax.cli.flags import gin_flags, parser
from spot_jax.errors import SpotError

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
    made = parser(
        f"intrinsic {verb}",
        f"{VERBS[verb].capitalize()}.\nThe same command again goes on where it stopped; started "
        "twice, two processes share the\nwork.",
        settings=True,
    )
    made.usage = (
        f"spot intrinsic {verb} --gin_file=gin_configs/studies/intrinsic_mini.gin "
        "[--gin.NAME=VALUE ...]"
    )
    made.add_argument("--cells", action="store_true", help="list the cells and their state")
    made.add_argument("--cell", metavar="NAME", help="do one cell, as a cluster's job")
    made.add_argument("--no_report", action="store_true", help="results.json alone")
    if not any(a.startswith(("--gin_file", "--help", "-h")) for a in arguments):
        raise SpotError(
            f"spot intrinsic {verb} needs a study to do: add "
            "--gin_file=gin_configs/studies/intrinsic_mini.gin, or a file of your own"
        )
    flags, settings = gin_flags(made, arguments)
    if flags.cells and flags.cell:
        raise SpotError("--cells and --cell are two commands; give one of them")

    from spot_jax.cli.configurables import configured

    plan_of, given, _ = configured("intrinsic", **settings)

    from spot_jax.studies.subspace import study
    from spot_jax.transfer.tuning import Stopped

    plan = plan_of(**given)
    if flags.cells:
        print("\n".join(study.overview(plan)))
        return 0
    command = shlex.join(["spot", "intrinsic", verb, *arguments])
    try:
        if flags.cell:
            study.one(plan, flags.cell, _say, command=command)
            return 0
        do = study.find if verb == "msf" else study.tune
        found = do(plan, _say, command=command)
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there")
        return 0
    print(study.study_directory(plan) / "results.json")
    if not flags.no_report:
        from spot_jax.report.intrinsic import write_report

        print(write_report(found, study.study_directory(plan)))
    return 0


def _report(arguments: Sequence[str]) -> int:
    made = parser(
        "intrinsic report",
        "Write what a study of subspaces found, as far as it is, as one HTML page that needs no\n"
        "network: relative performance over the dimension and over the number of training tasks.\n"
        "The tables go beside it as CSV and JSON, the figures as SVG.",
    )
    made.add_argument("study", metavar="STUDY_DIR", help="what `spot intrinsic` wrote")
    made.add_argument("--output_dir", metavar="DIR", help="where to write (default: STUDY_DIR)")
    given = made.parse_args(list(arguments))

    from spot_jax.report.intrinsic import write_report
    from spot_jax.studies.subspace.results import read_results, results_path

    results = read_results(given.study)
    print(write_report(results, given.output_dir or results_path(given.study).parent))
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
