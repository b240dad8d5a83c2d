"""The directory in which a backbone is stored: its contents, writing and checking."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

import ml_dtypes
import numpy as np
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import (
    as_path,
    check_digest,
    check_version,
    clear_leftovers,
    is_local,
    parse_object,
    part_path,
    reading,
    remove_tree,
    write_object,
)
from spot_jax.files.digests import FIELD, file_digest
from spot_jax.files.records import from_plain, read_value
from spot_jax.files.verified import is_remembered, matches
from spot_jax.shipped import BACKBONE
from spot_jax.t5.config import T5Config, check_shape
from spot_jax.t5.int8 import INT8
from spot_jax.t5.tensor_files import TensorFile, TensorWriter

DESCRIPTION = "backbone.json"
VOCABULARY = "vocabulary.model"
_FORMAT = 2
_TEXTS = ("dtype", "fingerprint", "source")
_SHARD_BYTES = 2 << 30
# Of files in a bucket that were written without digests only small ones are read once more.
_VERIFIED_IN_BUCKETS = 64 << 20
_SHIPPED = epath.Path(BACKBONE)
_STORABLE = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.int8))


@dataclasses.dataclass(frozen=True)
class Description:
    """The contents of `backbone.json`."""

    directory: epath.Path
    config: T5Config
    dtype: str
    fingerprint: str
    source: str
    files: dict[str, dict[str, Any]]
    vocabulary_sha256: str | None
    bound: bool = False
    """Whether backbone.json binds configuration and files by a digest."""

    @property
    def vocabulary_path(self) -> epath.Path | None:
        """The stored SentencePiece model, if there is one."""
        return self.directory / VOCABULARY if self.vocabulary_sha256 else None

    @property
    def has_digest(self) -> bool:
        """Whether every file's digest is stored."""
        return all("digest" in entry for entry in self.files.values())

    def open_files(self) -> Iterator[tuple[TensorFile, str | None]]:
        """Yield each weight file, and the digest that whoever reads it whole has to compare.

        The digest is None where there is nothing to compare: the file has been read before and has
        not changed, or it was compared here because it was written without one.

        Raises:
            SpotError: a file that is missing, of another size, or changed.
        """
        for name, entry in self.files.items():
            path = self.directory / name
            if not path.exists():
                raise SpotError(f"{path}: missing; {_remedy(path)}")
            size = path.stat().length
            if size != entry["bytes"]:
                raise SpotError(
                    f"{path}: truncated or changed: expected {entry['bytes']} bytes, found {size}; "
                    f"{_remedy(path)}"
                )
        if not self.has_digest:
            total = sum(entry["bytes"] for entry in self.files.values())
            if is_local(self.directory) or total <= _VERIFIED_IN_BUCKETS:
                self.verify()
        elif VOCABULARY in self.files:
            self._check(VOCABULARY)
        for name, entry in self.files.items():
            if name != VOCABULARY:
                path, expected = self.directory / name, entry.get("digest")
                needed = expected is not None and not is_remembered(path, expected)
                yield TensorFile(path), expected if needed else None

    def verify(self) -> None:
        """Compare every file with its hash; `SpotError` names the first that differs.

        A file that has been read to the end and has not changed since is not read again.
        """
        for name in self.files:
            self._check(name)

    def _check(self, name: str) -> None:
        path, entry = self.directory / name, self.files[name]
        expected, hashed = entry["sha256"], file_sha256
        if "digest" in entry:
            expected, hashed = entry["digest"], file_digest
        if not matches(path, expected, hashed):
            raise changed(path)


def changed(path: epath.Path) -> SpotError:
    """Return the complaint about a file whose contents are not those that were stored."""
    return SpotError(f"{path}: its contents were changed; {_remedy(path)}")


def read_description(directory: epath.PathLike) -> Description:
    """Parse `backbone.json`; raise `SpotError` if it is missing, not ours, or changed."""
    directory = epath.Path(as_path(directory))
    path = directory / DESCRIPTION
    if not path.exists():
        raise SpotError(
            f"{directory}: no stored backbone there (no {DESCRIPTION}); "
            f"make one with `spot convert SOURCE DEST`"
        )
    with reading(path, _remedy(path), "not a backbone's description, or cut short"):
        data = parse_object(path.read_bytes())
        check_version(path, data["format"], _FORMAT)
        bound = FIELD in data
        data = check_digest(data)
        files = {name: _entry(name, entry) for name, entry in data["files"].items()}
        if data["vocabulary_sha256"] != files.get(VOCABULARY, {}).get("sha256"):
            raise ValueError("the vocabulary's hash is not that of its file")
        return Description(
            directory=directory,
            config=_config(data["config"]),
            **{name: read_value(str, data[name], name) for name in _TEXTS},
            files=files,
            vocabulary_sha256=data["vocabulary_sha256"],
            bound=bound,
        )


def _config(fields: dict[str, Any]) -> T5Config:
    missing = T5Config().shape_fields().keys() - fields.keys()
    if missing:
        raise KeyError(min(missing))
    config = from_plain(T5Config, fields, "config")
    check_shape(config)
    return config


def _entry(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    if "/" in name or "\\" in name or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a file in the directory")
    if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
        raise ValueError(f"the size or hash of {name} is none")
    return entry


def _remedy(path: epath.Path) -> str:
    """Say how to get a damaged file back."""
    if path.resolve().parent == _SHIPPED:
        return f"restore it with: git checkout -- {path}"
    return "copy or convert the backbone again"


class BackboneWriter:
    """Writes a backbone tensor by tensor; nothing appears at `directory` before `finish`.

    Use as a context manager; write `names` in their order. On any failure the temporary directory
    is removed and `directory` is as it was. What a form of files looks like is its subclass's.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        config: T5Config,
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, np.dtype],
        vocabulary: epath.PathLike | None = None,
        source: str = "",
    ):
        self.directory = epath.Path(as_path(directory))
        self.names = sorted(shapes)
        self._config, self._source = config, source
        self._shapes, self._dtypes = shapes, dtypes
        self._vocabulary = None if vocabulary is None else epath.Path(as_path(vocabulary))
        # Of a name that the next writer knows as abandoned, should this one be killed. A bucket has
        # no rename; there the description, which comes last, makes the backbone.
        local = is_local(self.directory)
        self._temporary = part_path(self.directory) if local else self.directory
        self._writer: TensorWriter | None = None
        self._finished = False
        for name, dtype in dtypes.items():
            if dtype not in _STORABLE:
                raise SpotError(f"{name}: cannot store dtype {dtype}, only float32, bfloat16, int8")
        if self._vocabulary is not None and not self._vocabulary.exists():
            raise SpotError(f"{self._vocabulary}: no such vocabulary; give a SentencePiece model")
        check_destination(self.directory)
        clear_leftovers(self.directory.parent)

    def __enter__(self) -> Self:
        try:
            self._temporary.mkdir(parents=True, exist_ok=not is_local(self.directory))
        except OSError as error:
            raise _disk_error(self.directory, error) from error
        return self

    def write(self, name: str, array: np.ndarray) -> None:
        """Append one tensor, by our name."""
        raise NotImplementedError

    def describe(self, fingerprint: str) -> None:
        """Write what stands beside the tensors, last of all."""
        raise NotImplementedError

    def finish(self, fingerprint: str) -> None:
        """Write the description and put the directory in its place."""
        self.describe(fingerprint)
        self._finished = True
        if self._temporary == self.directory:
            return
        if self.directory.exists():
            self.directory.rmdir()
        self._temporary.rename(self.directory)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._writer is not None:
            self._writer.abandon()
        if self._temporary != self.directory or not self._finished:
            remove_tree(self._temporary)
        if isinstance(error, OSError):
            raise _disk_error(self.directory, error) from error


class StoredWriter(BackboneWriter):
    """Writes our stored form: safetensors files of at most 2 GiB and `backbone.json`."""

    def __init__(self, directory: epath.PathLike, config: T5Config, **options: Any):
        super().__init__(directory, config, **options)
        self._files: dict[str, dict[str, Any]] = {}
        self._shards = self._plan()

    def _plan(self) -> list[list[str]]:
        shards: list[list[str]] = [[]]
        size = 0
        for name in self.names:
            nbytes = math.prod(self._shapes[name]) * self._dtypes[name].itemsize
            if shards[-1] and size + nbytes > _SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += nbytes
        return shards

    def write(self, name: str, array: np.ndarray) -> None:
        """Append one tensor, in the next file where one is full."""
        number = next(i for i, shard in enumerate(self._shards) if name in shard)
        shard = self._shards[number]
        if name == shard[0]:
            self._writer = TensorWriter(
                self._temporary / self._file_name(number),
                {n: self._shapes[n] for n in shard},
                self._dtypes,
                {"format": "spot_jax backbone"},
            )
        if self._writer is None:
            raise ValueError(f"{name} came out of order, expected {shard[0]}")
        self._writer.write(name, array)
        if name == shard[-1]:
            self._writer.close()
            entry = {"bytes": self._writer.size, "sha256": self._writer.sha256}
            entry["digest"] = self._writer.digest
            self._files[self._file_name(number)] = entry
            self._writer = None

    def describe(self, fingerprint: str) -> None:
        """Write the vocabulary and `backbone.json`."""
        if len(self._files) != len(self._shards):
            raise ValueError("finish before the last tensor was written")
        sha256 = None
        if self._vocabulary is not None:
            self._vocabulary.copy(self._temporary / VOCABULARY)
            copy = self._temporary / VOCABULARY
            sha256 = file_sha256(copy)
            entry = {"bytes": copy.stat().length, "sha256": sha256, "digest": file_digest(copy)}
            self._files[VOCABULARY] = entry
        kinds = sorted({str(self._dtypes[n]) for n in self.names})
        has_int8 = INT8 in kinds
        data = {
            # 2 has integers and scales, which versions before would not know.
            "format": _FORMAT if has_int8 else 1,
            "config": self._config.shape_fields(),
            "dtype": INT8 if has_int8 else kinds[0] if len(kinds) == 1 else "mixed",
            "fingerprint": fingerprint,
            "source": self._source,
            "vocabulary_sha256": sha256,
            "files": self._files,
        }
        # Last, so that a copy that was cut off is no backbone.
        write_object(self._temporary / DESCRIPTION, data)

    def _file_name(self, number: int) -> str:
        return f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"


def check_destination(directory: epath.Path) -> None:
    """Raise `SpotError` unless the directory is empty or does not exist yet."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise SpotError(f"{directory}: exists and is not empty; choose another destination")


def _disk_error(directory: epath.Path, error: OSError) -> SpotError:
    reason = error.strerror or str(error)
    return SpotError(f"{directory}: cannot be written ({reason}); nothing was stored there")


def file_sha256(path: epath.Path) -> str:
    """Return the hash of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
