"""Tokenised examples of any lengths in flat arrays: what a run trains on, with or without seqio."""

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from spot_jax.errors import SpotError
from spot_jax.files import write_whole

Ids = Int32[np.ndarray, " tokens"]
ARRAYS = ("inputs", "inputs_offsets", "targets", "targets_offsets")


@dataclass(frozen=True)
class Examples:
    """Pairs of inputs and targets, each cut out of one flat array by its offsets.

    Attributes:
        inputs, targets: all token ids in a row, eos included where the task appends it.
        inputs_offsets, targets_offsets: [n + 1]; example i is `offsets[i]:offsets[i + 1]`.
        task: the task they come from, where that is known.
    """

    inputs: Ids
    inputs_offsets: Int64[np.ndarray, " n_plus_1"]
    targets: Ids
    targets_offsets: Int64[np.ndarray, " n_plus_1"]
    task: str = ""

    @classmethod
    def from_lists(
        cls, pairs: Iterable[tuple[Sequence[int] | Ids, Sequence[int] | Ids]], *, task: str = ""
    ) -> "Examples":
        """Build from (inputs, targets) pairs; raises `SpotError` when there are none."""
        pairs = list(pairs)
        if not pairs:
            raise _empty(task)
        inputs, inputs_offsets = _flatten([first for first, _ in pairs])
        targets, targets_offsets = _flatten([second for _, second in pairs])
        return cls(inputs, inputs_offsets, targets, targets_offsets, task)

    def __len__(self) -> int:
        return len(self.inputs_offsets) - 1

    def __getitem__(self, i: int) -> tuple[Ids, Ids]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return (
            self.inputs[self.inputs_offsets[i] : self.inputs_offsets[i + 1]],
            self.targets[self.targets_offsets[i] : self.targets_offsets[i + 1]],
        )

    def __iter__(self) -> Iterator[tuple[Ids, Ids]]:
        return (self[i] for i in range(len(self)))

    def first(self, n: int) -> "Examples":
        """Return the first `n` examples."""
        n = min(n, len(self))
        return Examples(
            self.inputs[: self.inputs_offsets[n]],
            self.inputs_offsets[: n + 1],
            self.targets[: self.targets_offsets[n]],
            self.targets_offsets[: n + 1],
            self.task,
        )

    def longest(self) -> tuple[int, int]:
        """Return the greatest length of inputs and of targets."""
        return int(np.diff(self.inputs_offsets).max()), int(np.diff(self.targets_offsets).max())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a compressed `.npz`, in one move."""
        path = Path(path)
        arrays = {name: getattr(self, name) for name in ARRAYS}
        task = np.array(self.task)
        write_whole(path, lambda file: np.savez_compressed(file, task=task, **arrays))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Examples":
        """Read what `save` wrote; raises `SpotError` when it is missing, damaged or empty."""
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ARRAYS}
                task = str(file["task"]) if "task" in file else ""
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SpotError(
                f"expected examples written by Examples.save in {path}, found "
                f"{_reason(error)}; write the file again"
            ) from error
        for name in ("inputs", "targets"):
            _check_offsets(arrays[name], arrays[f"{name}_offsets"], name, path)
        if len(arrays["inputs_offsets"]) != len(arrays["targets_offsets"]):
            raise _damaged(path, "not as many inputs as targets")
        if len(arrays["inputs_offsets"]) == 1:
            raise _empty(str(path))
        return cls(**arrays, task=task)


def _flatten(lists: list[Sequence[int] | Ids]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    return np.concatenate([np.asarray(ids, np.int32) for ids in lists]), offsets


def _check_offsets(
    flat: np.ndarray, offsets: np.ndarray, name: str, path: str | os.PathLike[str]
) -> None:
    if flat.ndim != 1 or flat.dtype.kind not in "iu" or offsets.ndim != 1 or not len(offsets):
        raise _damaged(path, f"{name} of type {flat.dtype} and shape {flat.shape}")
    if offsets[0] != 0 or offsets[-1] != len(flat) or np.any(np.diff(offsets) < 0):
        raise _damaged(path, f"offsets that do not fit the {len(flat)} ids of {name}")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no file"
    if isinstance(error, KeyError):
        return f"no array {error.args[0]}"
    return f"a damaged file ({str(error).splitlines()[0] if str(error) else type(error).__name__})"


def _damaged(path: str | os.PathLike[str], found: str) -> SpotError:
    return SpotError(f"expected examples in {path}, found {found}; write the file again")


def _empty(what: str) -> SpotError:
    where = f" in {what}" if what else ""
    return SpotError(f"expected at least one example{where}, found none; check the split's data")
