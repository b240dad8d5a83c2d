"""A method of a user's own, in a directory of theirs: from Python and from gin, files and all."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_text import store_backbone

import spot_jax as spot
from spot_jax.cli.main import main
from spot_jax.methods.base import methods
from spot_jax.methods.stored import inference_of

EXAMPLES = Path(spot.__file__).parents[1] / "examples"
TASK, LENGTHS = "bundled_vader_tweets", {"inputs": 24, "targets": 4}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return store_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example's module, in an empty directory of the user's own."""
    for name in ("your_own_method.py", "your_own_method.gin"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("your_own_method", None)
    return importlib.import_module("your_own_method")


def train(example, backbone, directory, steps, **options):
    return spot.train(
        model_dir=directory,
        backbone=spot.StoredBackbone(backbone, dropout_rate=0.1),
        method=example.IA3(),
        data=spot.DataSource(TASK, LENGTHS, batch_size=8),
        train_steps=steps,
        checkpoints=spot.CheckpointPlan(period=2),
        progress=False,
        **{
            "optimizer": spot.AdamW(0.05),
            "evaluation": spot.EvaluationPlan(period=2, examples=8),
            **options,
        },
    )


def scales(result, i=0):
    file = spot.load_prompt(result.directory / "prompts" / f"last-{i}.safetensors")
    assert file.prompt is None and file.method["name"] == "IA3"
    return file.tensors


def test_it_fits_on_a_page_and_takes_its_name_from_its_class(example):
    assert len((EXAMPLES / "your_own_method.py").read_text().splitlines()) <= 60
    assert methods()["IA3"] is example.IA3


def test_it_trains_resumes_and_is_read_back(example, backbone):
    whole = train(example, backbone, "whole", 4)
    train(example, backbone, "parts", 2)
    parts = train(example, backbone, "parts", 4)
    tensors = scales(whole)
    # Keys and values of three attentions, and the hidden units of two feed-forward layers.
    assert len(tensors) == 8 and all(np.any(x != 1) for x in tensors.values())
    for name, x in scales(parts).items():
        np.testing.assert_array_equal(x, tensors[name])
    # What a file gives is the T5 with its kernels scaled, and the run's own score.
    tuned = spot.open_tuned("whole", which="last")
    inference = inference_of(tuned.backbone.params, tuned.backbone.config, tuned.prompts[0].file)
    path = "encoder/layers_0/mlp/wo/kernel"
    leaf, scaled = tuned.backbone.params, inference.params
    for key in path.split("/"):
        leaf, scaled = leaf[key], scaled[key]
    np.testing.assert_allclose(scaled, np.asarray(leaf) * tensors[path], rtol=1e-6)
    (score,) = spot.score(tuned, split="validation", examples=8)
    assert score.loss == pytest.approx(whole.last[0]["loss"], rel=1e-5)


@pytest.mark.slow
def test_several_in_one_program_are_each_as_alone(example, backbone):
    options = {"evaluation": spot.EvaluationPlan(period=0)}
    rates = spot.AdamW([0.05, 0.02])
    both = train(example, backbone, "both", 3, seeds=[0, 1], optimizer=rates, **options)
    for i, rate in enumerate(rates.learning_rate):
        optimizer = spot.AdamW(rate)
        alone = train(example, backbone, f"alone-{i}", 3, seeds=i, optimizer=optimizer, **options)
        for name, x in scales(alone).items():
            np.testing.assert_allclose(x, scales(both, i)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_from_gin_and_from_the_shell(example, backbone, capsys):
    command = [
        "train",
        "--gin_file=your_own_method.gin",
        "--gin.MODEL_DIR='run'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{backbone}'",
        f"--gin.MIXTURE_OR_TASK_NAME='{TASK}'",
        f"--gin.TASK_FEATURE_LENGTHS={LENGTHS}",
        "--gin.TRAIN_STEPS=2",
        "--gin.EVAL_PERIOD=2",
        "--gin.BATCH_SIZE=8",
        "--gin.EvaluationPlan.examples=8",
    ]
    assert main(command) == 0
    assert json.loads(Path("run/run.json").read_text())["method"] == "IA3"
    capsys.readouterr()
    Path("texts").write_text("what a lovely day\nnot again ...\n")
    assert main(["infer", "run", "--module", "your_own_method", "--input", "texts"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    inputs = ["what a lovely day", "not again ..."]
    predictor = spot.load("run")
    assert [row["prediction"] for row in rows] == predictor.predict(inputs)
    assert predictor.predict({"text": inputs[0]}) == predictor.predict(inputs[0])
    fields = [{"inputs": f"text: {text}"} for text in inputs]
    assert predictor.predict(fields) == predictor.predict(inputs)
    with pytest.raises(spot.SpotError, match="input 2: expected a text or a mapping .* found int"):
        predictor.predict(["a", 3])


def test_a_file_of_a_method_that_nobody_imported_says_what_to_do(example, backbone, monkeypatch):
    result = train(example, backbone, "run", 1, evaluation=spot.EvaluationPlan(period=0))
    others = {name: cls for name, cls in methods().items() if name != "IA3"}
    monkeypatch.setattr("spot_jax.methods.stored.methods", lambda: others)
    with pytest.raises(spot.SpotError, match="by the method IA3, .* with --module MODULE"):
        spot.load(result.directory)
