"""30 kills at random moments of every kind of work: the results are those of undisturbed work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent
KILLS = {"train": 8, "add": 7, "convert": 6, "features": 5, "study": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLS)
def test_kills_at_random_moments_change_nothing_and_leave_nothing(kind, place):
    """Each kill is checked by `killed.py`: what is visible after it is whole."""
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
    }
    command = [sys.executable, HERE / "killed.py", place, kind, KILLS[kind], 15]
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print(kind, report)
    assert report["kills"] == KILLS[kind] and report["same"] and report["rest"] == []


def test_there_are_30_kills():
    assert sum(KILLS.values()) == 30
