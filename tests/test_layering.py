"""Who may import what: data one way as the README's map has it, seqio behind one border."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import spot_jax

ROOT = Path(spot_jax.__file__).parent.parent
BORDER = "spot_jax.data.seqio_"
DATA_ONLY = {"seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text", "t5"}
# What every module may import, and the modules above all packages: they import as they please.
COMMON = {"errors", "shipped", "version"}
ENTRANCES = {"spot_jax", "demo", "train", "eval", "infer", "t5x_bridge"}
TASKS_MAY = {"files", "metrics", "t5", "data"}


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path = ROOT) -> dict[str, Path]:
    files = (p for package in ("spot_jax", "tasks") for p in (root / package).rglob("*.py"))
    return {name_of(path, root): path for path in files}


SOURCES = sources()


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, in a function too; relative imports are not used here."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(modules)


def edges(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Each module's imports among `files`; of `from a import b` the module a.b, or else a."""

    def resolved(modules: Iterable[str]) -> Iterator[str]:
        for module in modules:
            parent = module.rpartition(".")[0]
            yield from (name for name in (module, parent) if name in files)

    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        targets = list(imports(path))
        graph[name] = {next(resolved([module]), name) for module in targets} - {name}
    return graph


def layer(module: str) -> str:
    """The package of spot_jax that a module is of, the module itself at its top, or "tasks"."""
    first, *rest = module.split(".")
    return rest[0] if rest and first == "spot_jax" else first


def drawn() -> list[str]:
    """The packages and modules of spot_jax in the order of the README's map."""
    text = (ROOT / "README.md").read_text()
    lines = text[text.index("\nspot_jax/\n") : text.index("\ntasks/ ")].splitlines()
    return [match[1] for line in lines if (match := re.match(r"  (\w+)(?:/|\.py) ", line))]


def backwards(graph: Mapping[str, set[str]], order: list[str]) -> list[str]:
    """The imports that the map does not draw, as "module -> module"."""

    def allowed(importer: str, imported: str) -> bool:
        if importer == imported or imported in COMMON or importer in ENTRANCES:
            return importer not in COMMON or imported in COMMON
        if importer == "tasks":
            return imported in TASKS_MAY
        if imported == "tasks":
            return importer == "cli"
        if imported in ENTRANCES:
            return importer == "cli"
        if importer not in order or imported not in order:
            return False
        return order.index(imported) < order.index(importer)

    return [
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if not allowed(layer(module), layer(other))
    ]


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import one another, directly or not (Warshall's closure)."""
    reach = {module: set(others) for module, others in graph.items()}
    for middle in reach:
        for others in reach.values():
            if middle in others:
                others |= reach[middle]
    return [
        {module, *(other for other in reach[module] if module in reach[other])}
        for module in sorted(reach)
        if module in reach[module]
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_border_imports_seqio_and_only_the_command_line_gin(name):
    tops = {module.split(".")[0] for module in imports(SOURCES[name])}
    if not name.startswith((BORDER, "tasks")):
        assert not tops & DATA_ONLY
    if not name.startswith("spot_jax.cli"):
        assert "gin" not in tops


def test_imports_go_the_way_that_the_map_draws():
    parts = {layer(name) for name in SOURCES} - COMMON - ENTRANCES - {"tasks"}
    assert parts == set(drawn()), "the README's map lacks a package, or has one too many"
    assert backwards(edges(SOURCES), drawn()) == []


def test_only_what_says_what_ships_and_the_command_line_name_the_tasks_that_ship():
    for name, path in SOURCES.items():
        if layer(name) not in {"tasks", "cli", "shipped", *ENTRANCES}:
            texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if is_text(n)}
            assert not [text for text in texts if re.fullmatch(r"tasks\.\w+", text)], name


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_modules_import_one_another():
    assert circles(edges(SOURCES)) == []


@pytest.mark.parametrize(
    ("module", "line", "importer", "imported"),
    [
        ("data/batches", "import tasks.listing", "spot_jax.data.batches", "tasks.listing"),
        ("data/batches", "def f():\n    from spot_jax.evaluation import evaluate",
         "spot_jax.data.batches", "spot_jax.evaluation.evaluate"),
        ("metrics/pairs", "from spot_jax.t5.config import T5Config",
         "spot_jax.metrics.pairs", "spot_jax.t5.config"),
        ("errors", "from spot_jax import split", "spot_jax.errors", "spot_jax.split"),
        ("split", "import spot_jax.t5.layers", "spot_jax.split", "spot_jax.t5.layers"),
        ("training/loop", "from tasks import listing", "spot_jax.training.loop", "tasks.listing"),
    ],
)  # fmt: skip
def test_an_import_against_the_map_is_seen(tmp_path, module, line, importer, imported):
    path = tmp_path / "changed.py"
    path.write_text((ROOT / "spot_jax" / f"{module}.py").read_text() + f"\n\n{line}\n")
    graph = edges({**SOURCES, importer: path})
    before = backwards(edges(SOURCES), drawn())
    assert [i for i in backwards(graph, drawn()) if i not in before] == [
        f"{importer} -> {imported}"
    ]


def test_a_circle_is_seen_also_within_a_function(tmp_path):
    path = tmp_path / "examples.py"
    line = "def f():\n    from spot_jax.data.batches import Batches\n    return Batches\n"
    path.write_text((ROOT / "spot_jax/data/examples.py").read_text() + "\n\n" + line)
    changed = circles(edges({**SOURCES, "spot_jax.data.examples": path}))
    assert {"spot_jax.data.examples", "spot_jax.data.batches"} <= changed[0]


def in_a_process_of_its_own(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_everything_but_the_border_imports_without_seqio_and_tensorflow():
    names = sorted(n for n in SOURCES if n.startswith("spot_jax") and not n.startswith(BORDER))
    in_a_process_of_its_own(
        "import importlib, sys\n"
        f"for name in {sorted(DATA_ONLY)!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )


def test_the_training_core_brings_neither_scikit_learn_nor_tensorflow():
    names = sorted(n for n in SOURCES if n.startswith("spot_jax.training"))
    heavy = in_a_process_of_its_own(
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(*({'sklearn', 'tensorflow', 'seqio', 'tasks', 'gin'} & set(sys.modules)))\n"
    )
    assert heavy.split() == []
