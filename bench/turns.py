"""Times of what is compared, called in turn, so that what else a machine does meets all alike."""

import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]


def in_turn(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Time the calls in turn: seconds of each repeat by call."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return seconds
