"""What `spot study` and `spot intrinsic` share: a study from its gin file to its report."""

import importlib
import shlex
from collections.abc import Sequence
from typing import Any

from spot_jax.cli.flags import OneLineParser, gin_flags, parser
from spot_jax.errors import SpotError, require_extra

# The name of a study's plan in gin files, and the study and the report that belong to it.
KINDS = {
    "study": ("spot_jax.studies.transfer.study:TransferStudy", "spot_jax.report.transfer"),
    "intrinsic": ("spot_jax.studies.subspace.study:SubspaceStudy", "spot_jax.report.subspace"),
}
ONE_OF = ("jobs", "job", "so_far")


def study_parser(verb: str, description: str, example: str) -> OneLineParser:
    """Return the flags of a command that does a study.

    Args:
        verb: name of the command, without "spot".
        description: sentence that says what the command does.
        example: gin file for the usage line.
    """
    flags = parser(
        verb,
        f"{description}\nThe same command again goes on where it stopped; started twice, two "
        "processes share the work.",
        settings=True,
    )
    flags.usage = f"spot {verb} --gin_file={example} [--gin.NAME=VALUE ...]"
    group = flags.add_argument_group("instead of the whole study")
    group.add_argument("--jobs", "--cells", action="store_true", help="list the jobs, their state")
    group.add_argument("--job", "--cell", metavar="NAME", help="do one job, as a cluster's")
    group.add_argument(
        "--so_far", action="store_true", help="results and report of the jobs that are done"
    )
    flags.add_argument("--no_report", action="store_true", help="results.json alone")
    return flags


def run_study(
    kind: str,
    verb: str,
    flags: OneLineParser,
    arguments: Sequence[str],
    example: str,
    kinds_of_jobs: Sequence[str] = (),
) -> int:
    """Run the command.

    Args:
        kind: name of the study's plan in gin files, one of `KINDS`.
        verb: name of the command, without "spot".
        flags: parser of `study_parser`.
        arguments: words typed after the verb.
        example: gin file for the complaint where none was given.
        kinds_of_jobs: kinds of jobs to do, with what they need; all by default.
    """
    if not any(a.startswith(("--gin_file", "--help", "-h")) for a in arguments):
        raise SpotError(
            f"spot {verb} needs a study to do: add --gin_file={example}, or a file of your own; "
            f"see spot {verb} --help"
        )
    values, settings = gin_flags(flags, arguments)
    chosen = [flag for flag in ONE_OF if getattr(values, flag)]
    if len(chosen) > 1:
        raise SpotError(f"--{chosen[0]} and --{chosen[1]} are two commands; give one of them")

    if not (values.no_report or values.jobs or values.job):
        require_extra("report", "the report of a study (--no_report goes without)")

    from spot_jax.cli.configurables import configured

    plan_of, fields, _ = configured(kind, **settings)

    name, report = KINDS[kind]
    study_of: Any = _attribute(name)
    plan = plan_of(**fields)
    if values.jobs:
        print("\n".join(study_of(plan, look=True).overview()))
        return 0
    command = shlex.join(["spot", *verb.split(), *(a for a in arguments if a != "--so_far")])
    if values.so_far:
        results = study_of(plan, look=True).so_far()
    else:
        study = study_of(plan, command)
        if values.job:
            study.run_job(values.job, _log)
            return 0
        results = study.run(_log, wanted=lambda job: not kinds_of_jobs or job.kind in kinds_of_jobs)
    print(plan.path / "results.json")
    if not values.no_report:
        print(importlib.import_module(report).write_report(results, plan.path))
    return 0


def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _log(line: str) -> None:
    print(line, flush=True)
