"""Scores of a stored run are those that it logged; votes are votes; mistakes are one line."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
from etils import epath

from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.evaluation.ensemble import ensemble_predictions
from spot_jax.inference.scores import score
from spot_jax.inference.table import table
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.t5.stored import read_description
from spot_jax.training.run_info import read_setup

TASK = "bundled_vader_tweets"


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_run_s_scores_are_those_that_it_logged(world, which):
    scores = score(open_tuned(world.run, which=which), split="validation")
    assert [s.examples for s in scores] == [404, 404]
    for i, scored in enumerate(scores):
        logged = load_prompt(Path(world.run) / "prompts" / f"{which}-{i}.safetensors").metrics
        assert {**scored.metrics, "loss": scored.loss, "score": scored.score} == logged
    result = json.loads((Path(world.run) / "result.json").read_text())
    if which == "best":
        assert [scored.score for scored in scores] == [best["score"] for best in result["best"]]


def test_a_vote_is_that_of_three_single_scores(world):
    tuned = open_tuned(world.run, prompts=world.prompts)
    alone = score(tuned, split="validation")
    *members, vote = score(tuned, split="validation", ensemble=True)
    assert len({tuple(a.predictions) for a in alone}) == 3
    assert [m.predictions for m in members] == [a.predictions for a in alone]
    assert [m.metrics for m in members] == [a.metrics for a in alone]
    assert vote.predictions == ensemble_predictions([a.predictions for a in alone])
    assert vote.metrics != alone[0].metrics
    assert vote.loss == pytest.approx(sum(a.loss for a in alone) / 3)


def test_without_a_run_directory_the_scores_are_the_same(world):
    with_run = score(open_tuned(world.run, prompts=world.prompts[:1]), split="validation")
    setup = json.loads((Path(world.run) / "setup.json").read_text())
    alone = score(
        open_tuned(backbone=world.backbone, prompts=world.prompts[:1]),
        split="validation",
        lengths=setup["lengths"],
        batch_size=setup["batch_size"],
    )
    assert with_run == alone


def test_prompts_go_to_their_own_tasks_or_to_those_named(world, two_tasks):
    tuned = open_tuned(two_tasks)
    scores = score(tuned, examples=8)
    assert [(s.task, Path(s.prompt).stem) for s in scores] == [
        (TASK, "last-0"),
        ("bundled_gap_coref", "last-1"),
    ]
    assert [s.prompt for s in score(tuned, tasks=["bundled_gap_coref"], examples=8)] == [
        scores[1].prompt
    ]
    run = open_tuned(world.run)
    elsewhere = score(run, tasks=["bundled_gap_coref"], examples=8)
    assert [s.prompt for s in elsewhere] == [prompt.name for prompt in run.prompts]


def test_majority_and_truncation_are_reported(world):
    (scored,) = score(open_tuned(world.run, prompts=world.prompts[:1]), split="validation")
    most = max(scored.targets.count(label) for label in set(scored.targets))
    assert scored.majority == pytest.approx(100 * most / 404)
    assert 0 < scored.truncated_inputs < 404
    text = table([scored])
    assert f"{scored.truncated_inputs} of 404 inputs of {TASK}" in text
    assert "targets" not in text
    short = score(open_tuned(world.run, prompts=world.prompts[:1]), lengths={"targets": 1})
    assert f"{short[0].truncated_targets} of {short[0].examples} targets of {TASK}" in table(short)
    assert short[0].truncated_targets == short[0].examples
    assert f"{scored.majority:.2f}" in text.split("\n")[2]


def test_tuned_weights_are_scored_without_a_prompt(world, tuned_weights):
    tuned = open_tuned(tuned_weights)
    assert tuned.backbone.fingerprint == read_description(epath.Path(world.other)).fingerprint
    (scored,) = score(tuned, examples=8)
    assert (scored.prompt, scored.examples) == ("no prompt", 8)


def test_a_backbone_that_moved(world, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(world.run, moved)
    setup = json.loads((moved / "setup.json").read_text())
    setup["backbone"] = "/nowhere/backbone"
    (moved / "setup.json").write_text(json.dumps(setup))
    with pytest.raises(SpotError, match=r"no longer at /nowhere/backbone.*--backbone DIR"):
        open_tuned(moved)
    assert open_tuned(moved, backbone=world.backbone).backbone.fingerprint


@pytest.fixture
def complaint(capsys):
    """Runs `spot` to its mistake: the one line, nothing on stdout, exit code 2."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("spot: ") and err.count("\n") == 1, err
        return err

    return run


def test_no_run(complaint, tmp_path):
    assert "no run directory at" in complaint("eval", str(tmp_path / "none"))
    assert "no setup.json" in complaint("eval", str(tmp_path))
    (tmp_path / "setup.json").write_text('{"format": 1, "tasks": [')
    assert "setup.json is damaged" in complaint("eval", str(tmp_path))
    assert "--backbone DIR" in complaint("eval")


def test_a_run_that_has_not_finished(complaint, world, tuned_weights, tmp_path):
    shutil.copytree(world.run, tmp_path / "run")
    for path in (tmp_path / "run" / "prompts").glob("last-*"):
        path.unlink()
    line = complaint("eval", str(tmp_path / "run"), "--which", "last")
    assert "is not finished" in line and "--which best" in line
    shutil.rmtree(tmp_path / "run" / "prompts")
    assert "is not finished and has no best prompt 0" in complaint("eval", str(tmp_path / "run"))

    shutil.copytree(tuned_weights, tmp_path / "weights")
    shutil.rmtree(tmp_path / "weights" / "backbone")
    assert "is not finished" in complaint("eval", str(tmp_path / "weights"))


def test_an_unknown_task_or_split(complaint, world):
    line = complaint("eval", world.run, "--task", "bundled_vader_tweet")
    assert "nearest: bundled_vader_tweets" in line
    line = complaint("eval", world.run, "--split", "dev")
    assert "train, validation, test" in line and "'dev'" in line
    assert "--examples N" in complaint("eval", world.run, "--split", "test[:10]")


def test_prompts_of_another_backbone_or_none(complaint, world):
    line = complaint("eval", "--backbone", world.other, "--prompt", world.prompts[0])
    assert "tuned on another backbone" in line
    assert "no prompt file" in complaint("eval", world.run, "--prompt", "none.safetensors")
    assert "--task NAME" in complaint("eval", "--backbone", world.backbone)
    assert "no backbone" in complaint("eval", "--backbone", "nowhere", "--task", TASK)


def test_an_ensemble_of_one(complaint, world):
    line = complaint("eval", world.run, "--ensemble", "--prompt", world.prompts[0])
    assert "at least two prompts" in line


def test_a_target_outside_the_labels(complaint, world, monkeypatch):
    from spot_jax.data import verbalizers

    monkeypatch.setitem(verbalizers._LABELS, TASK, ("positive", "negative"))
    line = complaint("eval", world.run)
    assert "'neutral'" in line and "negative" in line


def test_numbers_that_are_none(complaint, world):
    assert "--batch_size is at least 1" in complaint("eval", world.run, "--batch_size", "0")
    assert "invalid int value" in complaint("eval", world.run, "--beams", "x")


MODULE = """
from pathlib import Path

Path(__file__).with_suffix(".ran").write_text("ran")
"""


def test_a_module_that_a_run_names_runs_only_if_the_user_says_so(
    complaint, world, tmp_path, monkeypatch, capsys
):
    name = f"module_of_a_run_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    ran = tmp_path / f"{name}.ran"
    monkeypatch.syspath_prepend(str(tmp_path))
    directory = tmp_path / "run"
    shutil.copytree(world.run, directory)
    setup = dataclasses.replace(read_setup(world.run), modules=(name,))
    setup.save(directory)
    options = ["eval", str(directory), "--examples", "4", "--split", "validation"]
    message = complaint(*options)
    assert f"names the Python module {name}" in message and "--allow_modules_of_run" in message
    assert not ran.exists()
    assert main([*options, "--allow_modules_of_run"]) == 0 and ran.exists()
    capsys.readouterr()
    ran.unlink()
    del sys.modules[name]
    assert main([*options, "--module", name]) == 0 and ran.exists()


def test_prompts_that_are_not_the_run_s_own_are_not_taken_for_them(complaint, world, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    best = run / "prompts" / "best-1.safetensors"
    stored = load_prompt(best)
    dataclasses.replace(stored, task="bundled_gap_coref").save(best)
    line = complaint("eval", str(run))
    assert "a prompt of bundled_gap_coref, but the run's is of bundled_vader_tweets" in line
    # Nor is the last one for the best, whose file is gone.
    best.unlink()
    assert "best-1.safetensors is gone" in complaint("eval", str(run))
    assert len(open_tuned(run, which="last").prompts) == 2
