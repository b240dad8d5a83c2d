"""Strict settings for every test: 8 CPU devices, no rank promotion, no network."""

import importlib.metadata
import os
import signal
import socket
import tarfile
import tempfile
from pathlib import Path

# Compiling is most of the suite's time and its models are tiny: LLVM need not try hard. XLA ends
# the process at a flag that it does not know, so the last one is for the versions that have it.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_prefer_vector_width=128"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

# Compiling is most of a test's time, and many compile what another has, in this process or in one
# that it starts. Only of this session, as what another machine compiled may not run on this one,
# and of this worker, as JAX does not write its entries whole.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="spot-jax-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
_WORKER = Path(os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ.get("PYTEST_XDIST_WORKER", ""))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_WORKER)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# With CHECK_SHAPES=1 the shapes and dtypes in every signature are checked as it is called, by code
# that is put in when a module of spot_jax is first imported; so before that.
if os.environ.get("CHECK_SHAPES"):
    jaxtyping.install_import_hook("spot_jax", "shape_checking.arrays")

# A shell makes what runs in its background ignore Ctrl-C; tests send it, to us and to children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with the end of a terminal.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

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
