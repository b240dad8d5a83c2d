"""The loop: batches in, steps done, saved, measured and reported."""

import dataclasses
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from spot_jax.errors import SpotError
from spot_jax.training.step import State, StepFunction

Scalars = dict[str, Any]


class Data(Protocol):
    """Batches whose place can be saved and found again."""

    examples: int

    def __next__(self) -> dict[str, np.ndarray]:
        """Return this process's rows of the next batch."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the place of the next batch."""
        ...


class StopSignal:
    """Turns SIGTERM, SIGHUP and the first Ctrl-C into a wish to stop after the step under way."""

    def __init__(self) -> None:
        self.wanted = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                if signal.getsignal(number) == signal.SIG_IGN:  # nohup's wish stays
                    continue
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True

    def at(self, step: int) -> bool:
        """Return whether all processes stop before this step: they do when any is asked to."""
        if jax.process_count() == 1:
            return self.wanted
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self.wanted))))


@dataclasses.dataclass
class Hooks:
    """What the loop calls.

    Attributes:
        save: function of the state, called at `save_period` and at the end.
        evaluate: function of step and state, called at `evaluation_period`; its scalars are logged.
        report: function of a step and its scalars, called every step, one step late.
        save_period: steps between saves.
        evaluation_period: steps between evaluations; 0 for none.
        keep: function of step and state, called at `keep_steps` before such a step is saved, so
            that it has been called in every run that goes on from there.
        keep_steps: steps of `keep`.
        is_over: function of a step that was evaluated, whether the run ends there.
    """

    save: Callable[[State], None]
    evaluate: Callable[[int, State], Scalars]
    report: Callable[[int, Scalars], None]
    save_period: int
    evaluation_period: int
    keep: Callable[[int, State], None] = lambda step, state: None
    keep_steps: Collection[int] = ()
    is_over: Callable[[int], bool] = lambda step: False


def fit(
    state: State,
    frozen: Any,
    step_function: StepFunction,
    batches: Iterator[dict[str, np.ndarray]],
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    steps: int,
    hooks: Hooks,
) -> tuple[State, bool]:
    """Train from `state.step` to `steps`.

    The metrics of a step are fetched after the next one is dispatched, so that the device never
    waits for the host; before a save or an evaluation everything is fetched, so that nothing
    that followed a NaN is ever saved.

    Returns:
        The last state, and whether it was reached (False: a signal stopped the run, the state is
        saved and the same command goes on from there).

    Raises:
        SpotError: a loss or gradient that is NaN or infinite, with the step.
    """
    waiting: tuple[int, dict[str, jax.Array]] | None = None

    def fetch() -> None:
        nonlocal waiting
        if waiting is not None:
            step, metrics = waiting
            waiting = None
            scalars = {name: np.asarray(value) for name, value in metrics.items()}
            _check_finite(step, scalars)
            hooks.report(step, scalars)

    first = int(state.step)
    with StopSignal() as stop:
        for step in range(first + 1, steps + 1):
            # Asked every step where it is free; among processes it costs a message each.
            if (jax.process_count() == 1 or step % 10 == 0) and stop.at(step):
                fetch()
                hooks.save(state)
                return state, False
            state, metrics = step_function(state, frozen, place(next(batches)))
            fetch()
            waiting = (step, metrics)
            measured = hooks.evaluation_period and step % hooks.evaluation_period == 0
            if measured or step == steps:
                fetch()
                hooks.evaluate(step, state)
            if step in hooks.keep_steps:
                fetch()
                hooks.keep(step, state)
            over = measured and hooks.is_over(step)
            if step % hooks.save_period == 0 or step == steps or over:
                fetch()
                hooks.save(state)
            if over:
                break
    fetch()
    return state, True


def _check_finite(step: int, scalars: Scalars) -> None:
    if not bool(scalars["finite"]):
        raise SpotError(
            f"step {step}: loss, gradient or new state is not finite (loss {scalars['loss']}, "
            f"gradient norm {scalars['grad_norm']}); the last saved step is kept, try a lower "
            "learning rate"
        )
