"""How long the updates of a run take, without what is done between them."""

import time
from collections.abc import Callable
from typing import Any


class StepTimer:
    """Counts steps and the time they take, without the first, which waits for the compiler."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begin: float | None = None
        self._end = self._untimed = self._before = 0.0
        self._steps = 0

    def step(self) -> None:
        """Count a step that is done."""
        now = self._clock()
        if self._begin is None:
            self._begin, self._untimed = now, 0.0
        else:
            self._steps += 1
        self._end, self._before = now, self._untimed

    def untimed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, made not to count; steps are all done when it is called."""

        def timed(*arguments: Any) -> Any:
            start = self._clock()
            try:
                return function(*arguments)
            finally:
                self._untimed += self._clock() - start

        return timed

    def per_step(self) -> float:
        """Return mean seconds a step; 0 before the second."""
        if self._begin is None or not self._steps:
            return 0.0
        return (self._end - self._begin - self._before) / self._steps
