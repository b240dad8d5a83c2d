"""Rows of fixed shape from examples of any lengths: where each goes, and the arrays of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from spot_jax.data.examples import Ids

Batch = dict[str, np.ndarray]
# Sizes in a step share the place where the search for a row begins.
_STEP = 16
# Rows that are looked at one by one from there, and after them many together.
_NEAR = 8
_WINDOW = 512


class Pieces(NamedTuple):
    """Token ids of several examples, one after another.

    Attributes:
        ids: ids of all.
        lengths: number of ids of each, [k].
    """

    ids: Ids
    lengths: Int64[np.ndarray, " k"]

    @classmethod
    def of(cls, arrays: list[Ids]) -> "Pieces":
        """Return arrays of ids as one."""
        lengths = np.array([len(ids) for ids in arrays], np.int64)
        ids = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        return cls(ids.astype(np.int32, copy=False), lengths)


class FirstFit:
    """The first row with room, for one example after another.

    Rows only fill up, so the first row with room for a size never moves back. It is looked for from
    where it was last, for sizes in steps of `_STEP`, and a batch takes time linear in its examples.
    """

    def __init__(self, rows: int, inputs_length: int, targets_length: int):
        self._rows = rows
        self._inputs, self._targets = [inputs_length] * rows, [targets_length] * rows
        # The same, to look at many rows together.
        self._room = np.tile(np.array([[inputs_length], [targets_length]], np.int32), rows)
        self._first_inputs = [0] * (inputs_length // _STEP + 1)
        self._first_targets = [0] * (targets_length // _STEP + 1)

    def place(self, inputs: Sequence[int], targets: Sequence[int]) -> list[int]:
        """Return the rows of examples in their order, up to the first that has no room anywhere.

        Args:
            inputs: lengths of the inputs, prompts included; none longer than a row.
            targets: lengths of the targets, none longer than a row.
        """
        placed: list[int] = []
        # A loop over thousands of examples a batch: what it uses is local.
        inputs_left, targets_left, room, rows = self._inputs, self._targets, self._room, self._rows
        first_by_inputs, first_by_targets = self._first_inputs, self._first_targets
        for size, targets_size in zip(inputs, targets, strict=True):
            step = size // _STEP
            row = first_by_inputs[step]
            while row < rows and inputs_left[row] < step * _STEP:
                row += 1
            first_by_inputs[step] = row
            step = targets_size // _STEP
            other = first_by_targets[step]
            while other < rows and targets_left[other] < step * _STEP:
                other += 1
            first_by_targets[step] = other
            row = max(row, other)
            near = min(row + _NEAR, rows)
            while row < near and (inputs_left[row] < size or targets_left[row] < targets_size):
                row += 1
            if row == near:
                row = self._search(row, size, targets_size)
                if row == rows:
                    return placed
            inputs_left[row] = room[0, row] = inputs_left[row] - size
            targets_left[row] = room[1, row] = targets_left[row] - targets_size
            placed.append(row)
        return placed

    def _search(self, row: int, inputs: int, targets: int) -> int:
        """Return the first row from `row` on that has room, found many rows at a time."""
        for start in range(row, self._rows, _WINDOW):
            room = self._room[:, start : start + _WINDOW]
            has_room = (room[0] >= inputs) & (room[1] >= targets)
            first = int(has_room.argmax())
            if has_room[first]:
                return start + first
        return self._rows


def materialise(
    inputs: Pieces,
    targets: Pieces,
    rows: Int[np.ndarray, " k"],
    shape: tuple[int, int, int],
    *,
    packed: bool,
) -> Batch:
    """Return the arrays of planned rows, with T5X's feature names.

    They are int32 but for the loss weights, float32. Segments count from 1 and positions from 0 in
    each; decoder inputs are the targets moved right by one within their segment, 0 at its start.

    Args:
        inputs: ids of the segments' inputs, prompts included, row by row.
        targets: ids of their targets.
        rows: row of each segment, rising.
        shape: number of rows, length of the encoder's and of the decoder's.
        packed: whether segment ids and positions are among the features.
    """
    count, *lengths = shape
    starts = np.cumsum(targets.lengths) - targets.lengths
    moved = np.zeros_like(targets.ids)
    moved[1:] = targets.ids[:-1]
    moved[starts[targets.lengths > 0]] = 0
    encoder, decoder = (
        _filled(each, rows, count, length)
        for each, length in zip((inputs, targets), lengths, strict=True)
    )
    batch: dict[str, Any] = {
        "encoder_input_tokens": _put(encoder, inputs.ids),
        "decoder_input_tokens": _put(decoder, moved),
        "decoder_target_tokens": _put(decoder, targets.ids),
        "decoder_loss_weights": decoder.astype(np.float32),
    }
    if packed:
        firsts = np.searchsorted(rows, rows)
        segments = (np.arange(len(rows)) - firsts + 1).astype(np.int32)
        for side, filled, each in (("encoder", encoder, inputs), ("decoder", decoder, targets)):
            batch[f"{side}_segment_ids"] = _put(filled, np.repeat(segments, each.lengths))
            batch[f"{side}_positions"] = _put(filled, positions(each.lengths))
    return batch


def positions(lengths: Int64[np.ndarray, " k"]) -> Int32[np.ndarray, " all"]:
    """Return 0, 1, 2 and so on, anew for each of several lengths."""
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    return np.arange(int(lengths.sum()), dtype=np.int32) - np.repeat(starts, lengths)


def _filled(
    pieces: Pieces, rows: Int[np.ndarray, " k"], count: int, length: int
) -> Bool[np.ndarray, "rows length"]:
    """Return which places of the rows are taken: in each so many from the left."""
    used = np.bincount(rows, pieces.lengths, count).astype(np.int64)
    return np.arange(length) < used[:, None]


def _put(filled: Bool[np.ndarray, "rows length"], values: np.ndarray) -> np.ndarray:
    array = np.zeros(filled.shape, np.int32)
    array[filled] = values
    return array
