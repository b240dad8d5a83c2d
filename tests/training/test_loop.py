"""The loop with steps that are no model: when it saves, measures, reports and stops."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.training.loop import Hooks, StopSignal, fit
from spot_jax.training.step import State


class Recorder:
    """Hooks that write down what they are called for."""

    def __init__(self):
        self.calls = []

    def hooks(self, save_period, evaluation_period, keep_step=0):
        return Hooks(
            lambda state: self.calls.append(("save", int(state.step))),
            lambda step, state: self.calls.append(("evaluate", step, int(state.step))),
            lambda step, scalars: self.calls.append(("report", step, float(scalars["loss"]))),
            save_period,
            evaluation_period,
            lambda step, state: self.calls.append(("keep", step)),
            {keep_step},
        )


def state(step=0):
    return State(jnp.asarray(step), {}, {}, jax.random.split(jax.random.key(0), 1))


def stepping(bad=None, during=None):
    def step(state, frozen, batch):
        if during is not None:
            during(int(state.step) + 1)
        number = int(state.step) + 1
        loss = np.float32(np.nan if number == bad else batch["x"])
        metrics = {"loss": loss, "grad_norm": 1.0, "finite": np.isfinite(loss)}
        return State(state.step + 1, {}, {}, state.keys), metrics

    return step


def batches():
    return iter({"x": float(i)} for i in range(100))


def test_order_of_everything():
    recorder = Recorder()
    end, finished = fit(state(), {}, stepping(), batches(), dict, 5, recorder.hooks(2, 3, 4))
    assert finished
    assert end.step == 5
    reports = [call for call in recorder.calls if call[0] == "report"]
    assert reports == [("report", i + 1, float(i)) for i in range(5)]
    others = [call for call in recorder.calls if call[0] != "report"]
    expected = [("save", 2), ("evaluate", 3, 3), ("keep", 4), ("save", 4)]
    assert others == [*expected, ("evaluate", 5, 5), ("save", 5)]
    # Whatever is saved or measured has been reported, so found finite, before.
    for i, call in enumerate(recorder.calls):
        if call[0] != "report":
            assert ("report", call[1], call[1] - 1.0) in recorder.calls[:i]


def test_it_ends_with_a_save_where_it_is_over():
    recorder = Recorder()
    hooks = dataclasses.replace(recorder.hooks(100, 2), is_over=lambda step: step >= 4)
    end, finished = fit(state(), {}, stepping(), batches(), dict, 9, hooks)
    assert finished and end.step == 4
    assert recorder.calls[-2:] == [("evaluate", 4, 4), ("save", 4)]


def test_it_goes_on_from_the_states_step():
    recorder = Recorder()
    end, _ = fit(state(3), {}, stepping(), batches(), dict, 5, recorder.hooks(100, 0))
    assert end.step == 5
    assert [call[1] for call in recorder.calls if call[0] == "report"] == [4, 5]
    assert ("evaluate", 5, 5) in recorder.calls


@pytest.mark.parametrize(("bad", "saved"), [(1, []), (4, [2]), (5, [2, 4]), (6, [2, 4])])
def test_nothing_after_a_nan_is_saved_or_reported(bad, saved):
    recorder = Recorder()
    with pytest.raises(SpotError, match=f"^step {bad}: .* not finite .loss nan") as caught:
        fit(state(), {}, stepping(bad), batches(), dict, 9, recorder.hooks(2, 2))
    assert "\n" not in str(caught.value)
    assert [call[1] for call in recorder.calls if call[0] == "save"] == saved
    assert [call[1] for call in recorder.calls if call[0] == "report"] == list(range(1, bad))


def test_a_signal_stops_after_the_step_under_way():
    recorder = Recorder()

    def during(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    end, finished = fit(
        state(), {}, stepping(during=during), batches(), dict, 9, recorder.hooks(100, 0)
    )
    assert (int(end.step), finished) == (3, False)
    assert recorder.calls[-1] == ("save", 3)
    assert recorder.calls[-2] == ("report", 3, 2.0)


def test_the_second_ctrl_c_is_not_waited_for():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.at(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
