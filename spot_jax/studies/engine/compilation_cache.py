"""Compiled programs on disk: jobs of one shape, and later starts, compile nothing again."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from spot_jax.files.program_cache import SECONDS, processor

DIRECTORY = "jax_compilation_cache_dir"
SHORTEST = "jax_persistent_cache_min_compile_time_secs"


@contextlib.contextmanager
def compilation_cache(directory: Path) -> Iterator[None]:
    """Cache compiled programs in `directory`, by kind of processor, while the block runs.

    Whoever has set a cache of their own (JAX_COMPILATION_CACHE_DIR) keeps it. What a killed
    process left half-written is compiled again.
    """
    if jax.config.values[DIRECTORY]:
        yield
        return
    shortest = jax.config.values[SHORTEST]
    jax.config.update(DIRECTORY, str(directory / processor()))
    jax.config.update(SHORTEST, SECONDS)
    # JAX asks once a process whether there is a cache; something may have been compiled before.
    jax_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(DIRECTORY, None)
        jax.config.update(SHORTEST, shortest)
        jax_cache.reset_cache()
