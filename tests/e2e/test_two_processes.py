"""Two fresh processes: the same command gives the same prompt and the same test predictions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spot_jax.methods.prompt_forms import load_prompt

ROOT = Path(__file__).parents[2]
SPOT = [sys.executable, "-m", "spot_jax.cli.main"]


def run(directory: Path, number: int) -> tuple[np.ndarray, list[dict]]:
    """Trains a prompt on what ships and predicts, each in a process of its own."""
    # Another order of hashes each time, and nothing compiled by others.
    environment = {**os.environ, "PYTHONHASHSEED": str(number), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    trained = directory / str(number)
    commands = [
        [
            "train",
            "--gin_file=gin_configs/runs/spot_source_mini.gin",
            f"--gin.MODEL_DIR='{trained}'",
            "--gin.MIXTURE_OR_TASK_NAME='bundled_wordnet_hypernym'",
            "--gin.TRAIN_STEPS=12",
            "--gin.EMBEDDING_STEP=3",
            "--gin.EVAL_PERIOD=6",
            "--gin.EVAL_EXAMPLES=50",
            "--gin.DROPOUT_RATE=0.1",
        ],
        ["eval", str(trained), "--examples", "200", "--output", f"{trained}.jsonl"],
    ]
    for command in commands:
        done = subprocess.run(
            [*SPOT, *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in Path(f"{trained}.jsonl").read_text().splitlines()]
    return load_prompt(trained / "prompts" / "last-0.safetensors").prompt, rows


@pytest.mark.slow
def test_the_same_command_in_two_processes_gives_the_same_predictions(tmp_path):
    (prompt, rows), (other, others) = (run(tmp_path, number) for number in (1, 2))
    np.testing.assert_array_equal(prompt, other)
    assert len(rows) == 200 and len({row["prediction"] for row in rows}) > 1
    for row, again in zip(rows, others, strict=True):
        # The file's own name is in a row.
        assert {**row, "prompt": ""} == {**again, "prompt": ""}
