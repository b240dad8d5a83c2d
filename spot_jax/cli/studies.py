"""What `spot study` and `spot intrinsic` share: a study from its gin file to its report."""

import argparse
import importlib
import json
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
OF_RAY = ("job_cpus", "job_gpus", "job_resources", "job_retries")


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
    ray = flags.add_argument_group("on a Ray cluster (pip install 'spot-jax[ray]'; docs/study.md)")
    ray.add_argument(
        "--on", metavar="WHERE", help="ray, ray://HOST:10001, ray:HOST:6379 or ray:auto"
    )
    ray.add_argument("--job_cpus", "--cell_cpus", type=float, metavar="N", help="of a job; 1")
    ray.add_argument("--job_gpus", "--cell_gpus", type=float, metavar="N", help="of a job; 0")
    ray.add_argument(
        "--job_resources", "--cell_resources", metavar="JSON", help="of a job, as '{\"TPU\": 4}'"
    )
    ray.add_argument(
        "--job_retries", "--cell_retries", type=int, metavar="N", help="after workers died; 3"
    )
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

    on = _cluster(values)
    if on is not None:
        if chosen:
            raise SpotError(f"--{chosen[0]} needs no cluster; leave out --on")
        require_extra("ray", "--on ray")

    if not (values.no_report or values.jobs or values.job):
        require_extra("report", "the report of a study (--no_report goes without)")

    if on is not None:
        import jax

        # Accelerators of this machine are for the jobs; what hands them out computes nothing.
        jax.config.update("jax_platforms", "cpu")

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
        results = study.run(
            _log, wanted=lambda job: not kinds_of_jobs or job.kind in kinds_of_jobs, on=on
        )
    print(plan.path / "results.json")
    if not values.no_report:
        print(importlib.import_module(report).write_report(results, plan.path))
    return 0


def _cluster(values: argparse.Namespace) -> Any:
    """Return the `RayCluster` that flags ask for; None for this machine."""
    typed = {name: getattr(values, name) for name in OF_RAY if getattr(values, name) is not None}
    if values.on is None:
        if typed:
            raise SpotError(f"--{next(iter(typed))} is for jobs on a cluster; add --on ray")
        return None
    if values.coordinator_address is not None:
        raise SpotError("--on ray starts its workers itself; leave out --coordinator_address")
    name, _, rest = values.on.partition(":")
    if name != "ray":
        raise SpotError(
            f"--on is {values.on!r}; give ray, ray://HOST:10001, ray:HOST:6379 or ray:auto"
        )
    options = {name.removeprefix("job_"): value for name, value in typed.items()}
    if "resources" in options:
        try:
            options["resources"] = json.loads(options["resources"])
        except ValueError:
            options["resources"] = None
        if not isinstance(options["resources"], dict):
            raise SpotError(
                f"--job_resources is {values.job_resources!r}; give amounts by name as JSON, such "
                "as '{\"TPU\": 4}'"
            )

    from spot_jax.studies.engine.ray_cluster import RayCluster

    return RayCluster(values.on if rest.startswith("//") else rest, **options)


def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _log(line: str) -> None:
    print(line, flush=True)
