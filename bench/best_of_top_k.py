"""Best of top-3 in one program against three runs one after the other.

    taskset -c 0,1 python bench/best_of_top_k.py [--output bench/results/best_of_top_k.json]

Three target prompts are tuned from three source prompts on the `mini` backbone, once as three
prompts of one program, once as three programs, by the code that `spot transfer` runs; every run
is a separate process, so that none profits from what another compiled. Kinds of runs alternate
and are repeated, because other work may share the machine. Three times are taken:

    command   of the process, imports and all
    train     of the run within it: loading, compiling, steps, evaluations
    step      of one update, the median over the run without those that follow an evaluation

A program of three prompts does three times the arithmetic of one, so what it saves is what a small
step wastes: dispatch, Python, and cores that a small matrix does not fill. The batch sizes show
where that ends.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PROMPTS, LENGTH, LENGTHS = 3, 20, {"inputs": 24, "targets": 4}
BACKBONE = ROOT / "backbones" / "mini"
TIMES = ("command", "train", "step")


def prepare(directory: Path) -> None:
    """Write random source prompts and random tokenised examples: time does not depend on them."""
    from spot_jax.data.examples import Examples
    from spot_jax.methods.prompt_file import PromptFile
    from spot_jax.t5.stored import read_description

    described = read_description(BACKBONE)
    rng = np.random.default_rng(0)
    for i in range(PROMPTS):
        table = rng.normal(size=(LENGTH, described.config.emb_dim)).astype(np.float32)
        prompt = PromptFile(table, backbone=described.fingerprint, task=f"source {i}")
        prompt.save(directory / f"source-{i}.safetensors")
    for split, count in (("train", 2000), ("validation", 96)):
        pairs = [
            (
                rng.integers(100, 8000, LENGTHS["inputs"]).tolist(),
                rng.integers(100, 103, 2).tolist(),
            )
            for _ in range(count)
        ]
        Examples.from_lists(pairs).save(directory / f"target-{split}.npz")


def run(directory: Path, prompts: list[int], batch_size: int, steps: int) -> dict[str, float]:
    """Tune the target from some of the source prompts; called in the child process."""
    from spot_jax.data.data_source import DataSource
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.training import run as training
    from spot_jax.training.config import EvaluationPlan, StoredBackbone
    from spot_jax.training.metrics_log import MetricsLog
    from spot_jax.transfer.tuning import Tuning

    moments: list[float] = []

    class Timed(MetricsLog):
        def write(self, step: int, values: Mapping[str, Any]) -> None:
            if "train/loss" in values:
                moments.append(time.perf_counter())
            super().write(step, values)

    training.MetricsLog = Timed
    period = max(steps // 2, 1)
    plan = EvaluationPlan(period=period, decoding="greedy", batch_size=96)
    tuning = Tuning(
        StoredBackbone(str(BACKBONE), dropout_rate=0.1),
        DataSource(str(directory / "target-{split}.npz"), LENGTHS, batch_size=batch_size),
        PromptTuning(length=LENGTH),
        train_steps=steps,
        evaluation=plan,
    )
    starts = [str(directory / f"source-{i}.safetensors") for i in prompts]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=directory) as where:
        tuning.tune(Path(where), starts, [0] * len(prompts), plan, progress=False)
    whole = time.perf_counter() - start
    # The first steps wait for the compiler, one after an evaluation for the evaluation.
    gaps = [b - a for i, (a, b) in enumerate(zip(moments, moments[1:], strict=False))
            if i > 5 and all((i + j) % period for j in (0, 1, 2))]  # fmt: skip
    return {"train": whole, "step": statistics.median(gaps)}


def child(directory: Path, prompts: list[int], batch_size: int, steps: int) -> dict[str, float]:
    """Time one run in a separate process."""
    arguments = [str(directory), ",".join(map(str, prompts)), str(batch_size), str(steps)]
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, __file__, "--child", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    if process.returncode:
        raise SystemExit(process.stderr[-2000:])
    return {"command": time.perf_counter() - start, **json.loads(process.stdout.splitlines()[-1])}


def measure(directory: Path, batch_size: int, steps: int, repeats: int) -> dict:
    """Time both ways, alternating: medians over the repeats, and the ratio of each time."""
    together, apart = [], []
    for repeat in range(repeats):
        for first in (repeat % 2 == 0, repeat % 2 == 1):
            if first:
                together.append(child(directory, list(range(PROMPTS)), batch_size, steps))
            else:
                alone = [child(directory, [i], batch_size, steps) for i in range(PROMPTS)]
                apart.append({name: sum(times[name] for times in alone) for name in TIMES})
    result: dict = {"batch_size": batch_size, "steps": steps, "repeats": repeats}
    for name in TIMES:
        single, three = ([run[name] for run in runs] for runs in (together, apart))
        result[name] = {
            "in_one_program_s": round(statistics.median(single), 5),
            "one_after_the_other_s": round(statistics.median(three), 5),
            "ratio": round(statistics.median(a / b for a, b in zip(single, three, strict=True)), 3),
            "ratios": [round(a / b, 3) for a, b in zip(single, three, strict=True)],
        }
    return result


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        directory, prompts, batch_size, steps = sys.argv[2:]
        numbers = [int(i) for i in prompts.split(",")]
        print(json.dumps(run(Path(directory), numbers, int(batch_size), int(steps))))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default=str(ROOT / "bench/results/best_of_top_k.json"))
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as where:
        prepare(Path(where))
        results = []
        for size in arguments.batch_sizes:
            results.append(measure(Path(where), size, arguments.steps, arguments.repeats))
            print(json.dumps(results[-1]), flush=True)
    record.write(
        arguments.output,
        f"{PROMPTS} target prompts from {PROMPTS} source prompts: one program against three, one "
        "after the other",
        BACKBONE,
        results,
        prompt_length=LENGTH,
        lengths=LENGTHS,
    )


if __name__ == "__main__":
    main()
