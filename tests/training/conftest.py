"""Fixtures over a tiny stored backbone, and the environment of child processes."""

import dataclasses
import os
from pathlib import Path

import pytest
from tiny_run import CONFIG, VOCABULARY, Tiny, arrays, store

CACHE = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    directory = tmp_path_factory.mktemp("tiny")
    backbone = store(directory / "backbone", CONFIG)
    return Tiny(backbone, (arrays(directory / "a.npz", 0), arrays(directory / "b.npz", 1)))


@pytest.fixture(scope="session")
def worded(tmp_path_factory) -> Tiny:
    """The same with a vocabulary, and with validation splits to predict."""
    directory = tmp_path_factory.mktemp("worded")
    config = dataclasses.replace(CONFIG, vocab_size=8192, num_heads=2)
    backbone = store(directory / "backbone", config, vocabulary=VOCABULARY)
    for split in ("train", "validation"):
        arrays(directory / f"task-{split}.npz", 0, count=20)
    task = str(directory / "task-{split}.npz")
    return Tiny(backbone, (task, task))


@pytest.fixture(scope="session")
def child_environment(tmp_path_factory) -> dict[str, str]:
    """What `child.py` needs; the programs of killed processes are kept apart from ours."""
    compiled = str(tmp_path_factory.mktemp("compiled"))
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), CACHE: compiled}
