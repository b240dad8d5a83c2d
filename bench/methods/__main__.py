"""The command; see the package."""

import argparse
import os
import sys
import time
from pathlib import Path

from bench.methods import page
from bench.methods.results import Results, machine
from bench.methods.tasks import ROOT, TASKS, Bench
from bench.methods.ways import METHODS, order
from spot_jax.errors import SpotError
from spot_jax.studies.engine.compilation_cache import compiled_programs
from spot_jax.t5.stored import read_description
from spot_jax.transfer.tuning import Stopped


def main(arguments: list[str] | None = None) -> int:
    """Does the cells that are asked for and not done, then writes the page."""
    made = argparse.ArgumentParser("bench.methods", description=__doc__.split("\n")[0])
    made.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    made.add_argument("--output", type=Path, default=ROOT / "bench/results/methods.json")
    made.add_argument("--page", type=Path, default=ROOT / "docs/methods.md")
    made.add_argument("--directory", type=Path, default=Path("runs/bench_methods"))
    made.add_argument("--backbone", default=Bench.backbone)
    made.add_argument("--render", action="store_true", help="only the page")
    made.add_argument("--again", action="store_true", help="also what is done already")
    given = made.parse_args(arguments)
    results = Results(given.output)
    if not given.render:
        bench = Bench(given.directory.resolve(), given.backbone)
        try:
            _check(results, bench)
            with compiled_programs(bench.directory / "compiled"):
                _do(bench, results, order(given.methods, given.tasks), again=given.again)
        except SpotError as error:
            print(error, file=sys.stderr)
            return 2
        except Stopped as stopped:
            print(f"{stopped}; the same command goes on from there")
            return 0
    page.write(results, given.page)
    return 0


def _check(results: Results, bench: Bench) -> None:
    """Cells of one file share everything; refuses to mix them with others."""
    about = {
        "backbone": read_description(bench.backbone).fingerprint[:12],
        "seeds": list(bench.seeds),
        "validation": bench.validation,
        "test": bench.test,
    }
    for name, value in about.items():
        if results.about.get(name, value) != value:
            raise SpotError(
                f"{results.path} has {name} {results.about[name]}, this is {value}; give another "
                "--output and --directory"
            )
    results.about = {**results.about, **about, **machine()}


def _do(
    bench: Bench, results: Results, cells: list[tuple[str, str]], *, again: bool = False
) -> None:
    left = [key for key in cells if again or results.get(*key) is None]
    for number, (task, method) in enumerate(left, start=1):
        start = time.monotonic()
        cell = METHODS[method].cell(bench, TASKS[task], results)
        results.add(cell)
        spread = "" if cell.sd is None else f" ± {cell.sd:.1f}"
        load = os.getloadavg()[0]
        print(
            f"[{number}/{len(left)}] {method} {task}: {cell.mean:.1f}{spread} in "
            f"{time.monotonic() - start:.0f} s, {dict(cell.chosen)}, load {load:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
