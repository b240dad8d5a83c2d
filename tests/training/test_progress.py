"""The bar: what it shows, and that it is silent where nobody watches."""

import io

import pytest

from spot_jax.training import progress
from spot_jax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_silent_when_stderr_is_no_terminal(capsys):
    with Progress(3) as bar:
        bar.update(1, 0.5, 32)
        bar.note({"validation/accuracy": 0.5})
    assert not bar.enabled
    assert capsys.readouterr() == ("", "")


def test_shows_loss_rate_and_step(monkeypatch, clock):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    with Progress(100, start=10) as bar:
        assert bar.enabled
        for step, now in ((11, 1.0), (12, 3.0)):
            clock[0] = now
            bar.update(step, 0.123456, step * 32)
        bar.note({"validation/accuracy": 0.98765, "n": 3})
    shown = stderr.getvalue()
    assert "12/100" in shown and "left" in shown
    assert "loss 0.1235, 16 examples/s" in shown
    assert "step 12: validation/accuracy 0.9877, n 3" in shown


def test_an_evaluation_does_not_count_as_a_slow_step(monkeypatch, clock):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    with Progress(100) as bar:
        for step, now in ((1, 1.0), (2, 2.0)):
            clock[0] = now
            bar.update(step, 1.0, step * 10)
        bar.note({"validation/accuracy": 0.5})
        clock[0] = 1000.0
        bar.update(3, 1.0, 30)
    assert "loss 1, 10 examples/s" in stderr.getvalue().split("\r")[-1]
