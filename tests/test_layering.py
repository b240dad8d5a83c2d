"""Who may import what: seqio and TensorFlow behind one border, gin at the edge, data one way."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spot_jax

ROOT = Path(spot_jax.__file__).parent.parent
BORDER = "spot_jax.data.seqio_"
DATA_ONLY = {"seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text", "t5"}

# Layers, each with those it may import besides itself. Nothing points back.
LAYERS = {
    "t5": set(),
    "data": {"t5", "evaluation"},
    "methods": {"t5"},
    "evaluation": {"t5", "data", "methods"},
    "training": {"t5", "data", "methods", "evaluation"},
    "inference": {"t5", "data", "methods", "evaluation", "training"},
    "transfer": {"t5", "data", "methods", "evaluation", "training", "inference"},
    "report": {"transfer"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    name_of(p): p for package in ("spot_jax", "tasks") for p in (ROOT / package).rglob("*.py")
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; relative imports are not used here."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_border_imports_seqio_and_only_the_command_line_gin(name):
    tops = {module.split(".")[0] for module in imports(SOURCES[name])}
    if not name.startswith((BORDER, "tasks")):
        assert not tops & DATA_ONLY
    if not name.startswith("spot_jax.cli"):
        assert "gin" not in tops


@pytest.mark.parametrize("name", [n for n in SOURCES if n.count(".") > 1 or n == "spot_jax.split"])
def test_nothing_points_back(name):
    layer = name.split(".")[1]
    allowed = LAYERS.get(layer)
    if allowed is None:
        return
    for module in imports(SOURCES[name]):
        if module.startswith("spot_jax."):
            other = module.split(".")[1]
            assert other not in {*LAYERS, "cli"} - allowed - {layer}, f"{name} imports {module}"


def test_everything_but_the_border_imports_without_seqio_and_tensorflow():
    names = sorted(n for n in SOURCES if n.startswith("spot_jax") and not n.startswith(BORDER))
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(DATA_ONLY)!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
