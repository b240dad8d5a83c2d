"""What a run does by its plans: ends early, keeps prompts of steps, writes a profile."""

import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import Adafactor


@pytest.mark.slow
def test_a_run_ends_when_no_score_is_better_for_as_long_as_there_is_patience(worded, tmp_path):
    still = {"optimizer": Adafactor(1e-30, weight_decay=0.0)}
    plan = EvaluationPlan(period=2, batch_size=10, patience=3)
    first = worded.train(tmp_path / "run", 40, evaluation=plan, **still)
    # Best at the first evaluation, three more are no better.
    assert (first.best[0].step, first.step, first.finished) == (2, 8, True)
    again = worded.train(tmp_path / "run", 40, evaluation=plan, **still)
    assert again.step == 8
    with pytest.raises(SpotError, match="patience counts evaluations"):
        EvaluationPlan(period=0, patience=1)


@pytest.mark.slow
def test_prompts_of_steps_are_those_of_runs_that_end_there_and_are_scored(worded, tmp_path):
    plan = CheckpointPlan(period=2, prompt_steps=(1, 3))
    evaluation = EvaluationPlan(period=1, batch_size=10)
    options = {"seeds": [0, 1], "evaluation": evaluation}
    run = worded.train(tmp_path / "run", 4, checkpoints=plan, **options)
    short = worded.train(tmp_path / "short", 3, **options)
    files = [run.directory / "prompts" / f"step-{step}-0.safetensors" for step in (1, 3)]
    last = load_prompt(short.directory / "prompts" / "last-0.safetensors")
    assert load_prompt(files[1]).step == 3
    np.testing.assert_array_equal(load_prompt(files[1]).rows, last.rows)
    scores = score(open_tuned(run.directory, prompts=files), split="validation")
    logged = [line["validation/loss"][0] for line in read_metrics(run.directory)
              if "validation/loss" in line]  # fmt: skip
    assert [s.loss for s in scores] == pytest.approx([logged[0], logged[2]], rel=1e-5)
    with pytest.raises(SpotError, match="is at step 4 and kept no prompt at step 2"):
        worded.train(
            tmp_path / "run", 6, checkpoints=CheckpointPlan(2, prompt_steps=(2,)), **options
        )


def test_steps_that_no_run_has_are_refused(worded, tmp_path):
    plan = {"checkpoints": CheckpointPlan(prompt_steps=(5,))}
    with pytest.raises(SpotError, match=r"prompt_steps is \[5\], but the run's steps are 1 to 4"):
        worded.train(tmp_path / "run", 4, **plan)
    with pytest.raises(SpotError, match="a tuned model is not kept by steps"):
        worded.train(tmp_path / "run", 9, method=ModelTuning(), **plan)
    with pytest.raises(SpotError, match="CheckpointPlan.prompt_steps is 0"):
        CheckpointPlan(prompt_steps=(0,)).check()


@pytest.mark.slow
def test_a_profile_of_some_steps_is_written(tiny, tmp_path):
    result = tiny.train(tmp_path / "run", 6, profile_steps=2)
    assert list((result.directory / "profile").rglob("*.xplane.pb"))
    with pytest.raises(SpotError, match="train.profile_steps is 0 or more"):
        tiny.train(tmp_path / "other", 1, profile_steps=-1)


@pytest.mark.slow
def test_the_log_has_a_step_in_so_many(tiny, tmp_path):
    every, few = (tiny.train(tmp_path / str(n), 6, stats_period=n) for n in (1, 3))
    lines = [read_metrics(result.directory) for result in (every, few)]
    assert lines[1] == [line for line in lines[0] if line["step"] in (3, 6)]
    with pytest.raises(SpotError, match="train.stats_period is 0"):
        tiny.train(tmp_path / "other", 1, stats_period=0)
