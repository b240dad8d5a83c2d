"""One of four joined processes is killed at a random moment, ten times; the run is the same.

Before they are joined the others wait for whoever has not come yet, dead or late, as long as JAX
waits; so moments are drawn from when they are.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_text import store_backbone

from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.training.distributed import PEER_LOST

ROOT = Path(__file__).parents[2]
KILLS = 10
STEPS = 40
# Names of what is written before it is moved into its place.
LEFTOVERS = re.compile(r"\.(part|tmp)|orbax-checkpoint-tmp")


def started(directory, backbone, logs):
    """Start the run on four processes, each of which writes what it says into a file of `logs`."""
    logs.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [
        *(sys.executable, "-m", "spot_jax.cli.main", "train"),
        "--gin_file=gin_configs/runs/spot_source_mini.gin",
        f"--gin.MODEL_DIR='{directory}'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{backbone}'",
        "--gin.MIXTURE_OR_TASK_NAME='bundled_sms_spam'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
        *(f"--gin.TRAIN_STEPS={STEPS}", "--gin.EMBEDDING_STEP=5", "--gin.EVAL_PERIOD=5"),
        *("--gin.EVAL_EXAMPLES=20", "--gin.PROMPT_LENGTH=3", "--gin.MESH='2x2'"),
        *(f"--coordinator_address={address}", "--process_count=4"),
    ]
    processes = []
    for number in range(4):
        with (logs / str(number)).open("w") as log:
            processes.append(
                subprocess.Popen(
                    [*command, f"--process_id={number}"],
                    cwd=ROOT,
                    env={**os.environ, "JAX_PLATFORMS": "cpu"},
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )
    return processes


def joined(logs):
    """Return whether all processes have met, which Gloo says."""
    return all("[Gloo] Rank" in (logs / str(number)).read_text() for number in range(4))


def finished(directory, backbone):
    """Let the run come to its end; return its seconds from where they are joined."""
    logs = directory.with_suffix(".logs")
    processes = started(directory, backbone, logs)
    while not joined(logs):
        time.sleep(0.1)
    began = time.monotonic()
    for number, process in enumerate(processes):
        assert process.wait(timeout=400) == 0, (logs / str(number)).read_text()[-3000:]
    return time.monotonic() - began


def prompts(directory):
    files = sorted((directory / "prompts").glob("*.safetensors"))
    return {file.name: load_prompt(file).prompt.tobytes() for file in files}


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_same_command_goes_on(tmp_path):
    backbone = store_backbone(tmp_path / "backbone")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished(whole, backbone)
    shutil.rmtree(whole)
    # The second time, when programs are compiled already, says how long it takes.
    seconds = finished(whole, backbone)
    expected = prompts(whole)
    assert len(expected) == 3
    rng, kills, within, logs = random.Random(0), 0, [], tmp_path / "logs"
    while kills < KILLS:
        processes = started(killed, backbone, logs)
        while not joined(logs):
            time.sleep(0.1)
        time.sleep(rng.uniform(0.0, 0.9 * seconds))
        victim = rng.choice(processes)
        victim.kill()
        began, codes = time.monotonic(), []
        for number, process in enumerate(processes):
            code = process.wait(timeout=120)
            if process is victim:
                continue
            errors = (logs / str(number)).read_text()
            said = [line for line in errors.splitlines() if line.startswith("spot: ")]
            # A process that had nothing left to do with the others ends as ever.
            assert (code, len(said)) in ((PEER_LOST, 1), (0, 0)), errors[-3000:]
            assert "Traceback" not in errors
            codes.append(code)
        if PEER_LOST in codes:
            kills += 1
            within.append(time.monotonic() - began)
        else:
            # The run was at its end already; another one is begun.
            assert prompts(killed) == expected
            shutil.rmtree(killed)
    print("seconds until the others had ended:", [round(x, 1) for x in within])
    assert max(within) < 60
    finished(killed, backbone)
    assert prompts(killed) == expected
    assert not [path for path in killed.rglob("*") if LEFTOVERS.search(path.name)]
