"""Tokenised examples of any lengths in flat arrays: what a run trains on, with or without seqio."""

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, Int32, Int64

from spot_jax.errors import SpotError
from spot_jax.files import as_path, check_no_pointer, fault_text, write_whole
from spot_jax.files.arrays import check_claims
from spot_jax.t5.vocabulary import EOS

Ids = Int32[np.ndarray, " _tokens"]
SIDES = ("inputs", "targets")
ARRAYS = ("inputs", "inputs_offsets", "targets", "targets_offsets")


class Example(tuple[Ids, Ids]):
    """The inputs and targets of one example.

    Attributes:
        keeps_eos: whether ids that are cut still end in eos, as seqio's `append_eos_after_trim`
            has it; after seqio's `append_eos` they end where they are cut.
        choices: tokens of the answers that the target is one of, padded with 0; None without.
    """

    keeps_eos: bool
    choices: Int32[np.ndarray, "c u"] | None

    def __new__(
        cls,
        inputs: Ids,
        targets: Ids,
        keeps_eos: bool = False,
        choices: Int32[np.ndarray, "c u"] | None = None,
    ) -> "Example":
        """Make a pair that knows how it is cut."""
        example = super().__new__(cls, (inputs, targets))
        example.keeps_eos = keeps_eos
        example.choices = choices
        return example


def cut(ids: Ids, length: int, keeps_eos: bool = False) -> Ids:
    """Return the first `length` ids, the last of them eos where it is to be kept."""
    if len(ids) <= length or not keeps_eos or ids[-1] != EOS:
        return ids[:length]
    return np.append(ids[: length - 1], ids.dtype.type(EOS))


class ExampleTable(Protocol):
    """Tokenised examples by number: `Examples` in memory, or shares of several hosts."""

    @property
    def task(self) -> str:
        """Name of the task they come from, where that is known."""
        ...

    @property
    def choices(self) -> Int32[np.ndarray, "n c u"] | None:
        """See `Examples`."""
        ...

    @property
    def lengths(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Lengths of all inputs and of all targets."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...

    def gather(
        self, side: str, numbers: Int64[np.ndarray, " k"], length: int
    ) -> tuple[Ids, Int64[np.ndarray, " k"]]:
        """Return the ids of some examples, see `Examples.gather`."""
        ...

    def check_ids(self, vocab_size: int, name: str) -> None:
        """Raise `SpotError` for ids that a backbone's embedding of `vocab_size` rows lacks."""
        ...


@dataclass(frozen=True)
class Examples:
    """Pairs of inputs and targets, each cut out of one flat array by its offsets.

    Attributes:
        inputs, targets: token ids of all examples in a row, eos included where the task appends it.
        inputs_offsets, targets_offsets: bounds [n + 1]; example i is `offsets[i]:offsets[i + 1]`.
        task: name of the task they come from, where that is known.
        keeps_eos: flag [n] of each example, see `Example`; None where it is false for all.
        choices: tokens of each example's answers to choose among, padded with 0; None where they
            have none of their own. `save` leaves them out.
    """

    inputs: Ids
    inputs_offsets: Int64[np.ndarray, " n_plus_1"]
    targets: Ids
    targets_offsets: Int64[np.ndarray, " n_plus_1"]
    task: str = ""
    keeps_eos: Bool[np.ndarray, " n"] | None = None
    choices: Int32[np.ndarray, "n c u"] | None = None

    @classmethod
    def from_lists(
        cls, pairs: Iterable[tuple[Sequence[int] | Ids, Sequence[int] | Ids]], *, task: str = ""
    ) -> "Examples":
        """Build from pairs or `Example`s; raise `SpotError` when there are none."""
        pairs = list(pairs)
        if not pairs:
            raise _empty(task)
        inputs, inputs_offsets = _flatten([first for first, _ in pairs])
        targets, targets_offsets = _flatten([second for _, second in pairs])
        keeps_eos = np.array([getattr(pair, "keeps_eos", False) for pair in pairs])
        flags = keeps_eos if keeps_eos.any() else None
        return cls(inputs, inputs_offsets, targets, targets_offsets, task, flags)

    def __len__(self) -> int:
        return len(self.inputs_offsets) - 1

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return Example(
            self.inputs[self.inputs_offsets[i] : self.inputs_offsets[i + 1]],
            self.targets[self.targets_offsets[i] : self.targets_offsets[i + 1]],
            self.keeps_eos is not None and bool(self.keeps_eos[i]),
            None if self.choices is None else self.choices[i],
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    @functools.cached_property
    def lengths(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Lengths of all inputs and of all targets."""
        return np.diff(self.inputs_offsets), np.diff(self.targets_offsets)

    def gather(
        self, side: str, numbers: Int64[np.ndarray, " k"], length: int
    ) -> tuple[Ids, Int64[np.ndarray, " k"]]:
        """Return the ids of some examples' inputs or targets one after another, cut as `cut` does.

        Args:
            side: "inputs" or "targets".
            numbers: numbers of the examples.
            length: number of ids at which they are cut.

        Returns:
            All ids, and how many each has.
        """
        flat, offsets = getattr(self, side), getattr(self, f"{side}_offsets")
        starts, whole = offsets[numbers], offsets[numbers + 1] - offsets[numbers]
        lengths = np.minimum(whole, length)
        ends = np.cumsum(lengths)
        ids = flat[np.repeat(starts - (ends - lengths), lengths) + np.arange(int(lengths.sum()))]
        if self.keeps_eos is not None:
            over = np.flatnonzero((whole > length) & self.keeps_eos[numbers])
            over = over[flat[starts[over] + whole[over] - 1] == EOS]
            ids[ends[over] - 1] = EOS
        return ids, lengths

    def first(self, n: int) -> "Examples":
        """Return the first `n` examples."""
        n = min(n, len(self))
        return Examples(
            self.inputs[: self.inputs_offsets[n]],
            self.inputs_offsets[: n + 1],
            self.targets[: self.targets_offsets[n]],
            self.targets_offsets[: n + 1],
            self.task,
            None if self.keeps_eos is None else self.keeps_eos[:n],
            None if self.choices is None else self.choices[:n],
        )

    def longest(self) -> tuple[int, int]:
        """Return the greatest length of inputs and of targets."""
        return int(np.diff(self.inputs_offsets).max()), int(np.diff(self.targets_offsets).max())

    def check_ids(self, vocab_size: int, name: str) -> None:
        """Raise `SpotError` for ids that a backbone's embedding of `vocab_size` rows lacks."""
        for side in (self.inputs, self.targets):
            if len(side) and (highest := int(side.max())) >= vocab_size:
                raise SpotError(
                    f"{name}: expected token ids below {vocab_size}, the backbone's vocabulary, "
                    f"found {highest}; tokenise the text with the backbone's vocabulary"
                )

    def save(self, path: str | os.PathLike[str]) -> epath.Path:
        """Write to a compressed `.npz`, in one move."""
        path = as_path(path)
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays["task"] = np.array(self.task)
        if self.keeps_eos is not None:
            arrays["keeps_eos"] = self.keeps_eos
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Examples":
        """Read what `save` wrote; raises `SpotError` when it is missing, damaged or empty."""
        try:
            with as_path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                check_claims(file, path)
                arrays = {name: file[name] for name in ARRAYS}
                task = str(file["task"]) if "task" in file else ""
                keeps_eos = file.get("keeps_eos")
        except SpotError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise many kinds
            check_no_pointer(path)
            raise SpotError(
                f"expected examples written by Examples.save in {path}, found "
                f"{_reason(error)}; write the file again"
            ) from error
        for name in SIDES:
            _check_offsets(arrays[name], arrays[f"{name}_offsets"], name, path)
        if len(arrays["inputs_offsets"]) != len(arrays["targets_offsets"]):
            raise _damaged(path, "not as many inputs as targets")
        if len(arrays["inputs_offsets"]) == 1:
            raise _empty(str(path))
        if not len(arrays["targets"]):
            raise _damaged(path, "targets that are all empty")
        if keeps_eos is not None and (
            keeps_eos.dtype != bool or keeps_eos.shape != (len(arrays["inputs_offsets"]) - 1,)
        ):
            raise _damaged(path, f"keeps_eos of {keeps_eos.dtype} and shape {keeps_eos.shape}")
        offsets = {name: arrays[f"{name}_offsets"].astype(np.int64) for name in SIDES}
        ids = {name: arrays[name].astype(np.int32) for name in SIDES}
        return cls(
            ids["inputs"], offsets["inputs"], ids["targets"], offsets["targets"], task, keeps_eos
        )


def _flatten(lists: list[Sequence[int] | Ids]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    return np.concatenate([np.asarray(ids, np.int32) for ids in lists]), offsets


def _check_offsets(
    flat: np.ndarray, offsets: np.ndarray, name: str, path: str | os.PathLike[str]
) -> None:
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise _damaged(path, f"{name} of type {flat.dtype} and shape {flat.shape}")
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise _damaged(path, f"offsets of {name} of type {offsets.dtype}, shape {offsets.shape}")
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < 2**31:
        raise _damaged(path, f"ids of {name} from {flat.min()} to {flat.max()}")
    if offsets[0] != 0 or offsets[-1] != len(flat) or np.any(np.diff(offsets) < 0):
        raise _damaged(path, f"offsets that do not fit the {len(flat)} ids of {name}")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no file"
    if isinstance(error, KeyError):
        return f"no array {str(error.args[0]).split()[0]}"
    return f"a damaged file ({fault_text(error)})"


def _damaged(path: str | os.PathLike[str], content: str) -> SpotError:
    return SpotError(f"expected examples in {path}, found {content}; write the file again")


def _empty(what: str) -> SpotError:
    where = f" in {what}" if what else ""
    return SpotError(f"expected at least one example{where}, found none; check the split's data")
