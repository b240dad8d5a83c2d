"""Damage to files: of bytes, and of the JSON in them; the same for the same numbers."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]


def _range(data: bytes, draw: np.random.Generator) -> tuple[int, int]:
    start = int(draw.integers(0, max(len(data), 1)))
    return start, min(len(data), start + int(draw.integers(1, 65)))


def flip_bit(data: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[int(draw.integers(len(changed)))] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def flip_early_bit(data: bytes, draw: np.random.Generator) -> bytes:
    return flip_bit(data[:400], draw) + data[400:]


def cut_off(data: bytes, draw: np.random.Generator) -> bytes:
    return data[: int(draw.integers(0, max(len(data), 1)))]


def take_out(data: bytes, draw: np.random.Generator) -> bytes:
    start, stop = _range(data, draw)
    return data[:start] + data[stop:]


def put_in(data: bytes, draw: np.random.Generator) -> bytes:
    start, stop = _range(data, draw)
    return data[:start] + draw.bytes(stop - start) + data[start:]


def repeat(data: bytes, draw: np.random.Generator) -> bytes:
    start, stop = _range(data, draw)
    return data[:stop] + data[start:stop] + data[stop:]


def overwrite(data: bytes, draw: np.random.Generator) -> bytes:
    start, stop = _range(data, draw)
    return data[:start] + draw.bytes(stop - start) + data[stop:]


def zeros(data: bytes, draw: np.random.Generator) -> bytes:
    start, stop = _range(data, draw)
    return data[:start] + bytes(stop - start) + data[stop:]


def another_digit(data: bytes, draw: np.random.Generator) -> bytes:
    places = [i for i, byte in enumerate(data[:4000]) if 48 <= byte <= 57]
    if not places:
        return flip_bit(data, draw)
    changed = bytearray(data)
    changed[places[int(draw.integers(len(places)))]] = 48 + int(draw.integers(10))
    return bytes(changed)


STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**400, 2**63, "", "\ud83d", "x" * 5000, [], {}, [1], {"a": 1}),
    *(float("nan"), "../../etc", "\0", 1e308, -(10**30)),
)


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    places = []
    for key, item in items:
        places.append((*path, key))
        if isinstance(item, dict | list):
            places += _places(item, (*path, key))
    return places


def _strange(value: Any, draw: np.random.Generator) -> Any:
    """The same value with something strange in one place, or without that place."""
    if not isinstance(value, dict | list) or not value:
        return STRANGE[int(draw.integers(len(STRANGE)))]
    places = _places(value)
    *parents, last = places[int(draw.integers(len(places)))]
    within = value
    for key in parents:
        within = within[key]
    kind = int(draw.integers(4))
    if kind == 0:
        del within[last]
    elif kind == 1 and isinstance(within, dict):
        within[f"{last}_"] = within.pop(last)
    elif kind == 2 and isinstance(within, dict) and len(within) > 1:
        other = [key for key in within if key != last][int(draw.integers(len(within) - 1))]
        within[last], within[other] = within[other], within[last]
    else:
        within[last] = STRANGE[int(draw.integers(len(STRANGE)))]
    return value


def strange_json(data: bytes, draw: np.random.Generator) -> bytes:
    """Strange values in a JSON text, in the first lines of JSON, or in a safetensors header."""
    try:
        return json.dumps(_strange(json.loads(data), draw)).encode()
    except (ValueError, OverflowError):
        pass
    length = int.from_bytes(data[:8], "little")
    if 8 < length < len(data):
        try:
            header = json.loads(data[8 : 8 + length])
            ours = [key for key in header.get("__metadata__", {}) if key.startswith("spot_jax")]
            if ours and draw.integers(2):
                text = header["__metadata__"][ours[0]]
                header["__metadata__"][ours[0]] = json.dumps(_strange(json.loads(text), draw))
            else:
                header = _strange(header, draw)
            text = json.dumps(header).encode()
            return len(text).to_bytes(8, "little") + text + data[8 + length :]
        except (ValueError, AttributeError, TypeError, OverflowError):
            pass
    lines = data.split(b"\n")
    try:
        number = int(draw.integers(len(lines)))
        lines[number] = json.dumps(_strange(json.loads(lines[number]), draw)).encode()
        return b"\n".join(lines)
    except (ValueError, OverflowError):
        return flip_bit(data, draw)


def deep_json(data: bytes, draw: np.random.Generator) -> bytes:
    nested = b"[" * 100_000
    if data[:1] in (b"{", b"["):
        return nested
    length = int.from_bytes(data[:8], "little")
    if 8 < length < len(data):
        return len(nested).to_bytes(8, "little") + nested + data[8 + length :]
    return nested


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bit, flip_early_bit, cut_off, take_out, put_in, repeat, overwrite, zeros),
    *(another_digit, another_digit, strange_json, strange_json, strange_json, deep_json),
)
