"""Where the time of a training step of ours goes on this machine's CPU.

    python -m bench.peers.profile

Each case of `bench.peers`' steps runs under JAX's profiler. Time of an operation that XLA runs goes
to the part of T5 that it is of, forward or backward, and to matrix products (with their operations)
or the rest. What operations overlap is counted once, what no operation covers is a row of its own,
so that the rows sum to the step. On several cores XLA's own products run where the trace does not
see them, so that most of a step is that row: `taskset -c 0` before the command has them in it.
bench/results/step_profile.json holds all of it.
"""

import argparse
import collections
import dataclasses
import json
import math
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax

from bench.peers import ours
from bench.peers.shapes import SHAPES, arrays, step_operations

ROOT = Path(__file__).parents[2]
STEPS = (("small", 8, 128, 8), ("small", 8, 512, 16), ("base", 8, 128, 8))
OUTSIDE = "outside of operations"
# The part of an operation, by the first of these that its path holds.
PARTS = (
    ("cross attention", r"cross|encoder_decoder"),
    ("attention's norm", r"pre_(self_)?attention_layer_norm"),
    ("attention's projections", r"attention.*(query|key|value|out\b|keys_and_values|project)"),
    ("attention", r"attention|attend|relpos|rel_bias|position"),
    ("feed-forward", r"mlp"),
    ("logits and loss", r"logits|loss|cross_entropy|softmax"),
    ("norms", r"norm"),
    ("embedding", r"embed|take|gather"),
)
LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ([\w\-]+)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of a compiled program.

    Attributes:
        path: path of the code that it is from.
        operations: floating-point operations of the matrix products in it.
    """

    path: str
    operations: float


def _dimensions(shape: str) -> list[int]:
    match = re.match(r"\w+\[([\d,]*)\]", shape)
    return [int(n) for n in match[1].split(",") if n] if match else []


def instructions(text: str) -> dict[str, Instruction]:
    """Return the instructions of a compiled program, by name; a fusion holds those it calls."""
    computations: dict[str, list[tuple[str, str, str, str]]] = {}
    body: list[tuple[str, str, str, str]] = []
    for line in text.splitlines():
        if line.rstrip().endswith("{") and "=" not in line.split("(")[0]:
            name = line.replace("ENTRY", "").strip().split()[0].lstrip("%")
            body = computations.setdefault(name, [])
        elif match := LINE.match(line):
            body.append((match[1], match[2], match[3], match[4]))

    def products(lines: Iterable[tuple[str, str, str, str]]) -> float:
        shapes = {name: _dimensions(shape) for name, shape, _, _ in lines}
        total = 0.0
        for _, shape, kind, rest in lines:
            if kind == "dot" and (first := re.match(r"%?([\w.\-]+)", rest)):
                axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
                left = shapes.get(first[1], [])
                over = [left[int(a)] for a in axes[1].split(",") if a] if axes and left else []
                total += 2.0 * math.prod(_dimensions(shape)) * math.prod(over)
            elif kind == "fusion" and (called := re.search(r"calls=%?([\w.\-]+)", rest)):
                total += products(computations.get(called[1], ()))
        return total

    every = {}
    for lines in computations.values():
        shapes = [(name, shape, "parameter", "") for name, shape, _, _ in lines]
        for name, shape, kind, rest in lines:
            path = re.search(r'op_name="([^"]*)"', rest)
            mine = (*shapes, (name, shape, kind, rest))
            every[name] = Instruction(path[1] if path else kind, products(mine))
    return every


def part(path: str) -> tuple[str, str]:
    """Return the part of T5 that a path is of, and "forward", "backward" or "update"."""
    way = "backward" if "transpose(" in path else "forward" if "jvp" in path else "update"
    name = next((name for name, form in PARTS if re.search(form, path)), "other")
    return name, way


def _spans(directory: str) -> Iterator[tuple[str, float, float]]:
    """Yield operation, begin and end in seconds of every innermost operation of a trace."""
    (file,) = Path(directory).rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            spans = []
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is not None:
                    begin = event.start_ns * 1e-9
                    spans.append((begin, begin + event.duration_ns * 1e-9, str(operation)))
            spans.sort(key=lambda span: (span[0], -span[1]))
            for i, (begin, end, operation) in enumerate(spans):
                # A loop's own span is around those of its body.
                if i + 1 == len(spans) or spans[i + 1][0] >= end:
                    yield operation, begin, end


def profiled(shape: str, rows: int, inputs: int, targets: int, repeats: int) -> dict:
    """Return a step's rows: seconds, share and operations by part, way and kind."""
    config = SHAPES[shape]
    params = ours.weights(config, "float32")
    batch = ours.features(config, arrays(config, rows, inputs, targets))
    step, state = ours.compiled_step(config, params, batch)
    compiled = instructions(step.as_text())
    state, metrics = step(state, params, batch)
    jax.block_until_ready(metrics)
    plain, walls = [], []
    seconds: collections.Counter[tuple[str, str, str]] = collections.Counter()
    operations: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for _ in range(repeats):
        begin = time.perf_counter()
        state, metrics = step(state, params, batch)
        jax.block_until_ready(metrics)
        plain.append(time.perf_counter() - begin)
        with tempfile.TemporaryDirectory() as directory:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            with jax.profiler.trace(directory, profiler_options=options):
                begin = time.perf_counter()
                state, metrics = step(state, params, batch)
                jax.block_until_ready(metrics)
                walls.append(time.perf_counter() - begin)
            spans = sorted(_spans(directory), key=lambda span: span[1])
        reached = 0.0
        for operation, start, end in spans:
            instruction = compiled.get(operation, Instruction("", 0.0))
            kind = "matrix products" if instruction.operations else "the rest"
            key = (*part(instruction.path), kind)
            seconds[key] += max(0.0, end - max(start, reached))
            operations[key] += instruction.operations
            reached = max(reached, end)
    covered = sum(seconds.values())
    seconds[OUTSIDE, "", ""] = sum(walls) - covered
    entries = [
        {
            "part": name,
            "way": way,
            "kind": kind,
            "seconds": value / repeats,
            "share": value / sum(walls),
            "operations": operations[name, way, kind] / repeats,
        }
        for (name, way, kind), value in seconds.most_common()
    ]
    return {
        "case": f"{shape} {inputs} / {targets}, {rows} rows",
        "seconds": statistics.median(plain),
        "seconds_profiled": statistics.median(walls),
        "needed_operations": step_operations(config, rows, inputs, targets),
        "rows": entries,
    }


def lines(result: dict) -> list[str]:
    """Return a case's rows as lines of text, the largest first."""
    head = f"{result['case']}: {result['seconds']:.2f} s, profiled {result['seconds_profiled']:.2f}"
    rows = []
    for row in result["rows"]:
        rate = row["operations"] / row["seconds"] / 1e9 if row["operations"] else 0.0
        speed = f"  {row['operations'] / 1e9:.1f} GFLOP at {rate:.0f} a second" if rate else ""
        name = " ".join(filter(None, (row["part"], row["way"], row["kind"])))
        rows.append(f"  {100 * row['share']:5.1f}%  {row['seconds']:.3f} s  {name}{speed}")
    return [head, *rows]


def main(arguments: list[str] | None = None) -> None:
    """Profile the cases and write the record."""
    parser = argparse.ArgumentParser("bench.peers.profile", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a T5 of a few numbers, for a test")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/step_profile.json")
    parsed = parser.parse_args(arguments)
    results = []
    for case in (("tiny", 2, 16, 4),) if parsed.tiny else STEPS:
        results.append(profiled(*case, parsed.repeats))
        print("\n".join(lines(results[-1])), flush=True)
    facts = {
        "what": __doc__.splitlines()[0],
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "load_average_at_the_end": [round(x, 1) for x in os.getloadavg()],
        "results": results,
    }
    parsed.output.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
