"""Every verb, really run, on a tiny backbone with random weights."""

import io
import json
from pathlib import Path

import pytest
from tiny_text import store_backbone

from spot_jax.cli.main import main
from spot_jax.t5.backbone import load_backbone


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run directory that `spot train` wrote, and the command."""
    directory = tmp_path_factory.mktemp("verbs")
    store_backbone(directory / "backbone")
    command = [
        "train",
        "--gin_file=gin_configs/runs/prompt_tuning.gin",
        f"--gin.MODEL_DIR='{directory / 'run'}'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{directory / 'backbone'}'",
        "--gin.MIXTURE_OR_TASK_NAME='bundled_vader_tweets'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 24, 'targets': 4}",
        "--gin.TRAIN_STEPS=2",
        "--gin.EVAL_PERIOD=1",
        "--gin.PROMPT_LENGTH=3",
        "--gin.BATCH_SIZE=64",
        "--gin.DROPOUT_RATE=0.0",
    ]
    assert main(command) == 0
    return directory / "run", command


def test_train_leaves_a_complete_run(trained, capsys):
    directory, command = trained
    setup = json.loads((directory / "setup.json").read_text())
    assert setup["tasks"] == [
        {
            "name": "bundled_vader_tweets",
            "labels": ["negative", "neutral", "positive"],
            "template": "text: {text}",
            "keeps_eos": False,
        }
    ]
    assert Path(setup["backbone"]).is_absolute()
    assert "PosixPath" not in (directory / "result.json").read_text()
    config = (directory / "config.gin").read_text()
    # The same command finds nothing left to do.
    before = (directory / "prompts" / "best-0.safetensors").read_bytes()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"step 2 of {directory} done" in out and "best at step" in out
    assert (directory / "prompts" / "best-0.safetensors").read_bytes() == before
    assert (directory / "config.gin").read_text() == config


def test_eval_gives_the_score_that_training_logged(trained, capsys, tmp_path):
    directory, _ = trained
    output = tmp_path / "out" / "predictions.jsonl"
    arguments = ["eval", str(directory), "--split", "validation"]
    assert main([*arguments, "--json", "--output", str(output)]) == 0
    (evaluation,) = json.loads(capsys.readouterr().out)
    best = json.loads((directory / "result.json").read_text())["best"][0]
    assert evaluation["score"] == best["score"]
    assert {
        **evaluation["metrics"],
        "loss": evaluation["loss"],
        "score": evaluation["score"],
    } == best["metrics"]
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    right = sum(row["target"] == row["prediction"] for row in rows)
    assert len(rows) == 404 and 100 * right / 404 == pytest.approx(
        evaluation["metrics"]["accuracy"]
    )

    assert main(arguments) == 0
    head, line, majority, cut = capsys.readouterr().out.splitlines()
    assert head.split() == ["task", "split", "prompt", "examples", "accuracy", "macro_f1", "loss"]
    assert line.split()[3:5] == ["404", f"{evaluation['metrics']['accuracy']:.2f}"]
    assert "majority class" in majority and "cut" in cut


@pytest.mark.parametrize("decoding", ["auto", "greedy"])
def test_infer_writes_a_line_for_each_that_it_reads(trained, capsys, monkeypatch, decoding):
    monkeypatch.setattr("sys.stdin", io.StringIO("what a day\n\nnot again ...\n"))
    assert main(["infer", str(trained[0]), "--decoding", decoding]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["what a day", "not again ..."]
    labels = {"negative", "neutral", "positive"}
    assert all(row["prediction"] in labels for row in rows) == (decoding == "auto")


def test_convert_imports_a_checkpoint(golden, capsys, tmp_path):
    source = next(golden.rglob("ckpt_minimal/checkpoint_2"))
    assert main(["convert", str(source), str(tmp_path / "backbone")]) == 0
    assert capsys.readouterr().out
    assert load_backbone(tmp_path / "backbone").config.emb_dim == 32


def test_tasks_are_listed(capsys):
    assert main(["tasks"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert "bundled_vader_tweets" in names and "bundled_pair" in names


@pytest.mark.parametrize("verb", ["train", "eval", "infer", "convert", "tasks"])
def test_help_of_every_verb(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"spot {verb}" in capsys.readouterr().out
