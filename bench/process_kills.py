"""A run of four processes of which one is killed again and again, at random moments.

    python -m bench.process_kills [--kills 10] [--output bench/results/process_kills.json]

`spot train` is started as four joined processes on a mesh of 2x2, once undisturbed and then, in
another directory, again and again: some time after they have joined, a process drawn at random is
killed without warning. The others must end within 60 s, each with one line of ours and its exit
code, and the same command must go on. A start that ends before the kill counts as none, and the
next one begins anew. At the end the prompt is compared with the undisturbed run's, bit for bit.
"""

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import record
from spot_jax.data.examples import Examples
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.training.distributed import PEER_LOST

ROOT = Path(__file__).parents[1]
COUNT, STEPS = 4, 120
SECONDS = 60.0


class Processes:
    """The four processes of a start."""

    def __init__(self, work: Path, run: Path):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
        command = [
            *(sys.executable, "-m", "spot_jax.cli.main", "train"),
            "--gin_file=gin_configs/runs/prompt_tuning.gin",
            f"--gin.MODEL_DIR='{run}'",
            "--gin.INITIAL_CHECKPOINT_PATH='backbones/mini'",
            f"--gin.MIXTURE_OR_TASK_NAME='{work / 'task.npz'}'",
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
            *("--gin.PROMPT_INIT='uniform'", "--gin.PROMPT_LENGTH=4", "--gin.EVAL_PERIOD=0"),
            *(f"--gin.TRAIN_STEPS={STEPS}", "--gin.BATCH_SIZE=8", "--gin.MESH='2x2'"),
            *("--gin.CheckpointPlan.period=10", "--gin.CheckpointPlan.embedding_step=0"),
            *(f"--coordinator_address={address}", f"--process_count={COUNT}"),
        ]
        self.errors = [work / f"errors-{number}" for number in range(COUNT)]
        self.all = []
        for number, errors in enumerate(self.errors):
            with errors.open("wb") as file:
                process = subprocess.Popen(
                    [*command, f"--process_id={number}"],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                )
            self.all.append(process)

    def wait(self, seconds: float) -> None:
        """Wait until all have ended; kill what is left, and raise, after so many seconds."""
        until = time.monotonic() + seconds
        try:
            for process in self.all:
                process.wait(max(0.0, until - time.monotonic()))
        finally:
            for process in self.all:
                process.kill()

    def lines(self, number: int) -> list[str]:
        """Return what a process has said of ours on standard error."""
        text = self.errors[number].read_text(errors="replace")
        return [line for line in text.splitlines() if line.startswith("spot: ")]


def steps_done(run: Path) -> int:
    """Return the number of lines in a run's log."""
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def write_task(path: Path) -> None:
    """Write random examples, of a vocabulary that `mini` has."""
    draw = np.random.default_rng(0)
    pairs = [
        ([*draw.integers(3, 8000, draw.integers(3, 16)).tolist(), 1], [5 + i % 2, 1])
        for i in range(200)
    ]
    Examples.from_lists(pairs).save(path)


def joined(processes: Processes, run: Path) -> None:
    """Wait until the run directory is there, which the processes write once they have joined."""
    while not (run / ".owner").exists():
        assert all(process.poll() is None for process in processes.all), processes.lines(0)
        time.sleep(0.05)


def kill_one(processes: Processes, draw: random.Random, seconds: float) -> dict | None:
    """Kill a process after a random while; return what came of it, None if all had ended."""
    time.sleep(draw.uniform(0.0, seconds))
    victim = draw.randrange(COUNT)
    if any(process.poll() is not None for process in processes.all):
        processes.wait(SECONDS)
        return None
    processes.all[victim].kill()
    began = time.monotonic()
    processes.wait(2 * SECONDS)
    others = [number for number in range(COUNT) if number != victim]
    return {
        "victim": victim,
        "seconds": round(time.monotonic() - began, 1),
        "exit_codes": [processes.all[number].returncode for number in others],
        "lines": [len(processes.lines(number)) for number in others],
    }


def measure(work: Path, kills: int, seed: int) -> dict:
    """Return what came of the kills, and whether the prompt is the undisturbed run's."""
    write_task(work / "task.npz")
    # Twice: the second time nothing has to be compiled.
    for name in ("first", "whole"):
        processes = Processes(work, work / name)
        joined(processes, work / name)
        began = time.monotonic()
        processes.wait(600)
        seconds = time.monotonic() - began
        assert all(process.returncode == 0 for process in processes.all), processes.lines(0)
    killed, draw, results, finished = work / "killed", random.Random(seed), [], 0
    while len(results) < kills:
        (killed / ".owner").unlink(missing_ok=True)
        processes = Processes(work, killed)
        joined(processes, killed)
        # Rarely past the end: what is done goes on from the last checkpoint.
        result = kill_one(processes, draw, seconds * 0.9)
        if result is None:
            finished += 1
            shutil.rmtree(killed)
            continue
        results.append({**result, "steps_done": steps_done(killed)})
        print(json.dumps(results[-1]), flush=True)
    processes = Processes(work, killed)
    processes.wait(600)
    assert all(process.returncode == 0 for process in processes.all), processes.lines(0)
    prompts = [
        load_prompt(d / "prompts/last-0.safetensors").prompt for d in (work / "whole", killed)
    ]
    return {
        "steps": STEPS,
        "seconds_of_the_undisturbed_run": round(seconds, 1),
        "starts_that_ended_before_the_kill": finished,
        "longest_seconds_to_the_end_of_the_others": max(each["seconds"] for each in results),
        "one_line_each": all(count == 1 for each in results for count in each["lines"]),
        "exit_codes": sorted({code for each in results for code in each["exit_codes"]}),
        "expected_exit_code": PEER_LOST,
        "same_prompt": bool(np.array_equal(*prompts)),
        "kills": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="bench/results/process_kills.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        result = measure(Path(work), arguments.kills, arguments.seed)
    record.write(
        arguments.output,
        "four joined processes, one killed at a random moment, again and again",
        ROOT / "backbones/mini",
        [result],
    )


if __name__ == "__main__":
    main()
