"""Strict settings for every test: 8 CPU devices, no rank promotion, no network."""

import os
import socket
import tarfile
import tempfile
from pathlib import Path

# Compiling is most of the suite's time and its models are tiny: LLVM need not try hard.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# With CHECK_SHAPES=1 the shapes and dtypes in every signature are checked as it is called, by code
# that is put in when a module of spot_jax is first imported; so before that.
if os.environ.get("CHECK_SHAPES"):
    jaxtyping.install_import_hook("spot_jax", "shape_checking.arrays")

# Compiling is most of a test's time, and many compile what another has. Only of this
# session: what another machine compiled may not run on this one.
_COMPILED = tempfile.TemporaryDirectory(prefix="spot-jax-compiled-")
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(self, address):
        raise RuntimeError(f"a test tried to reach {address}; tests use no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def golden(tmp_path_factory) -> Path:
    """Extract checkpoints, logits, losses and gradients written by other implementations."""
    directory = tmp_path_factory.mktemp("golden")
    with tarfile.open(Path(__file__).parent / "golden" / "golden.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory
