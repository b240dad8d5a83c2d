"""Verbs on four processes that are joined by hand: the results of one, printed once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tiny_text import store_backbone

from spot_jax.methods.prompt_forms import load_prompt

ROOT = Path(__file__).parents[2]
SPOT = [sys.executable, "-m", "spot_jax.cli.main"]
LENGTHS = ["--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}"]


def spot(count, *command, stdin=None):
    """Run a command on some processes; return what each printed."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    flags = []
    if count > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        flags = [f"--coordinator_address={address}", f"--process_count={count}"]
    started = [
        subprocess.Popen(
            [*SPOT, *map(str, command), *flags, *([f"--process_id={number}"] if flags else [])],
            cwd=ROOT,
            env=environment,
            stdin=None if stdin is None else stdin.open("rb"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    outputs = [process.communicate(timeout=400) for process in started]
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    said = [out for out, _ in outputs]
    assert said[0] and not any(said[1:])
    return said[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on one process and one on four."""
    directory = tmp_path_factory.mktemp("runs")
    backbone = store_backbone(directory / "backbone")
    for count, mesh in ((1, "1x1"), (4, "2x2")):
        spot(
            count,
            "train",
            "--gin_file=gin_configs/runs/spot_source_mini.gin",
            f"--gin.MODEL_DIR='{directory / str(count)}'",
            f"--gin.INITIAL_CHECKPOINT_PATH='{backbone}'",
            "--gin.MIXTURE_OR_TASK_NAME='bundled_sms_spam'",
            *LENGTHS,
            *("--gin.TRAIN_STEPS=6", "--gin.EMBEDDING_STEP=3", "--gin.EVAL_PERIOD=3"),
            *("--gin.EVAL_EXAMPLES=20", "--gin.PROMPT_LENGTH=3", f"--gin.MESH='{mesh}'"),
            # Sums come in another order, which Adafactor enlarges: at 0.3 to 1e-4 in six steps.
            "--gin.LEARNING_RATE=0.01",
        )
    return directory


@pytest.mark.slow
def test_training_and_its_evaluation(trained):
    for name in ("last-0", "embedding-0"):
        single, four = (
            load_prompt(trained / count / "prompts" / f"{name}.safetensors") for count in "14"
        )
        np.testing.assert_allclose(single.prompt, four.prompt, rtol=1e-5, atol=1e-5)
    single, four = (json.loads((trained / n / "result.json").read_text()) for n in "14")
    assert single["best"][0]["step"] == four["best"][0]["step"]
    assert four["last"][0]["accuracy"] == single["last"][0]["accuracy"]
    assert four["last"][0]["loss"] == pytest.approx(single["last"][0]["loss"], rel=1e-5)


@pytest.mark.slow
def test_scores_and_predictions(trained, tmp_path):
    scores = []
    for count in (1, 4):
        target = tmp_path / f"{count}.jsonl"
        spot(count, "eval", trained / "1", "--examples", 20, "--output", target)
        scores.append([json.loads(line)["prediction"] for line in target.read_text().splitlines()])
    assert scores[0] == scores[1] and len(scores[0]) == 20
    lines = tmp_path / "lines.txt"
    lines.write_text("win a prize now\nsee you at lunch\ncall this number\n")
    said = [spot(count, "infer", trained / "1", "--input", lines) for count in (1, 4)]
    assert said[0] == said[1] and len(said[0].splitlines()) == 3


@pytest.mark.slow
def test_a_transfer(trained, tmp_path):
    backbone, library = trained / "backbone", tmp_path / "library"
    spot(1, "prompts", "add", trained / "1", "--library", library)
    said = []
    for count, mesh in ((1, "1x1"), (4, "2x2")):
        lines = spot(
            count,
            "transfer",
            "--gin_file=gin_configs/runs/spot_transfer_mini.gin",
            *("--method=best_of_top_k", "--top_k=1", f"--library={library}"),
            "--target=bundled_vader_amazon_16shot",
            f"--gin.MODEL_DIR='{tmp_path / str(count)}'",
            f"--gin.INITIAL_CHECKPOINT_PATH='{backbone}'",
            *LENGTHS,
            *("--gin.TRAIN_STEPS=4", "--gin.EVAL_PERIOD=2", "--gin.PROMPT_LENGTH=3"),
            *("--gin.EMBEDDING_STEP=3", "--gin.EVAL_EXAMPLES=16", "--gin.SEEDS=0"),
            *("--gin.BATCH_SIZE=8", f"--gin.MESH='{mesh}'"),
        )
        said.append(lines.replace(str(tmp_path / str(count)), "RUN"))
    assert said[0] == said[1]


def leaves(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "joint", "prefix"])
def test_trained_weights_that_are_split_over_processes(kind, tmp_path):
    backbone = store_backbone(tmp_path / "backbone")
    settings = {
        "model": [
            "--gin_file=gin_configs/runs/model_tuning_mini.gin",
            *("--gin.WARMUP_STEPS=1", "--gin.LEARNING_RATE=0.001"),
        ],
        "joint": [
            "--gin_file=gin_configs/runs/p_tuning_mini.gin",
            "--gin.TEMPLATE='<prompt:2> {text:cut} {target}'",
            *("--gin.TUNE_BACKBONE=True", "--gin.ENCODER='mlp'"),
        ],
        "prefix": [
            "--gin_file=gin_configs/runs/prefix_tuning.gin",
            *("--gin.PREFIX_INIT='normal'", "--gin.PREFIX_LENGTH=2", "--gin.PREFIX_HIDDEN=8"),
            "--gin.LEARNING_RATE=0.0001",
        ],
    }[kind]
    for count, mesh in ((1, "1x1"), (4, "2x2")):
        spot(
            count,
            "train",
            *settings,
            f"--gin.MODEL_DIR='{tmp_path / str(count)}'",
            f"--gin.INITIAL_CHECKPOINT_PATH='{backbone}'",
            "--gin.MIXTURE_OR_TASK_NAME='bundled_vader_amazon_16shot'",
            *LENGTHS,
            *("--gin.TRAIN_STEPS=4", "--gin.EVAL_PERIOD=2", "--gin.EVAL_EXAMPLES=16"),
            *("--gin.BATCH_SIZE=8", f"--gin.MESH='{mesh}'"),
        )
    single, four = (json.loads((tmp_path / n / "result.json").read_text()) for n in "14")
    assert four["last"][0]["loss"] == pytest.approx(single["last"][0]["loss"], rel=1e-5)
    files = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").glob("**/*.safetensors")]
    files = [path for path in files if path.parts[0] in ("prompts", "backbone")]
    assert files and (kind == "prefix" or any(path.parts[0] == "backbone" for path in files))
    for path in files:
        alone, together = leaves(tmp_path / "1" / path), leaves(tmp_path / "4" / path)
        assert alone.keys() == together.keys()
        for name in alone:
            np.testing.assert_allclose(alone[name], together[name], rtol=1e-5, atol=1e-5)
