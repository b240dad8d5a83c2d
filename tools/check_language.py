"""Holds the names that are banned, and the moods of docstrings, as far as a machine can tell.

    python tools/check_language.py            # what is wrong, and 1 if anything is
    python tools/check_language.py --counts   # how much is left in what is not held yet

A variable or function carries the thing's name, never one of `BANNED`. A function's docstring opens
with a verb in the imperative, a field's description is a noun phrase with a head. `PENDING` lists
what is not held to that yet; it may only shrink.
"""

import ast
import collections
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ("spot_jax", "tasks", "examples", "tools", "bench", "tests/t5")

BANNED = {
    *("found", "one", "made", "given", "own", "known", "told", "outcome", "there"),
    *("lanes", "claims", "own_batches", "stopwatch", "beginnings", "restored"),
}
BANNED_MODULES = {
    *("kept", "lanes", "claims", "compiled", "own_batches", "beginnings", "stopwatch", "written"),
    *("answers", "outcome", "restored", "run_parts", "run_setup", "recipes", "utils"),
}
# What a description cannot open with, as it has no head: "of the run", "which one".
NO_HEAD = re.compile(r"(of|in|on|by|for|how|what|which|where|when|whose|its|whatever|at most)\b")
# A third person, a noun or a pronoun where a verb in the imperative belongs.
NO_VERB = re.compile(
    r"([A-Z][a-z]+(?<!ss)s(?<!ess) (?!and)|(The|A|An|What|How|Its|It|Every|One|All)\b)"
)

PENDING = {
    "names": ("spot_jax/cli", "spot_jax/data", "spot_jax/inference", "spot_jax/training")
    + ("tasks", "tools/mini", "spot_jax/methods/label_decoder.py")
    + ("spot_jax/methods/prompt_encoder.py",),
    "moods": ("spot_jax/cli", "spot_jax/data", "spot_jax/demo.py", "spot_jax/evaluation")
    + ("spot_jax/inference", "spot_jax/library", "spot_jax/metrics", "spot_jax/report")
    + ("spot_jax/studies", "spot_jax/training", "bench/methods")
    + ("spot_jax/transfer", "tasks", "tools/mini", "spot_jax/methods/label_decoder.py")
    + ("spot_jax/methods/prompt_encoder.py",),
}


class Fault(NamedTuple):
    """What is wrong, where.

    Attributes:
        kind: key of `PENDING`.
        path: path within the repository.
        line: number of the line.
        text: words for people.
    """

    kind: str
    path: str
    line: int
    text: str


def faults_of(path: Path) -> Iterator[Fault]:
    """Yield everything that is wrong in a file, held to it or not."""
    name = path.relative_to(ROOT).as_posix()
    if path.stem in BANNED_MODULES:
        yield Fault("names", name, 1, f"a module called {path.stem}")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for bound in _names(node):
            if bound in BANNED:
                yield Fault("names", name, node.lineno, f"a name {bound}: say what it holds")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
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
        yield Fault("moods", path, node.lineno, f"{node.name}: {opening!r} opens with no verb")
    for section in re.findall(r"(?:Args|Attributes):\n((?:    .*\n?|\n)+)", text):
        for field, words in re.findall(r"^    (\w+): (.*)$", section, re.MULTILINE):
            if NO_HEAD.match(words):
                what = f"{node.name}.{field}: {words[:40]!r} has no head"
                yield Fault("moods", path, node.lineno, what)


def is_pending(fault: Fault) -> bool:
    """Return whether a fault's file is not held to its kind yet."""
    return any(
        fault.path == place or fault.path.startswith(f"{place}/") for place in PENDING[fault.kind]
    )


def main(arguments: list[str]) -> int:
    """Print what is wrong; 1 if anything is."""
    paths = sorted(path for top in CHECKED for path in (ROOT / top).rglob("*.py"))
    faults = [fault for path in paths for fault in faults_of(path)]
    if "--counts" in arguments:
        counts = collections.Counter(
            (fault.kind, "/".join(fault.path.split("/")[:2])) for fault in faults
        )
        for (kind, place), count in sorted(counts.items()):
            print(f"{kind:6} {place:28} {count}")
        return 0
    wrong = [fault for fault in faults if not is_pending(fault)]
    for fault in wrong:
        print(f"{fault.path}:{fault.line}: {fault.text}")
    clean = {
        (kind, place)
        for kind, places in PENDING.items()
        for place in places
        if not any(f.kind == kind and f"{f.path}/".startswith(f"{place}/") for f in faults)
    }
    for kind, place in sorted(clean):
        print(
            f"tools/check_language.py: {place} has no {kind} left to change; take it from PENDING"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
