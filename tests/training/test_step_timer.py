"""The time of steps, with a clock that is set by hand."""

from spot_jax.training.step_timer import StepTimer


def test_compiling_evaluating_and_saving_are_no_steps():
    now = [0.0]
    timer = StepTimer(lambda: now[0])

    def pass_time(seconds):
        now[0] += seconds

    assert timer.per_step() == 0.0
    pass_time(30)  # the first step is compiled
    timer.step()
    assert timer.per_step() == 0.0
    timer.untimed(pass_time)(7)
    for _ in range(3):
        pass_time(2)
        timer.step()
    timer.untimed(pass_time)(100)
    assert timer.per_step() == 2.0
    pass_time(6)
    timer.step()
    assert timer.per_step() == 3.0


def test_a_run_says_how_much_it_trains_and_how_long(tiny, tmp_path):
    result = tiny.train(tmp_path, 3, seeds=[0, 1])
    assert result.trainable == 4 * 16
    assert result.seconds > 0
