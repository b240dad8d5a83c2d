"""What a compiled program costs: operations from its jaxpr, collectives from its HLO."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend import core

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def operations(jaxpr: core.Jaxpr) -> float:
    """Return the operations of all products in a jaxpr, two a multiplication and its addition.

    A scan's body counts as often as it runs; of branches the dearest counts; a loop of unknown
    length counts once.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left: Any = equation.invars[0].aval
            inner = math.prod(left.shape[axis] for axis in contracted)
            result: Any = equation.outvars[0].aval
            total += 2.0 * inner * math.prod(result.shape)
            continue
        inner_counts = [operations(inner) for inner in _within(params)]
        if not inner_counts:
            continue
        if name == "scan":
            total += params["length"] * sum(inner_counts)
        elif name == "cond":
            total += max(inner_counts)
        else:
            total += sum(inner_counts)
    return total


def _within(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def collectives(hlo: str) -> dict[str, float]:
    """Return the bytes a chip gets from each kind of collective in one run of a program.

    Args:
        hlo: optimised HLO as text; a loop's body counts as often as its known trip count says.
    """
    entry, computations = _computations(hlo)
    memo: dict[str, collections.Counter[str]] = {}

    def of(name: str) -> collections.Counter[str]:
        if name not in memo:
            memo[name] = collections.Counter()  # none calls itself
            count: collections.Counter[str] = collections.Counter()
            for line in computations.get(name, ()):
                count.update(_own(line))
                times = _trips(line)
                for inner in _called(line):
                    count.update({k: times * v for k, v in of(inner).items()})
            memo[name] = count
        return memo[name]

    return {kind: float(size) for kind, size in of(entry).items()}


def _computations(hlo: str) -> tuple[str, dict[str, list[str]]]:
    """The entry's name, and each computation's lines by its name."""
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in hlo.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if head and not line.startswith(" "):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current:
            computations[current].append(line)
    return entry, computations


def _own(line: str) -> dict[str, int]:
    """The bytes of a collective's result, where the line is one; its start counts, not its end."""
    match = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(", line)
    if not match:
        return {}
    kind = match[2].removesuffix("-start")
    if kind not in COLLECTIVES:
        return {}
    sizes = [
        _BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
        for dtype, shape in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", match[1])
    ]
    # A start gives its operand and its result, the larger of which is what arrives.
    size = max(sizes) if match[2].endswith("-start") and len(sizes) > 1 else sum(sizes)
    return {kind: size}


def _trips(line: str) -> int:
    match = re.search(r'known_trip_count"?[:=]\s*\{"?n"?:"?(\d+)', line)
    return int(match[1]) if match and " while(" in line else 1


def _called(line: str) -> Iterator[str]:
    for match in re.finditer(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)", line):
        yield match[1]
    if branches := re.search(r"branch_computations=\{([^}]*)\}", line):
        yield from (name.strip().lstrip("%") for name in branches[1].split(","))
