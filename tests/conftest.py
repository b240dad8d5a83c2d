"""Strict settings for every test: 8 CPU devices, no rank promotion, no network."""

import socket
import tarfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(self, address):
        raise RuntimeError(f"a test tried to reach {address}; tests use no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def golden(tmp_path_factory) -> Path:
    """Checkpoints, logits, losses and gradients written by other implementations."""
    directory = tmp_path_factory.mktemp("golden")
    with tarfile.open(Path(__file__).parent / "golden" / "golden.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory
