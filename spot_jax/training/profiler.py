"""A profile of a few steps, once they are compiled."""

import os
from pathlib import Path
from typing import Any

import jax

from spot_jax.training.step import State, StepFunction

FIRST = 2  # steps before: the first compiles, the second may still wait for it


class Profiled:
    """A step function of which some calls are profiled; otherwise it is the function itself."""

    def __init__(self, step: StepFunction, directory: Path, steps: int):
        """Wrap a step function.

        Args:
            step: step function.
            directory: path that the profile is written to, for TensorBoard's profile plugin.
            steps: number of calls that are profiled; 0 for none.
        """
        self.step, self.directory, self.steps = step, directory, steps
        self.calls, self.active = 0, False

    def __call__(self, state: State, frozen: Any, batch: dict) -> tuple[State, dict]:
        """Do a step."""
        if self.steps and self.calls == FIRST:
            jax.profiler.start_trace(os.fspath(self.directory))
            self.active = True
        if not self.active:
            self.calls += 1
            return self.step(state, frozen, batch)
        with jax.profiler.StepTraceAnnotation("train", step_num=self.calls):
            result = self.step(state, frozen, batch)
        self.calls += 1
        if self.calls == FIRST + self.steps:
            jax.block_until_ready(result)
            self.close()
        return result

    def close(self) -> None:
        """Write a profile that is under way."""
        if self.active:
            self.active = False
            jax.profiler.stop_trace()
