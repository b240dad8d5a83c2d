"""Where compiled programs are kept from one start to the next: by user, and kind of processor."""

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

# Seconds of compiling from which on a program is kept: of a study, whose programs are many and
# alike, and for a user, whose next start should be quick: many programs before the first step are
# small.
SECONDS = 0.5
_USERS_SECONDS = 0.0


def keep_compiled() -> None:
    """Let JAX keep compiled programs under the user's cache directory.

    It is said by variables of the environment, which JAX reads when it is imported: nothing happens
    after that. Whoever has said where, or that nothing is kept (`JAX_COMPILATION_CACHE_DIR=`, or
    `JAX_ENABLE_COMPILATION_CACHE=false`), is left alone.
    """
    if "jax" in sys.modules or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = home / "spot_jax" / "compiled" / processor()
    with contextlib.suppress(OSError):
        # What is in it is run: it is nobody else's.
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True, mode=0o700)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(_USERS_SECONDS))


def processor() -> str:
    """Return a name for this kind of processor: a program for one may not run on another."""
    parts = [platform.machine(), os.environ.get("XLA_FLAGS", "")]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        parts += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
