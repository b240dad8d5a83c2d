"""Dataclasses as JSON files: a field is a key, None and NaN are null, and reading is strict.

The annotations of a dataclass are the file's format. A list of records has one a line, so that two
files can be compared as text.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import (
    check_digest,
    check_version,
    fault_text,
    parse_object,
    signed,
    write_whole,
)

R = TypeVar("R")


def write_record(record: Any, path: epath.Path, version: int) -> None:
    """Write a dataclass in one move; its directory is made if need be."""
    write_whole(path, _text(signed({"format": version, **plain(record)})))


def plain(record: Any) -> dict[str, Any]:
    """Return a dataclass as JSON's types; what is not defined (NaN) is None."""
    return _plain(dataclasses.asdict(record))


def from_plain(kind: type[R], fields: Mapping[str, Any], name: str) -> R:
    """Return a dataclass from JSON's types, the inverse of `plain`.

    Args:
        kind: dataclass to build.
        fields: values by name of its fields; those with a default may lack.
        name: name of the whole in an error.

    Raises:
        SpotError: a field that is missing, unknown or of another type.
    """
    return typing.cast(R, _read_record(kind, fields, "", name))


def read_record(kind: type[R], path: epath.Path, version: int, command: str) -> R:
    """Read what `write_record` wrote.

    Args:
        kind: dataclass to build.
        path: path of the file.
        version: newest format that is understood.
        command: command that writes such files, for errors.

    Raises:
        SpotError: no such file, truncated, something else, of a newer format, or contradictory.
    """
    if not path.exists():
        raise SpotError(
            f"no study at {path.parent}: {path} does not exist; run `{command}` there, or give "
            "its directory"
        )
    try:
        fields = parse_object(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SpotError(
            f"{path} is truncated or not JSON ({fault_text(error)}); run the study again"
        ) from None
    if "format" not in fields:
        raise SpotError(
            f"{path} is not a study's results: it has no `format`; give what `{command}` wrote"
        )
    check_version(path, fields["format"], version)
    try:
        fields = check_digest(fields)
        del fields["format"]
        return from_plain(kind, fields, "the study")
    except (SpotError, ValueError) as error:
        raise SpotError(f"{path}: {error}") from None


def _text(fields: Mapping[str, Any]) -> str:
    """JSON with a record a line, so that two studies can be compared as text."""
    lines = []
    for name, value in fields.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(json.dumps(v, allow_nan=False) for v in value) + "]"
        lines.append(f"{json.dumps(name)}: {text}")
    return "{" + ",\n".join(lines) + "}\n"


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not defined is null. Arrays' numbers become Python's."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_value(kind: Any, value: Any, where: str) -> Any:
    """Return a value of JSON as the type that an annotation names.

    Args:
        kind: annotation: int, float, str, bool, a dataclass, tuples and mappings of them, or Any.
        value: value of JSON's types.
        where: words for the place in an error.

    Raises:
        SpotError: a value of another type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (defined,) = [k for k in inner if k is not type(None)]
        return read_value(defined, value, where)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where, where)
    if origin is tuple and isinstance(value, list):
        return tuple(read_value(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (Mapping, dict) and isinstance(value, dict):
        return {name: read_value(inner[1], item, f"{where}.{name}") for name, item in value.items()}
    if kind is float:
        if value is None:
            return math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    name = kind.__name__ if origin is None else {tuple: "list"}.get(origin, "object")
    raise SpotError(f"{where} must be a {name}, found {_short(value)}")


def _read_record(kind: Any, value: Any, where: str, here: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise SpotError(f"{here} must be an object, found {_short(value)}")
    odd = sorted(value.keys() - fields.keys())
    if odd:
        raise SpotError(f"{here} has a field {odd[0]!r} that is not known; update spot-jax")
    missing = [
        name
        for name, f in fields.items()
        if name not in value
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SpotError(f"{here} has no `{missing[0]}`: something else, or damaged")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    return kind(**{name: read_value(hints[name], v, prefix + name) for name, v in value.items()})


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
