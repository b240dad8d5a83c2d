"""Files of ours: whole or absent, read in one way that names every fault, names and tables of text.

A path is local or the URL of a bucket (gs://, s3://): `as_path` takes what a user types. A local
file is written under a name of its own and moved into place, so no reader sees half of it and a
killed writer leaves at most a hidden `.part` that nothing reads and the next writer clears away. A
bucket shows an object only when it is whole, so there is nothing to move.

`reading` is what every parser runs in: whatever it raises becomes one line that names file, fault
and remedy. JSON objects of ours carry a digest of their fields (`write_object`, `read_object`).
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files.digests import FIELD, digest, json_digest

T = TypeVar("T")

_POINTER = b"version https://git-lfs"

Content = bytes | str | Callable[[IO[bytes]], object]

# By scheme: the client of a bucket, and the extra of this package that brings it.
_CLIENTS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
if any(importlib.util.find_spec(client) for client, _ in _CLIENTS.values()):
    # Else epath takes TensorFlow for buckets, whose files cannot be streamed and which lacks S3.
    os.environ.setdefault("EPATH_USE_TF", "false")


def as_path(path: epath.PathLike) -> epath.Path:
    """Return a path as users type it: `~` is their home, gs:// and s3:// begin a bucket's name.

    A local path is a `Path`, which has all that is asked of an `epath.Path` here but the
    sizes of `stat`.

    Raises:
        SpotError: a scheme that does not exist, or whose client is not installed.
    """
    text = os.fspath(path)
    if re.match(r"(gs|s3):/(?!/)", text):
        raise SpotError(f"{text}: a bucket's path has two slashes; write {text[:3]}//{text[4:]}")
    if is_local(text):
        return cast(epath.Path, Path(text).expanduser())
    scheme, _, rest = text.partition("://")
    if scheme not in _CLIENTS:
        usable = ", ".join(f"{name}://" for name in _CLIENTS)
        raise SpotError(
            f"{text}: cannot be reached, because there is no {scheme}:// here; give a local path, "
            f"or one of {usable}"
        )
    if not rest.partition("/")[0]:
        raise SpotError(f"{text}: names no bucket; write {scheme}://BUCKET/PATH")
    client, extra = _CLIENTS[scheme]
    if importlib.util.find_spec(client) is None:
        raise SpotError(
            f"{text}: {scheme}:// needs {client}, which is not installed; "
            f"pip install 'spot-jax[{extra}]'"
        )
    # Another process writes too, and a list of a directory that is kept does not show it.
    from fsspec.config import conf

    for name in (scheme, {"gs": "gcs"}.get(scheme, scheme)):
        conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return epath.Path(text)


def absolute(path: epath.PathLike) -> epath.Path:
    """Return a path that means the same from any directory; a bucket's stays as it is."""
    path = as_path(path)
    return path.absolute() if is_local(path) else path


def resolved(path: epath.PathLike) -> epath.Path:
    """Return `absolute(path)` without symbolic links."""
    path = as_path(path)
    return path.resolve() if is_local(path) else path


def remove_tree(path: epath.PathLike) -> None:
    """Remove a directory with all that is in it; nothing happens where there is none."""
    path = epath.Path(path)
    if path.exists():
        path.rmtree(missing_ok=True)


def is_local(path: epath.PathLike) -> bool:
    """Return whether a path is of this machine's file systems rather than of a bucket."""
    return "://" not in os.fspath(path)


def input_path(path: epath.PathLike, what: str) -> epath.Path:
    """Return the path of something that has to exist.

    Args:
        path: path, local or of a bucket.
        what: words for the thing, for errors.

    Raises:
        SpotError: an empty path, one of a file system that is none, nothing at it, or a bucket that
            cannot be reached.
    """
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise SpotError(f"the path of {what} is {text!r}; give the place of {what}")
    try:
        place = epath.Path(as_path(text))
        exists = place.exists()
    except SpotError:
        raise
    except Exception as error:  # each file system has its own
        raise SpotError(
            f"{text}: {what} cannot be reached ({fault_text(error)}); give a local path or the "
            "URL of a bucket (gs://, s3://), and check its rights"
        ) from error
    if not exists:
        raise SpotError(f"{text}: does not exist; give the place of {what}")
    return place


def check_output(path: epath.PathLike) -> None:
    """Raise `SpotError` for a file that could not be written: before what it will hold is made."""
    place = epath.Path(as_path(path))
    if place.is_dir():
        raise SpotError(f"{os.fspath(path)}: a directory; give the name of a file to write")
    above = next((p for p in place.parents if p.exists()), None)
    if above is not None and not above.is_dir():
        raise SpotError(f"{os.fspath(path)}: {above} is a file, not a directory; give another path")


def write_whole(path: epath.PathLike, content: Content, *, durable: bool = False) -> None:
    """Write a file in one move; its directory is made if need be.

    Any number of processes may write one path at once: each file they leave is one of theirs.

    Args:
        path: path of the file.
        content: bytes, text (UTF-8), or a function that writes to an open binary file.
        durable: whether a local file's bytes are on the disk before its name is.
    """
    path = epath.Path(as_path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        # A file of a bucket that is closed after an error would be stored as far as it came.
        buffer = io.BytesIO()
        _write(buffer, content)
        path.write_bytes(buffer.getvalue())
        return
    clear_leftovers(path.parent, once=True)
    part = part_path(path)
    try:
        with part.open("wb") as file:
            _write(file, content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        # A full disk or Ctrl-C; after a kill the part stays until the next writer comes.
        part.unlink(missing_ok=True)
        raise


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write JSON in one move."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def write_object(
    path: epath.PathLike, fields: Mapping[str, Any], places: Collection[str] = ()
) -> None:
    """Write a JSON object in one move, with a digest of its fields, for `read_object`.

    Args:
        path: path of the file.
        fields: fields of the object.
        places: names of fields that say where something lies, which may change.
    """
    write_json(path, signed(json.loads(json.dumps(fields)), places))


def signed(fields: Mapping[str, Any], places: Collection[str] = ()) -> dict[str, Any]:
    """Return an object of JSON's types and, as its last field, the digest of all but `places`."""
    return {**fields, FIELD: json_digest({k: v for k, v in fields.items() if k not in places})}


def check_digest(fields: Mapping[str, Any], places: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of an object without its digest, if it has one.

    Args:
        fields: fields of the object.
        places: names of fields that the digest is not of.

    Raises:
        ValueError: fields that are not those whose digest it is.
    """
    others = {name: value for name, value in fields.items() if name != FIELD}
    content = {name: value for name, value in others.items() if name not in places}
    if FIELD in fields and fields[FIELD] != json_digest(content):
        raise ValueError(
            f"its content is not what was written; whoever changed it on purpose takes the field "
            f"{FIELD!r} out"
        )
    return others


def plain(value: Any) -> Any:
    """Return a value in JSON's types; what JSON lacks is written as Python would."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **plain(dataclasses.asdict(value))}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def plain_fields(settings: Any) -> dict[str, Any]:
    """Return a dataclass's fields in JSON's types, but for those with the metadata `place`.

    Where something lies does not decide what it is.
    """
    fields = [f for f in dataclasses.fields(settings) if not f.metadata.get("place")]
    return {f.name: plain(getattr(settings, f.name)) for f in fields}


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: whatever is wrong with it; a field that an object has twice is.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the field {twice[:40]!r} twice")
    return fields


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the object of a JSON text; ValueError if it is no JSON or another value."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, found {type(value).__name__}")
    return value


@contextlib.contextmanager
def reading(path: epath.PathLike, remedy: str, wrong: str = "damaged") -> Iterator[None]:
    """Within, whatever a parser raises is a `SpotError` that names file, fault and remedy.

    Args:
        path: path of the file, and the place in it where that is known.
        remedy: advice about a damaged file, in the imperative.
        wrong: words for what is then wrong with the file ("not a prompt file, or truncated").
    """
    try:
        yield
    except SpotError as error:
        if os.fspath(path) in str(error):
            raise
        raise SpotError(f"{os.fspath(path)}: {error}; {remedy}") from error
    except OSError as error:
        raise SpotError(
            f"{os.fspath(path)}: cannot be read ({error.strerror or fault_text(error)}); {remedy}"
        ) from error
    except (NameError, ImportError):  # ours
        raise
    except Exception as error:
        check_no_pointer(path)
        fault = " is damaged" if wrong == "damaged" else f": {wrong}"
        raise SpotError(f"{os.fspath(path)}{fault} ({fault_text(error)}); {remedy}") from error


def check_no_pointer(path: epath.PathLike) -> None:
    """Raise `SpotError` for a file that holds a Git LFS pointer in the place of its content."""
    start = b""
    with contextlib.suppress(OSError, ValueError), epath.Path(path).open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise SpotError(
            f"{os.fspath(path)}: a Git LFS pointer, not the file itself; fetch it with: git lfs "
            "pull"
        )


def fault_text(error: BaseException) -> str:
    """Return what an exception says, in one line of at most 160 characters."""
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}" if error.args else "it lacks a field"
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 160 else line[:157] + "..."


def read_object(path: epath.PathLike, remedy: str) -> dict[str, Any] | None:
    """Read a JSON object, checked against its digest if it has one; None if there is no such file.

    Args:
        path: path of the file.
        remedy: see `reading`.

    Raises:
        SpotError: no JSON, no object, or not what was written.
    """
    path = epath.Path(path)
    with reading(path, remedy):
        try:
            return check_digest(parse_object(path.read_bytes()))
        except FileNotFoundError:
            return None


def read_versioned(
    path: epath.PathLike,
    version: int,
    read: Callable[[dict[str, Any]], T],
    remedy: str,
    places: Collection[str] = (),
) -> T | None:
    """Read a JSON object that names its format; None if there is no such file.

    Args:
        path: path of the file.
        version: newest format that is understood, of its field `format`; they count from 1.
        read: function from its other fields to a value; any exception of it means damage.
        remedy: words for the error of what to do about a damaged file.
        places: see `write_object`.

    Raises:
        SpotError: damaged, or of a newer format.
    """
    path = epath.Path(path)
    with reading(path, remedy):
        try:
            fields = parse_object(path.read_bytes())
        except FileNotFoundError:
            return None
        check_version(path, fields["format"], version)
        # What is wrong with a field says more than a digest, so it comes first; on a copy, as
        # `read` may take fields apart.
        content = {name: fields[name] for name in fields if name not in (FIELD, "format")}
        value = read(copy.deepcopy(content))
        check_digest(fields, places)
        return value


def check_version(path: epath.PathLike, stated: Any, version: int) -> None:
    """Raise `SpotError` if a file is of another format than those that are understood."""
    if type(stated) is not int or not 1 <= stated <= version:
        raise SpotError(
            f"{os.fspath(path)}: written by a newer spot-jax; update this one to read it"
        )


@functools.cache
def machine_mark() -> str:
    """Return a name for this machine since its start; containers with processes apart differ."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{slug(facts[0])[:40]}-{digest(*facts)[:6]}"


def writer_mark() -> str:
    """Return a mark for names of what is being written: machine, process and eight digits."""
    return f"{machine_mark()}.{os.getpid()}.{secrets.token_hex(4)}"


def part_path(path: epath.Path) -> epath.Path:
    """Return a new hidden name beside a path, for what is being written; see `clear_leftovers`."""
    return path.parent / f".{path.name}.{writer_mark()}.part"


_MARKED = re.compile(r"\..+\.(\d+)\.[0-9a-f]{8}\.part")
_ABANDONED_SECONDS = 86400.0
_cleared: set[str] = set()


def clear_leftovers(directory: epath.PathLike, *, once: bool = False) -> None:
    """Remove what killed writers left in a local directory: names with a `writer_mark`.

    A writer on this machine that lives keeps its files; one on another, for a day.

    Args:
        directory: directory; nothing happens if there is none, or in a bucket.
        once: whether to look once a process.
    """
    name = os.fspath(directory)
    if not is_local(name) or (once and name in _cleared):
        return
    _cleared.add(name)
    with contextlib.suppress(OSError), os.scandir(name) as entries:
        for entry in entries:
            mark = _MARKED.fullmatch(entry.name)
            if mark is None:
                continue
            if entry.name[: mark.start(1)].endswith(f".{machine_mark()}."):
                abandoned = not is_alive(int(mark[1]))
            else:
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                abandoned = age > _ABANDONED_SECONDS
            if abandoned:
                remove(Path(entry.path))


def is_alive(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file or a directory, as far as it can be removed."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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
