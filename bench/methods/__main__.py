"""The command; see the package."""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from bench.methods import page
from bench.methods.results import MethodResults
from bench.methods.study import MethodJob, MethodStudy
from bench.methods.tasks import ROOT, TASKS, Bench
from bench.methods.ways import METHODS
from spot_jax.errors import SpotError
from spot_jax.transfer.tuning import Stopped

# What a study is told on the command line; the flags have the names of the fields.
NUMBERS = ("validation", "test", "length", "steps", "prefix_steps", "finding_steps", "y_steps")
LISTS = {"seeds": int, "rates": float}


def main(arguments: list[str] | None = None) -> int:
    """Do the cells that are asked for and not done, then write the results and the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = _parser()
    values = flags.parse_args(arguments)
    try:
        if values.render:
            page.write(MethodResults.read(values.output), values.page)
            return 0
        fields = {name: getattr(values, name) for name in (*NUMBERS, *LISTS)}
        bench = Bench(
            values.directory.resolve(),
            values.backbone,
            **{name: tuple(v) if name in LISTS else v for name, v in fields.items()},
        )
        if values.jobs:
            print("\n".join(MethodStudy(bench, look=True).overview()))
            return 0
        study = MethodStudy(bench, shlex.join(["python", "-m", "bench.methods", *arguments]))

        def wanted(job: MethodJob) -> bool:
            return job.kind in values.methods and job.task in values.tasks

        if values.output.exists():
            taken = study.take_over(MethodResults.read(values.output), wanted)
            if taken:
                print(f"{values.output} has {taken} more", flush=True)
        results = study.run(lambda line: print(line, flush=True), wanted=wanted, progress=False)
    except SpotError as error:
        print(error, file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there")
        return 130
    results.write(values.output)
    page.write(results, values.page)
    return 0


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser("bench.methods", description=__doc__.split("\n")[0])
    flags.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    flags.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    flags.add_argument("--output", type=Path, default=ROOT / "bench/results/methods.json")
    flags.add_argument("--page", type=Path, default=ROOT / "docs/methods.md")
    flags.add_argument("--directory", type=Path, default=Path("runs/bench_methods"))
    flags.add_argument("--backbone", default=Bench.backbone)
    flags.add_argument("--jobs", action="store_true", help="list the jobs and their state")
    flags.add_argument("--render", action="store_true", help="only the page")
    defaults = {field.name: field.default for field in dataclasses.fields(Bench)}
    for name in NUMBERS:
        flags.add_argument(f"--{name}", type=int, default=defaults[name], metavar="N")
    for name, kind in LISTS.items():
        flags.add_argument(f"--{name}", nargs="+", type=kind, default=defaults[name], metavar="N")
    return flags


if __name__ == "__main__":
    sys.exit(main())
