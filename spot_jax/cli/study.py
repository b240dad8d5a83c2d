"""`spot study`: sources x targets x seeds, as a gin file describes them; then the report."""

import shlex
from collections.abc import Sequence

from spot_jax.cli.flags import gin_flags, parser
from spot_jax.errors import SpotError


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot study --help`."""
    made = parser(
        "study",
        "Tune source prompts, tune every target from each of them and in other ways, and report\n"
        "what transfers. The same command again goes on where it stopped; started twice, two\n"
        "processes share the work.",
        settings=True,
    )
    made.usage = (
        "spot study --gin_file=gin_configs/studies/mini.gin [--gin.NAME=VALUE ...]\n"
        "       spot study --from_paper --output_dir=DIR"
    )
    what = made.add_argument_group("instead of the whole study")
    what.add_argument("--cells", action="store_true", help="list the cells and their state")
    what.add_argument("--cell", metavar="NAME", help="do one cell, as a cluster's job")
    what.add_argument(
        "--so_far", action="store_true", help="results and report of the cells that are done"
    )
    what.add_argument("--from_paper", action="store_true", help="report the paper's own scores")
    what.add_argument("--output_dir", metavar="DIR", help="of --from_paper")
    made.add_argument("--no_report", action="store_true", help="results.json alone")
    if "--from_paper" in arguments:
        return _from_paper(made.parse_args(arguments).output_dir)
    if not any(a.startswith(("--gin_file", "--help", "-h")) for a in arguments):
        raise SpotError(
            "spot study needs a study to do: add --gin_file=gin_configs/studies/mini.gin, or a "
            "file of your own; see spot study --help"
        )
    flags, settings = gin_flags(made, arguments)
    chosen = [flag for flag in ("cells", "cell", "so_far") if getattr(flags, flag)]
    if len(chosen) > 1:
        raise SpotError(f"--{chosen[0]} and --{chosen[1]} are two commands; give one of them")

    from spot_jax.cli.configurables import configured

    plan_of, given, _ = configured("study", **settings)

    from spot_jax.studies.transfer import study
    from spot_jax.transfer.tuning import Stopped

    plan = plan_of(**given)
    if flags.cells:
        print("\n".join(study.overview(plan)))
        return 0
    command = shlex.join(["spot", "study", *(a for a in arguments if a != "--so_far")])
    try:
        if flags.cell:
            study.study_cell(plan, flags.cell, _say, command=command)
            return 0
        found = study.so_far(plan) if flags.so_far else study.study(plan, _say, command=command)
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there")
        return 0
    print(study.study_directory(plan) / "results.json")
    if not flags.no_report:
        from spot_jax.report.write import write_report

        print(write_report(found, study.study_directory(plan)))
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _from_paper(directory: str | None) -> int:
    if directory is None:
        raise SpotError("--from_paper writes a report: add --output_dir=DIR")

    from spot_jax.report.published import write

    print(write(directory))
    return 0
