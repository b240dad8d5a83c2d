"""The best weights of a run that tunes them: two on disk, and the best is what is stored."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotWarning
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.t5.stored import read_description
from spot_jax.training import run as run_module
from spot_jax.training.best_weights import BestWeights
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.optimizers import Adafactor


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """A rate that is small for two steps and then ruins the weights."""

    def __call__(self, step):
        return jnp.where(step < 2, 1.0, 1000.0)


OPTIONS = {
    "method": ModelTuning(),
    "optimizer": Adafactor(0.001, Spoilt(), weight_decay=0.0, parameter_scale=True),
    "evaluation": EvaluationPlan(period=1),
}


def test_two_steps_are_held_and_read_back(tmp_path):
    weights = BestWeights(tmp_path / "best")
    trees = {step: {"a": {"b": jnp.full((2, 3), float(step))}} for step in (1, 2, 3)}
    weights.save(1, trees[1], named=-1)
    weights.save(2, trees[2], named=1)
    assert weights.holds(1) and weights.holds(2)
    # The checkpoint still names step 1.
    weights.save(3, trees[3], named=1)
    assert [step for step in trees if weights.holds(step)] == [1, 3]
    weights.drop_all_but({3})
    weights.close()
    again = BestWeights(tmp_path / "best")
    assert [step for step in trees if again.holds(step)] == [3]
    np.testing.assert_array_equal(again.restore(3, trees[1])["a"]["b"], 3.0)
    again.close()


def fingerprint(result):
    return read_description(result.directory / "backbone").fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("period", [1, 3])
def test_the_stored_model_is_the_best_one_and_so_after_a_stop(
    worded, tmp_path, period, monkeypatch
):
    plan = {"checkpoints": CheckpointPlan(period=period)}
    result = worded.train(tmp_path / "run", 5, **OPTIONS, **plan)
    step = result.best[0].step
    # The weights are ruined after two steps.
    assert step < 5 and result.best[0].metrics["loss"] < result.last[0]["loss"]
    until = worded.train(tmp_path / "until", step, **OPTIONS, **plan)
    assert fingerprint(result) == fingerprint(until)
    held = sorted(path.name for path in (tmp_path / "run" / "best").iterdir() if path.is_dir())
    assert held == [str(step)]

    # Stopped after the best step, by an error between two checkpoints, and gone on.
    fit = run_module.fit

    def stopping(state, frozen, step_function, *rest):
        def stop(state, *others):
            if int(state.step) == 4:
                raise KeyboardInterrupt
            return step_function(state, *others)

        stop.close = lambda: None
        return fit(state, frozen, stop, *rest)

    monkeypatch.setattr(run_module, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        worded.train(tmp_path / "stopped", 5, **OPTIONS, **plan)
    monkeypatch.setattr(run_module, "fit", fit)
    again = worded.train(tmp_path / "stopped", 5, **OPTIONS, **plan)
    assert again.best == result.best and fingerprint(again) == fingerprint(result)


@pytest.mark.slow
def test_a_run_that_kept_the_last_weights_alone_goes_on_with_a_word(worded, tmp_path):
    options = {**OPTIONS, "checkpoints": CheckpointPlan(period=1)}
    worded.train(tmp_path / "run", 3, **options)
    for path in (tmp_path / "run" / "best").iterdir():
        path.rename(tmp_path / f"gone-{path.name}")
    with pytest.warns(SpotWarning, match="has not kept the weights of step"):
        result = worded.train(tmp_path / "run", 4, **options)
    assert result.best[0].step == 4
