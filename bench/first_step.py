"""Seconds from `spot demo` to its first line and its first update: `python -m bench.first_step`.

Each code starts the demo in an empty directory, first without compiled programs and then with those
that the first start left behind; codes take turns. `--code NAME=DIR` is the root of a checkout,
this one by default; give an earlier commit's beside it for the figures before. Results go to
bench/results/first_step.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.record import write

ROOT = Path(__file__).parents[1]


def start(code: Path, home: Path) -> dict[str, float]:
    """Return the seconds to the demo's first line and to its first update, and CPU seconds so far.

    Args:
        code: root of a checkout.
        home: directory that stands for the user's cache directory.
    """
    environment = {**os.environ, "PYTHONPATH": str(code), "XDG_CACHE_HOME": str(home)}
    for name in ("JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    # Python's compiled modules are the first start's too, and not left in the checkout.
    environment["PYTHONPYCACHEPREFIX"] = str(home / "python")
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "spot_jax.cli.main", "demo", "--directory", directory]
        metrics = Path(directory) / "source" / "metrics.jsonl"
        begin = time.perf_counter()
        with subprocess.Popen(
            command, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as demo:
            assert demo.stdout is not None
            demo.stdout.readline()
            line = time.perf_counter() - begin
            while not (metrics.exists() and b"\n" in metrics.read_bytes()):
                if demo.poll() is not None:
                    raise SystemExit(f"the demo of {code} ended without an update")
                time.sleep(0.02)
            update = time.perf_counter() - begin
            fields = Path(f"/proc/{demo.pid}/stat").read_text().rsplit(")", 1)[1].split()
            demo.kill()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return {"first_line": line, "first_update": update, "cpu_seconds": cpu}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("bench.first_step", description=__doc__.splitlines()[0])
    parser.add_argument("--code", nargs="+", default=[f"now={ROOT}"], metavar="NAME=DIR")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--output", default=str(ROOT / "bench" / "results" / "first_step.json"), metavar="FILE"
    )
    values = parser.parse_args(arguments)
    codes = {name: Path(path) for name, _, path in (item.partition("=") for item in values.code)}
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(values.repeats):
        for name, code in codes.items():
            with tempfile.TemporaryDirectory() as home:
                for which in ("first start", "second start"):
                    seen.setdefault((name, which), []).append(start(code, Path(home)))
                    print(name, which, seen[name, which][-1], flush=True)
    results = [
        {
            "code": name,
            "start": which,
            "seconds": {key: statistics.median(x[key] for x in each) for key in each[0]},
            "fastest": min(x["first_update"] for x in each),
        }
        for (name, which), each in seen.items()
    ]
    mini = ROOT / "backbones" / "mini"
    write(values.output, "from the command to the first update of the demo", mini, results)


if __name__ == "__main__":
    main()
