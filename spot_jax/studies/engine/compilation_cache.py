"""Compiled programs on disk: jobs of one shape, and later starts, compile nothing again."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

DIRECTORY = "jax_compilation_cache_dir"
SHORTEST = "jax_persistent_cache_min_compile_time_secs"
SECONDS = 0.5


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
    jax.config.update(DIRECTORY, str(directory / _processor()))
    jax.config.update(SHORTEST, SECONDS)
    # JAX asks once a process whether there is a cache; something may have been compiled before.
    jax_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(DIRECTORY, None)
        jax.config.update(SHORTEST, shortest)
        jax_cache.reset_cache()


def _processor() -> str:
    """Return a name for this kind of processor: a program for one may not run on another."""
    parts = [platform.machine(), os.environ.get("XLA_FLAGS", "")]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        parts += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
