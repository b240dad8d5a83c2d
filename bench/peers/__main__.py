"""Ours and PEFT in turn on this machine's CPU, on the same arrays: `python -m bench.peers`.

T5 1.1 of random float32 weights, P = 100, without dropout. Every case makes both sides ready, then
runs them one after the other `--repeats` times, so that whatever else the machine does falls on
both; medians and their ratios go to bench/results/peers.json, a page of them to docs/speed_cpu.md.
Cases, in order:

* step: one training step at small 128 / 8, small 512 / 16 and base 128 / 8, 8 rows.
* kernels: ours at small 512 / 16 as a run compiles it, against XLA's defaults.
* forms: ours at base 128 / 8 against the same with keys and values of the encoder's output, and
  with products whose rows lie as their widths have it.
* greedy: 16 tokens for 8 texts at small.
* labels: the best of 150 verbalizers for 8 texts at small, against scoring each of them.
* prompts: 8 prompts of 1 row in one program against the same 8 one after the other.
* lengths: the same on texts of real lengths, 8 a prompt.
* tasks: real tasks, packed and evaluated, against PEFT with dynamic padding (bench/peers/tasks.py).

Cases that are left out keep the figures that they have.

Each side of "step" also runs in a process of its own for its peak memory. Needs the `reference`
extra.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.peers.shapes import PROMPT, SHAPES, arrays, step_operations
from bench.turns import Call, in_turn

ROOT = Path(__file__).parents[2]
CASES = ("step", "kernels", "forms", "greedy", "labels", "prompts", "lengths", "tasks")
STEPS = (("small", 8, 128, 8), ("small", 8, 512, 16), ("base", 8, 128, 8))


def our_step(
    shape: str, rows: int, inputs: int, targets: int, prompts: int = 1, plainly: bool = False
) -> Call:
    """Return a call that does one step of ours; `plainly` compiles it with XLA's defaults."""
    import jax

    from bench.peers import ours

    config = SHAPES[shape]
    params = ours.weights(config, "float32")
    batch = ours.features(config, arrays(config, rows, inputs, targets), prompts)
    step, state = ours.compiled_step(config, params, batch, prompts, plainly)
    holder = [state]

    def call() -> None:
        holder[0], metrics = step(holder[0], params, batch)
        jax.block_until_ready(metrics)

    return call


def plainer_step(where: str, form: Any, case: tuple) -> Call:
    """Return a call that does one step of ours, compiled with another value of `where`."""
    with mock.patch(where, form):
        return our_step(*case)


def their_step(shape: str, rows: int, inputs: int, targets: int) -> Call:
    """Return a call that does one step of PEFT's."""
    import torch

    from bench.peers import theirs

    config = SHAPES[shape]
    tuned = theirs.model(config, "cpu", torch.float32)
    step = theirs.Step(tuned, arrays(config, rows, inputs, targets), "cpu")
    return lambda: float(step())


def our_greedy(shape: str, rows: int, inputs: int, length: int) -> Call:
    import jax
    import jax.numpy as jnp

    from bench.peers import ours

    config = SHAPES[shape]
    params = ours.weights(config, "float32")
    tokens = ours.features(config, arrays(config, rows, inputs, 1))["encoder_input_tokens"]
    prompt = jnp.zeros((PROMPT, config.emb_dim), jnp.float32)
    return lambda: jax.block_until_ready(ours.write(params, config, tokens, prompt, length))


def their_greedy(shape: str, rows: int, inputs: int, length: int) -> Call:
    import torch

    from bench.peers import theirs

    config = SHAPES[shape]
    tuned = theirs.model(config, "cpu", torch.float32)
    batch = arrays(config, rows, inputs, 1)
    return lambda: theirs.write(tuned, batch, "cpu", length)


def labels(shape: str, rows: int, inputs: int, count: int) -> dict[str, Call]:
    """Return two calls of ours: the best of `count` labels, and every label's score."""
    import jax
    import jax.numpy as jnp

    from bench.peers import ours
    from spot_jax.t5.scoring import choose_label, rank_labels
    from spot_jax.t5.target import Jitted

    config = SHAPES[shape]
    params = ours.weights(config, "float32")
    tokens = ours.features(config, arrays(config, rows, inputs, 1))["encoder_input_tokens"]
    random = np.random.default_rng(0)
    drawn = {
        tuple(random.integers(2, 60, random.integers(1, 5)).tolist()) for _ in range(count * 2)
    }
    verbalizers = np.zeros((count, 5), np.int32)
    for row, label in zip(verbalizers, sorted(drawn), strict=False):
        row[: len(label) + 1] = [*label, 1]
    options = {"table": jnp.zeros((PROMPT, config.emb_dim), jnp.float32)}
    best = Jitted(lambda p, x: choose_label(p, config, x, verbalizers, **options)[0])
    every = Jitted(lambda p, x: jnp.argmax(rank_labels(p, config, x, verbalizers, **options), 1))
    if best(params, tokens).tolist() != every(params, tokens).tolist():
        raise AssertionError("the best label is not the one that ranks first")
    calls = {"best": best, "every": every}
    return {n: lambda f=f: jax.block_until_ready(f(params, tokens)) for n, f in calls.items()}


def peak_bytes(side: str, case: tuple) -> int:
    """Return the peak resident memory of a process that does two steps."""
    code = f"from bench.peers.__main__ import alone; alone({side!r}, {case!r})"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    return int(output.split()[-1])


def alone(side: str, case: tuple) -> None:
    call = {"ours": our_step, "peft": their_step}[side](*case)
    call()
    call()
    # Not getrusage's number, which a process takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    print(int(peak.split()[1]) * 1024)


def result(name: str, case: str, seconds: dict[str, list[float]], **more: Any) -> dict:
    first, second, *_ = seconds
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    entry = {
        "case": name,
        "what": case,
        "seconds": medians,
        "fastest": {side: min(values) for side, values in seconds.items()},
        "ratio": medians[first] / medians[second],
        "ratio_of_fastest": min(seconds[first]) / min(seconds[second]),
        "load_average": round(os.getloadavg()[0], 2),
        "cores": len(os.sched_getaffinity(0)),
        **more,
    }
    print(json.dumps(entry), flush=True)
    return entry


def measure(
    repeats: int,
    memory: bool,
    wanted: list[str],
    shapes: list[str],
    write: Callable[[list[dict]], None],
) -> None:
    results: list[dict] = []

    def done(entry: dict) -> None:
        results.append(entry)
        write(results)

    if "step" in wanted:
        for case in (case for case in STEPS if case[0] in shapes):
            calls = {"ours": our_step(*case), "peft": their_step(*case)}
            more: dict = {"operations": step_operations(SHAPES[case[0]], *case[1:])}
            seconds = in_turn(calls, repeats)
            del calls
            if memory:
                more["peak_bytes"] = {side: peak_bytes(side, case) for side in ("ours", "peft")}
            done(result("step", f"{case[0]} {case[2]} / {case[3]}", seconds, **more))
    if "kernels" in wanted:
        case = ("small", 8, 512, 16)
        calls = {"ours": our_step(*case), "defaults": our_step(*case, plainly=True)}
        done(result("kernels", "small 512 / 16, XLA's options", in_turn(calls, repeats)))
        del calls
    if "forms" in wanted:
        case = ("base", 8, 128, 8)
        calls = {
            "ours": our_step(*case),
            "keys": plainer_step("spot_jax.t5.layers.absorbs", lambda *_: False, case),
            "as_they_lie": plainer_step("spot_jax.t5.products.FAR", sys.maxsize, case),
        }
        seconds = in_turn(calls, max(1, repeats // 2))
        del calls
        for side, what in (("keys", "keys and values"), ("as_they_lie", "rows as they lie")):
            pair = {name: seconds[name] for name in ("ours", side)}
            done(result("forms", f"base 128 / 8, {what}", pair))
    if "greedy" in wanted:
        calls = {"ours": our_greedy("small", 8, 128, 16), "peft": their_greedy("small", 8, 128, 16)}
        done(result("greedy", "small, 16 tokens", in_turn(calls, repeats)))
    if "labels" in wanted:
        seconds = in_turn(labels("small", 8, 128, 150), max(1, repeats // 2))
        done(result("labels", "small, 150 labels", seconds))
    if "prompts" in wanted:
        together, single = our_step("small", 8, 128, 8, 8), our_step("small", 1, 128, 8)
        calls = {"together": together, "in_turn": lambda: [single() for _ in range(8)]}
        seconds = in_turn(calls, repeats)
        from bench.peers.tasks import product_rates

        # Of one prompt's tokens, and of eight prompts'.
        rates = product_rates([PROMPT + 128, 8 * (PROMPT + 128)])
        done(result("prompts", "small 128 / 8, 8 prompts of 1 row", seconds, gflops=rates))
    if "lengths" in wanted:
        from bench.peers.tasks import many_prompts, prompts_tokens

        what = "small, 8 prompts on banking77, packed / padded, 1,000 examples"
        seconds = many_prompts(max(1, repeats // 2))
        done(result("lengths", what, seconds, tokens=prompts_tokens()))
    if "tasks" in wanted:
        from bench.peers.tasks import SETS, encoder_tokens
        from bench.peers.tasks import measure as measure_task

        entries = []
        for name in SETS:
            seconds = measure_task(name, 6, 96, max(1, repeats // 2))
            tokens = encoder_tokens(name)
            entries.append(result("tasks", f"{name}, 1,000 examples", seconds, tokens=tokens))
            done(entries[-1])
        means = {
            side: [statistics.geometric_mean(entry["seconds"][side] for entry in entries)]
            for side in ("ours", "peft")
        }
        tokens = {
            side: statistics.geometric_mean(entry["tokens"][side] for entry in entries)
            for side in ("needed", "peft")
        }
        done(result("tasks", f"geometric mean of {len(entries)} sets", means, tokens=tokens))


def page(facts: dict) -> str:
    """Return the text of docs/speed_cpu.md."""
    lines = [
        "# Speed on a CPU",
        "",
        "Made by `make bench` (bench/peers) from bench/results/peers.json. T5 1.1 of",
        f"random float32 weights, P = {PROMPT}, {facts['cores']} cores, both sides in turn on",
        "the same arrays. A ratio below 1 means that the first is faster. Peak memory is that of a",
        "process that does two steps. The labels' scores are nearly alike on random weights, the",
        "worst case for a search of the best that stops when it is sure. Real tasks (`tasks`) have",
        "a T5 of mini's shape and P = 20; their seconds are those of 1,000 examples, evaluation",
        "included. Tokens are the encoder's for an example with its prompt: those needed, and with",
        "batches padded to their longest text, as PEFT has them (`lengths`: to 48 tokens of text).",
        "",
        "| case | first | second | ratio | peak memory, first / second | tokens, needed / padded |",
        "|---|---|---|---|---|---|",
    ]
    for entry in facts["results"]:
        sides = [f"{side} {seconds:.3g} s" for side, seconds in entry["seconds"].items()]
        bytes_ = entry.get("peak_bytes", {}).values()
        memory = " / ".join(f"{x / 1e9:.2f} GB" for x in bytes_)
        tokens = " / ".join(f"{count:.1f}" for count in entry.get("tokens", {}).values())
        row = [f"{entry['case']}: {entry['what']}", *sides[:2], f"{entry['ratio']:.2f}"]
        row += [memory, tokens]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("bench.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    names = list(dict.fromkeys(case[0] for case in STEPS))
    parser.add_argument("--shapes", nargs="+", choices=names, default=names, help="of the steps")
    parser.add_argument("--no-memory", action="store_true", help="no processes for peak memory")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "peers.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "speed_cpu.md")
    parsed = parser.parse_args(arguments)
    import jax

    facts: dict = {
        "what": __doc__.splitlines()[0],
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "repeats": parsed.repeats,
    }

    kept: list[dict] = []
    if parsed.output.exists():
        kept = json.loads(parsed.output.read_text())["results"]
        kept = [
            entry
            for entry in kept
            if entry["case"] not in parsed.cases
            or (entry["case"] == "step" and entry["what"].split()[0] not in parsed.shapes)
        ]

    def place(entry: dict) -> tuple[int, bool]:
        return CASES.index(entry["case"]), entry["what"].startswith("base")

    def write(results: list[dict]) -> None:
        every = kept + results
        facts["results"] = sorted(every, key=place)
        parsed.output.write_text(json.dumps(facts, indent=1) + "\n")
        parsed.page.write_text(page(facts))

    measure(parsed.repeats, not parsed.no_memory, parsed.cases, parsed.shapes, write)


if __name__ == "__main__":
    main()
