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

    Of a reduce-scatter that is what it reduces, as of an all-gather what it gathers: the two send
    what one all-reduce sends.

    Args:
        hlo: optimised HLO as text; a loop's body counts as often as its known trip count says.
    """
    entry, computations = _computations(hlo)
    memo: dict[str, dict[_Transfer, int]] = {}

    def of(name: str) -> dict[_Transfer, int]:
        if name not in memo:
            memo[name] = {}  # none calls itself
            sizes: dict[_Transfer, int] = {}
            for number, line in enumerate(computations.get(name, ())):
                inner = [_own(line, name, number)]
                times = _trips(line, computations)
                for called in _called(line):
                    inner.append({key: times * size for key, size in of(called).items()})
                for each in inner:
                    for key, size in each.items():
                        # An asynchronous one stands in the fusions that begin, go on and end it.
                        sizes[key] = max(size, sizes.get(key, 0))
            memo[name] = sizes
        return memo[name]

    total: collections.Counter[str] = collections.Counter()
    for (kind, _), size in of(entry).items():
        total[kind] += size
    return {kind: float(size) for kind, size in total.items()}


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


# Kind of a collective, and its channel; where it has none, its place.
_Transfer = tuple[str, str]


def _own(line: str, computation: str, number: int) -> dict[_Transfer, int]:
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
    if computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # how TPU's compiler writes one: a sum, and each chip's part of it
    channel = re.search(r"channel_id=(\d+)", line)
    return {(kind, channel[1] if channel else f"{computation} {number}"): size}


def _trips(line: str, computations: Mapping[str, list[str]]) -> int:
    """How often a loop's body runs: as it says, or as its condition compares a counter from 0."""
    if " while(" not in line:
        return 1
    if match := re.search(r'known_trip_count"?[:=]\s*\{"?n"?:"?(\d+)', line):
        return int(match[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    lines = computations.get(condition[1], []) if condition else []
    # TPU's compiler leaves the count in the condition alone: counter < constant(24).
    constants = {n for each in lines for n in re.findall(r"s32\S* constant\((\d+)\)", each)}
    return int(constants.pop()) if len(constants) == 1 else 1


def _called(line: str) -> Iterator[str]:
    for match in re.finditer(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)", line):
        yield match[1]
    if branches := re.search(r"branch_computations=\{([^}]*)\}", line):
        yield from (name.strip().lstrip("%") for name in branches[1].split(","))
