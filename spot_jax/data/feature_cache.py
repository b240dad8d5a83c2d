"""A frozen encoder's features of a split, computed once and kept on disk.

A cache is a directory: `features.json` says what it holds, `shard-00000.bin`, ... are the vectors
of consecutive examples' tokens one after another, without padding, in float16 or bfloat16, each
beside a small file with its size and checksum. Shards are written aside and renamed, so a process
that is killed leaves whole ones, and the next goes on with those that are missing. What was cut
off, altered, or made of another text or backbone is found when the cache is opened.
"""

import dataclasses
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np
from etils import epath
from jaxtyping import Float, Int32, Int64
from tqdm import tqdm

from spot_jax.data.examples import Examples, Ids, cut
from spot_jax.errors import SpotError
from spot_jax.files import clear_leftovers, is_local, parse_object, slug, write_whole
from spot_jax.files.digests import digest, json_digest
from spot_jax.files.verified import matches

FORMAT = 1
DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SHARD_BYTES = 2**26
ROWS, SHORTEST = 64, 16
Description = dict[str, Any]


class FeatureEncoder(Protocol):
    """Anything that gives a text's tokens vectors and is itself never trained.

    Attributes:
        mark: all that its vectors depend on besides the tokens: fingerprint, layers, arithmetic.
        layers: number of vectors a token, l.
        width: width of a vector, d.
    """

    @property
    def mark(self) -> dict[str, str]:
        """In JSON's types; `backbone` in it is the fingerprint."""
        ...

    @property
    def layers(self) -> int:
        """l."""
        ...

    @property
    def width(self) -> int:
        """d."""
        ...

    def __call__(self, tokens: Int32[np.ndarray, "b t"]) -> Float[Any, "b t l d"]:
        """Return the vectors; 0 is padding, whose vectors are dropped."""
        ...


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a split's examples, mapped from disk.

    Attributes:
        offsets: [n + 1]; example i's tokens are `offsets[i]:offsets[i + 1]` of all.
        first: [shards], each shard's first example.
        shards: [tokens, l, d] each.
    """

    offsets: Int64[np.ndarray, " n_plus_1"]
    first: Int64[np.ndarray, " shards"]
    shards: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(np.diff(self.offsets).max())

    def __getitem__(self, i: int) -> np.ndarray:
        """Return example i's [tokens, l, d]."""
        shard = int(np.searchsorted(self.first, i, side="right")) - 1
        start = self.offsets[self.first[shard]]
        return self.shards[shard][self.offsets[i] - start : self.offsets[i + 1] - start]

    def padded(
        self, numbers: Sequence[int], length: int
    ) -> tuple[Float[np.ndarray, "b t l d"], Int32[np.ndarray, " b"]]:
        """Return some examples' features, zeros after each one's end, and each one's tokens."""
        shape = self.shards[0].shape[1:]
        out = np.zeros((len(numbers), length, *shape), self.shards[0].dtype)
        lengths = np.zeros(len(numbers), np.int32)
        for row, number in enumerate(numbers):
            vectors = self[int(number)]
            lengths[row] = len(vectors)
            out[row, : len(vectors)] = vectors
        return out, lengths


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """Caches of many splits in one directory, made where they are missing.

    Attributes:
        directory: path of the caches, each in a directory by backbone, task, split, length, layers.
        encoder: encoder that gives the vectors.
        dtype: type of the vectors, "float16" or "bfloat16", on disk and when used.
        rebuild: whether a cache that is missing or damaged is made; else it is refused.
        shard_bytes: approximate size of a shard.
        notify: function called with a line on what is damaged and is made again.
        progress: whether a bar is drawn while building; None where standard error is a terminal.
    """

    directory: epath.Path
    encoder: FeatureEncoder
    dtype: str = "float16"
    rebuild: bool = True
    shard_bytes: int = SHARD_BYTES
    notify: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SpotError(
                f"expected features in {' or '.join(DTYPES)}, found {self.dtype!r}; choose one"
            )

    def of(self, task: str, split: str, examples: Examples, length: int) -> Features:
        """Return the features of every example's first `length` input tokens.

        Raises:
            SpotError: with `rebuild` off, no cache of these, or a damaged one; else a disk that
                refuses, or values that the dtype cannot hold.
        """
        plan = _Plan.make(self, task, split, examples, length)
        where = self.directory / plan.directory
        clear_leftovers(where)
        if not self.rebuild:
            self._refuse(where, plan)
        elif missing := self._missing(where, plan):
            try:
                self._build(where, plan, examples, missing)
            except OSError as error:
                raise SpotError(
                    f"cannot write features to {where}: {error.strerror or error}; free space or "
                    "choose another directory, what is there already will be used"
                ) from error
        return plan.opened(where)

    def _refuse(self, where: epath.Path, plan: "_Plan") -> None:
        fault = _fault_of_all(where, plan.description)
        if fault == _NONE and (others := self._others(plan)):
            raise SpotError(
                f"expected features of {plan.name} of the backbone {plan.backbone[:12]} in "
                f"{self.directory}, found those of {', '.join(others)}; name that backbone or "
                "let them be built"
            )
        faults = [fault] if fault else [f for s in plan.shards if (f := s.fault(where))]
        if faults:
            raise SpotError(
                f"expected whole features of {plan.name} in {where}, found {faults[0]}; let them "
                "be built again or restore the directory"
            )

    def _others(self, plan: "_Plan") -> list[str]:
        """Other backbones whose features of the same task and split are in the directory."""
        others = set()
        for path in self.directory.glob("*/features.json"):
            other = _read(path)
            if all(other.get(key) == plan.description[key] for key in ("task", "split")):
                others.add(str(other.get("encoder", {}).get("backbone"))[:12])
        return sorted(others - {plan.backbone[:12]})

    def _missing(self, where: epath.Path, plan: "_Plan") -> list["_Shard"]:
        """Return the shards to make; delete what is of another text or damaged, and report that."""
        fault = _fault_of_all(where, plan.description)
        if fault:
            if fault != _NONE:
                self.notify(f"features in {where}: found {fault}; building them again")
            for path in where.glob("shard-*"):
                path.unlink()
            return list(plan.shards)
        missing = []
        for shard in plan.shards:
            if fault := shard.fault(where):
                missing.append(shard)
                if fault != _NONE:
                    self.notify(f"features in {where}: found {fault}; building that part again")
        return missing

    def _build(
        self, where: epath.Path, plan: "_Plan", examples: Examples, missing: Sequence["_Shard"]
    ) -> None:
        if jax.process_count() > 1:
            raise SpotError(
                f"features of {plan.name} are not in {self.directory}, and several processes "
                "cannot build them together; run one process for a step first"
            )
        where.mkdir(parents=True, exist_ok=True)
        _write(where / "features.json", json.dumps(plan.description, indent=1).encode())
        done = len(plan.offsets) - 1 - sum(shard.stop - shard.start for shard in missing)
        shown = sys.stderr.isatty() if self.progress is None else self.progress
        label = f"features of {plan.name}"
        with tqdm(
            total=len(plan.offsets) - 1, initial=done, desc=label, disable=not shown, unit="example"
        ) as bar:
            for shard in missing:
                shard.write(where, self._encoded(plan, shard, examples, bar.update))

    def _encoded(
        self, plan: "_Plan", shard: "_Shard", examples: Examples, done: Callable[[int], Any]
    ) -> np.ndarray:
        """Return a shard's vectors. Texts of like length go together, in few shapes."""
        dtype, offsets = DTYPES[self.dtype], plan.offsets
        out = np.empty(shard.shape, dtype)
        lengths = np.diff(offsets)
        order = shard.start + np.argsort(lengths[shard.start : shard.stop], kind="stable")
        for some in _in_batches(order):
            longest = max(int(lengths[some].max()), 1)
            room = min(max(SHORTEST, 1 << (longest - 1).bit_length()), plan.length)
            tokens = np.zeros((ROWS, room), np.int32)
            for row, i in enumerate(some):
                tokens[row, : lengths[i]] = plan.inputs_of(examples, int(i))
            vectors = np.asarray(self.encoder(tokens)).astype(dtype)
            for row, i in enumerate(some):
                start = offsets[i] - offsets[shard.start]
                out[start : start + lengths[i]] = vectors[row, : lengths[i]]
            done(len(some))
        if not np.isfinite(out.astype(np.float32)).all():
            raise SpotError(
                f"features of {plan.name} are not finite in {self.dtype}; use bfloat16, or other "
                "arithmetic for the backbone"
            )
        return out


_NONE = "nothing"


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Examples `start` to `stop` - 1 in one file."""

    number: int
    start: int
    stop: int
    shape: tuple[int, int, int]
    dtype: np.dtype
    of: str = ""

    @property
    def name(self) -> str:
        return f"shard-{self.number:05}.bin"

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def fault(self, where: epath.Path) -> str | None:
        """Return what is wrong with the file, None if nothing is; all of it is read."""
        path, beside = where / self.name, where / f"{self.name}.json"
        if not path.exists() or not beside.exists():
            return _NONE
        size = epath.Path(path).stat().length
        if size != self.bytes:
            return f"{self.name} of {size} bytes where {self.bytes} belong"
        mark = _read(beside)
        if mark.get("of", self.of) != self.of:
            return f"{self.name} of other examples"
        if "digest" in mark:
            same = matches(path, str(mark["digest"]))
        else:  # written before there were digests
            same = _sum(self.mapped(where)) == mark.get("crc32")
        return None if same else f"{self.name} altered"

    def mapped(self, where: epath.Path) -> np.ndarray:
        """Return the vectors; a local file's are read when they are used."""
        if not self.bytes:
            return np.zeros(self.shape, self.dtype)
        if is_local(where):
            return np.memmap(where / self.name, self.dtype, mode="r", shape=self.shape)
        data = (where / self.name).read_bytes()
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def write(self, where: epath.Path, vectors: np.ndarray) -> None:
        """Write the file first and then its mark, so that a mark means a whole file."""
        _write(where / self.name, vectors)
        # Older versions compare the second sum.
        sums = {"digest": digest(vectors.view(np.uint8).data), "crc32": _sum(vectors)}
        mark = {"bytes": self.bytes, "of": self.of, **sums}
        _write(where / f"{self.name}.json", json.dumps(mark).encode())


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a cache holds, and how it is cut."""

    description: Description
    directory: str
    length: int
    offsets: np.ndarray
    shards: tuple[_Shard, ...]

    @property
    def name(self) -> str:
        return f"{self.description['task']} {self.description['split']}"

    @property
    def backbone(self) -> str:
        return str(self.description["encoder"]["backbone"])

    @classmethod
    def make(
        cls, store: FeatureStore, task: str, split: str, examples: Examples, length: int
    ) -> "_Plan":
        lengths = np.minimum(np.diff(examples.inputs_offsets), length)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tail, dtype = (store.encoder.layers, store.encoder.width), DTYPES[store.dtype]
        per_shard = max(store.shard_bytes // (tail[0] * tail[1] * dtype.itemsize), 1)
        edges = np.flatnonzero(np.diff(offsets[:-1] // per_shard, prepend=-1))
        stops = [*edges[1:], len(lengths)]
        shards = tuple(
            _Shard(i, int(a), int(b), (int(offsets[b] - offsets[a]), *tail), dtype)
            for i, (a, b) in enumerate(zip(edges, stops, strict=True))
        )
        key = {
            "encoder": dict(store.encoder.mark),
            "task": task,
            "split": split,
            "examples": len(lengths),
            "length": length,
            "vectors": list(tail),
            "dtype": store.dtype,
        }
        mark = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        words = slug(f"{task.rpartition('/')[2]}-{split}")
        text = hashlib.sha256(offsets.tobytes())
        described = {"format": FORMAT, **key, "shard_tokens": per_shard}
        plan = cls(described, f"{words[:60]}-{mark}", length, offsets, shards)
        for number in range(len(examples)):
            text.update(plan.inputs_of(examples, number).tobytes())
        described["text"] = text.hexdigest()
        # What a shard is of: its cache and its place in it.
        marked = tuple(
            dataclasses.replace(shard, of=json_digest([described, shard.number]))
            for shard in shards
        )
        return dataclasses.replace(plan, shards=marked)

    def inputs_of(self, examples: Examples, number: int) -> Ids:
        """Return an example's input tokens, cut as they are everywhere."""
        example = examples[number]
        return np.asarray(cut(example[0], self.length, example.keeps_eos), np.int32)

    def opened(self, where: epath.Path) -> Features:
        first = np.array([shard.start for shard in self.shards], np.int64)
        return Features(self.offsets, first, [shard.mapped(where) for shard in self.shards])


def _fault_of_all(where: epath.Path, wanted: Description) -> str | None:
    """Return what is wrong with a cache as a whole."""
    path = where / "features.json"
    if not path.exists():
        return _NONE
    description = _read(path)
    for name, value in wanted.items():
        if description.get(name) != value:
            if name == "text":
                return "features of other text: the task's data has changed"
            return f"{name} = {description.get(name)!r} where {value!r} is expected"
    return None


def _in_batches(numbers: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers), ROWS):
        yield numbers[start : start + ROWS]


def _sum(vectors: np.ndarray) -> int:
    return zlib.crc32(vectors.view(np.uint8).data)


def _read(path: epath.Path) -> Description:
    """A JSON object; empty if there is none, or another is in its place."""
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _write(path: epath.Path, data: Any) -> None:
    """Write in one move, and onto the disk before the name is there."""
    write_whole(path, lambda file: file.write(data), durable=True)
