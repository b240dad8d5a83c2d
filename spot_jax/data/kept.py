"""Examples kept in memory from run to run, for a process that makes many runs of the same tasks.

Reading and tokenising a task takes seconds, a study asks for each task many times. Nothing is kept
but within `examples_kept`, and of many large tasks only the last ones used.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator

from spot_jax.data.examples import Examples

TOKENS = 50_000_000

_kept: dict[Hashable, Examples] | None = None


@contextlib.contextmanager
def examples_kept() -> Iterator[None]:
    """Keeps examples while the block runs; a block within another changes nothing."""
    global _kept
    if _kept is not None:
        yield
        return
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def kept(key: Hashable, read: Callable[[], Examples | None]) -> Examples | None:
    """What `read` gives, or gave before for this key.

    Args:
        key: all that the examples depend on.
        read: the examples; None, which is not kept, where they are too many to hold.
    """
    if _kept is not None and key in _kept:
        _kept[key] = _kept.pop(key)  # the last used stands last
        return _kept[key]
    found = read()
    if _kept is not None and found is not None:
        _kept[key] = found
        while len(_kept) > 1 and sum(map(_tokens, _kept.values())) > TOKENS:
            del _kept[next(iter(_kept))]
    return found


def _tokens(examples: Examples) -> int:
    return len(examples.inputs) + len(examples.targets)
