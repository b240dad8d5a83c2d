"""Cache of examples in memory, for a process that makes many runs of the same tasks.

Reading and tokenising a task takes seconds, a study asks for each task many times. The cache
lives within `examples_cached`, and of many large tasks it holds the last ones used.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator

from spot_jax.data.examples import Examples

TOKENS = 50_000_000

_cache: dict[Hashable, Examples] | None = None


@contextlib.contextmanager
def examples_cached() -> Iterator[None]:
    """Cache examples while the block runs; a block within another shares its cache."""
    global _cache
    if _cache is not None:
        yield
        return
    _cache = {}
    try:
        yield
    finally:
        _cache = None


def cached(key: Hashable, read: Callable[[], Examples | None]) -> Examples | None:
    """Return what `read` returns, or returned before for this key.

    Args:
        key: all that the examples depend on.
        read: the examples; None, which is not cached, where they are too many to hold.
    """
    if _cache is not None and key in _cache:
        _cache[key] = _cache.pop(key)  # the last used stands last
        return _cache[key]
    examples = read()
    if _cache is not None and examples is not None:
        _cache[key] = examples
        while len(_cache) > 1 and sum(map(_tokens, _cache.values())) > TOKENS:
            del _cache[next(iter(_cache))]
    return examples


def _tokens(examples: Examples) -> int:
    return len(examples.inputs) + len(examples.targets)
