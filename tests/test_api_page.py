"""The public names: imported when used, and on the page of the reference."""

import subprocess
import sys
from pathlib import Path

import pytest

import spot_jax as spot

ROOT = Path(spot.__file__).parents[1]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_page_is_what_the_docstrings_say():
    done = subprocess.run(
        [sys.executable, "tools/api_page.py", "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_brings_nothing_heavy():
    heavy = ("jax", "numpy", "flax", "tensorflow", "sklearn", "seqio")
    code = f"import sys, spot_jax; print([m for m in {heavy!r} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_training_brings_neither_scikit_learn_nor_tensorflow():
    code = "import sys, spot_jax.training.run; print({'sklearn', 'tensorflow'} & {*sys.modules})"
    assert run(code).strip() == "set()"


def test_every_public_name_is_there_and_no_other():
    assert len(spot.__all__) == len(set(spot.__all__))
    for name in spot.__all__:
        assert getattr(spot, name) is not None
    assert set(spot.__all__) <= set(dir(spot))
    with pytest.raises(AttributeError, match="has no attribute 'Promt'"):
        spot.Promt  # noqa: B018


def test_names_and_modules_keep_their_language():
    done = subprocess.run(
        [sys.executable, "tools/check_language.py"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
