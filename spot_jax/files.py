"""Files of ours: whole or not there at all, JSON that names its format, names and tables of text.

A path is local or the URL of a bucket (gs://, s3://), as `etils.epath` takes it. A local file is
written under a name of its own and moved into place, so no reader sees half of it and a killed
writer leaves at most a hidden `.part` that nothing reads. A bucket shows an object only when it is
whole, so there is nothing to move.
"""

import dataclasses
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import IO, Any, TypeVar

from etils import epath

from spot_jax.errors import SpotError

T = TypeVar("T")

Content = bytes | str | Callable[[IO[bytes]], object]


def is_local(path: epath.PathLike) -> bool:
    """Return whether a path is of this machine's file systems rather than of a bucket."""
    return "://" not in os.fspath(path)


def write_whole(path: epath.PathLike, content: Content, *, durable: bool = False) -> None:
    """Write a file in one move; its directory is made if need be.

    Any number of processes may write one path at once: each file they leave is one of theirs.

    Args:
        path: path of the file.
        content: bytes, text (UTF-8), or a function that writes to an open binary file.
        durable: whether a local file's bytes are on the disk before its name is.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        with path.open("wb") as file:
            _write(file, content)
        return
    part = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part"
    try:
        with part.open("wb") as file:
            _write(file, content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        # A full disk or Ctrl-C; after a kill the part stays, and nothing ever reads it.
        part.unlink(missing_ok=True)
        raise


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write JSON in one move."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def plain(value: Any) -> Any:
    """Return a value in JSON's types; what JSON lacks is written as Python would."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **plain(dataclasses.asdict(value))}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def plain_fields(settings: Any) -> dict[str, Any]:
    """Return a dataclass's fields in JSON's types, but for those with the metadata `place`.

    Where something lies does not decide what it is.
    """
    fields = [f for f in dataclasses.fields(settings) if not f.metadata.get("place")]
    return {f.name: plain(getattr(settings, f.name)) for f in fields}


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError, whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_versioned(
    path: epath.PathLike, version: int, read: Callable[[dict[str, Any]], T], remedy: str
) -> T | None:
    """Read a JSON object that names its format; None if there is no such file.

    Args:
        path: path of the file.
        version: newest format that is understood, of its field `format`; they count from 1.
        read: function from its other fields to a value; raises KeyError, TypeError or ValueError.
        remedy: words for the error of what to do about a damaged file.

    Raises:
        SpotError: damaged, or of a newer format.
    """
    path = epath.Path(path)
    try:
        fields = parse_json(path.read_text())
        check_version(path, fields.pop("format"), version)
        return read(fields)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpotError(f"{path} is damaged ({error}); {remedy}") from error


def check_version(path: epath.PathLike, stated: Any, version: int) -> None:
    """Raise `SpotError` if a file is of another format than those that are understood."""
    if not (isinstance(stated, int) and 1 <= stated <= version):
        raise SpotError(
            f"{os.fspath(path)}: written by a newer spot-jax; update this one to read it"
        )


def slug(text: str) -> str:
    """Return a text as part of a file's name: letters, digits and `_.+`, all else a dash."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", text).strip("-.")


def unique_slug(text: str) -> str:
    """Return a slug of at most 60 characters, with digits of the text's hash where it differs."""
    name = slug(text)[-60:]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return rows of cells as lines of aligned columns: words to the left, numbers to the right.

    Args:
        rows: cells, as many in each row; the first row is usually the head.
        left: indices of the columns that begin, rather than end, under one another.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _write(file: IO[bytes], content: Content) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content.encode() if isinstance(content, str) else content)
