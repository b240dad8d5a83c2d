"""Prompt files and runs written by commit 76fbee3 open, predict and go on as they did."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_text import store_backbone

from spot_jax.data.data_source import DataSource
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.prefix_tuning import PrefixTuning
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.y_tuning import YTuning
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import Adafactor, AdamW
from spot_jax.training.run import train

HERE = Path(__file__).parent
RUNS = (
    "prompt_tuning",
    "continued",
    "p_tuning",
    "prefix",
    "prefix_mlp",
    "finding",
    "subspace",
    "fastfood",
    "y_tuning",
)
# Runs that are stored whole, with what `make_fixtures.py` started them with.
WHOLE = {
    "prompt_tuning": (PromptTuning(4), Adafactor(0.3), 3),
    "prefix_mlp": (PrefixTuning(2, "normal", hidden=5), AdamW(0.01), 2),
    "y_tuning": (YTuning(heads=2), AdamW(1e-2), 2),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The run directories, beside the backbone that they were tuned on."""
    directory = tmp_path_factory.mktemp("written_by_76fbee3")
    with tarfile.open(HERE / "written_by_76fbee3.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    store_backbone(directory / "backbone")
    return directory


@pytest.fixture(scope="module")
def expected(runs) -> dict:
    return json.loads((runs / "expected.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_predicts_as_it_did(name, runs, expected):
    tuned = open_tuned(runs / name, backbone=runs / "backbone")
    scores = score(tuned, split="validation", examples=16, batch_size=8)
    losses = [each.loss for each in scores]
    np.testing.assert_allclose(losses, expected[name]["losses"], rtol=1e-5)
    assert [each.predictions for each in scores] == expected[name]["predictions"]


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "prefix_mlp", "y_tuning"])
def test_a_prompt_file_alone_predicts_as_it_did(name, runs, expected):
    files = sorted((runs / name / "prompts").glob("best-*.safetensors"))
    tuned = open_tuned(backbone=runs / "backbone", prompts=files)
    options = {"lengths": {"inputs": 24, "targets": 4}, "examples": 16, "batch_size": 8}
    losses = [each.loss for each in score(tuned, split="validation", **options)]
    np.testing.assert_allclose(losses, expected[name]["losses"], rtol=1e-5)


SLOW = ("y_tuning", "prefix_mlp")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WHOLE],
)
def test_a_run_goes_on_as_it_would_have(name, runs, expected, monkeypatch):
    monkeypatch.chdir(runs)
    method, optimizer, steps = WHOLE[name]
    result = train(
        model_dir=name,
        backbone=StoredBackbone("backbone", dropout_rate=0.0),
        method=method,
        data=DataSource("bundled_vader_tweets", {"inputs": 24, "targets": 4}, batch_size=8),
        optimizer=optimizer,
        train_steps=steps + 2,
        seeds=[0, 1],
        evaluation=EvaluationPlan(period=1, examples=16),
        checkpoints=CheckpointPlan(period=1, keep=1),
        progress=False,
    )
    assert (result.step, result.finished) == (steps + 2, True)
    prompts = open_tuned(name, backbone="backbone", which="last").prompts
    for prompt, rows in zip(prompts, expected[name]["later"], strict=True):
        assert prompt.file.step == steps + 2
        values = prompt.file.tensors["labels"] if name == "y_tuning" else prompt.file.rows
        np.testing.assert_allclose(values, rows, rtol=1e-3, atol=1e-5)
