"""Holds the names that are banned, and the moods of docstrings, as far as a machine can tell.

    python tools/check_language.py   # what is wrong, and 1 if anything is

A variable or function carries the thing's name, never one of `BANNED`. A function's docstring opens
with a verb in the imperative, a field's description is a noun phrase with a head.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ("spot_jax", "tasks", "examples", "tools", "bench", "tests")

BANNED = {
    *("found", "one", "made", "given", "own", "known", "told", "outcome", "there"),
    *("lanes", "claims", "own_batches", "stopwatch", "beginnings", "restored"),
}
BANNED_MODULES = {
    *("kept", "lanes", "claims", "compiled", "own_batches", "beginnings", "stopwatch", "written"),
    *("answers", "outcome", "restored", "run_parts", "run_setup", "recipes", "utils"),
}
# A test's docstring may say what holds.
NAMES_ALONE = re.compile(r"tests/(?!t5/)")
# What a description cannot open with, as it has no head: "of the run", "which one".
NO_HEAD = re.compile(r"(of|in|on|by|for|how|what|which|where|when|whose|its|whatever|at most)\b")
# A third person, a noun, a pronoun or a preposition where a verb in the imperative belongs.
NO_VERB = re.compile(
    r"([A-Z][a-z]+(?<!ss)s(?<!ess) |[^A-Z]"
    r"|(The|A|An|What|How|Its|It|Each|Every|One|All|Whether|Where|Whole|With|On|In|Of|By|For)\b)"
)


class Fault(NamedTuple):
    """What is wrong, where.

    Attributes:
        path: path within the repository.
        line: number of the line.
        text: words for people.
    """

    path: str
    line: int
    text: str


def faults_of(path: Path) -> Iterator[Fault]:
    """Yield everything that is wrong in a file."""
    name = path.relative_to(ROOT).as_posix()
    if path.stem in BANNED_MODULES:
        yield Fault(name, 1, f"a module called {path.stem}")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for bound in _names(node):
            if bound in BANNED:
                yield Fault(name, node.lineno, f"a name {bound}: say what it holds")
        is_defined = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if is_defined and not NAMES_ALONE.match(name):
            yield from _moods(node, name)


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr


def _moods(node: ast.AST, path: str) -> Iterator[Fault]:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    text = ast.get_docstring(node)
    if not text or (node.name.startswith("_") and not node.name.startswith("__")):
        return
    is_property = any(
        (isinstance(d, ast.Name) and d.id == "property")
        or (isinstance(d, ast.Attribute) and d.attr in ("cached_property", "property"))
        for d in node.decorator_list
    )
    if not isinstance(node, ast.ClassDef) and not is_property and NO_VERB.match(text):
        opening = " ".join(text.split()[:4])
        yield Fault(path, node.lineno, f"{node.name}: {opening!r} opens with no verb")
    for section in re.findall(r"(?:Args|Attributes):\n((?:    .*\n?|\n)+)", text):
        for field, words in re.findall(r"^    (\w+): (.*)$", section, re.MULTILINE):
            if NO_HEAD.match(words):
                what = f"{node.name}.{field}: {words[:40]!r} has no head"
                yield Fault(path, node.lineno, what)


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    paths = sorted(path for top in CHECKED for path in (ROOT / top).rglob("*.py"))
    faults = [fault for path in paths for fault in faults_of(path)]
    for fault in faults:
        print(f"{fault.path}:{fault.line}: {fault.text}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
