"""Batches of fixed shape from a stream of examples: padded or packed, prompts written in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from spot_jax.data.choices import ChoiceWriter
from spot_jax.data.examples import Examples, Ids, cut
from spot_jax.data.sources import Source, State
from spot_jax.errors import SpotError

Batch = dict[str, np.ndarray]
Pair = tuple[Ids, Ids]
LARGEST = 1_000_000
# A width of its own is worth compiling for from this many batches on.
_BATCHES_A_PROGRAM = 4


class InputWriter(Protocol):
    """What puts a prompt's ids into the inputs, such as `VirtualTokens`."""

    @property
    def room(self) -> int:
        """How many positions the prompt takes in a text of any length."""
        ...

    def text_length(self, inputs: Ids) -> int:
        """Return how many of the ids are text."""
        ...

    def write(self, inputs: Ids, length: int, keeps_eos: bool = False) -> Ids:
        """Return the inputs, cut to `length` ids of text, with the prompt's ids.

        Text that is cut ends in eos where `keeps_eos` says so.
        """
        ...

    def check(self, ids: Ids) -> None:
        """Raise `SpotError` when an id is not of the backbone's vocabulary."""
        ...

    def check_examples(self, examples: Examples, length: int) -> None:
        """Raise `SpotError` when `write` would, for any of the examples."""
        ...


@dataclass(frozen=True)
class BatchShape:
    """How large a batch is. Lengths are those of the text, eos included; prompts are added by us.

    Attributes:
        batch_size: rows of the batch, over all hosts.
        inputs_length, targets_length: where an example's text is cut.
        pack: several examples in one row, kept apart by segment ids.
        packed_inputs_length, packed_targets_length: length of a whole packed row, prompts
            included; by default the room of one example.
    """

    batch_size: int
    inputs_length: int
    targets_length: int
    pack: bool = False
    packed_inputs_length: int | None = None
    packed_targets_length: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= LARGEST:
            raise SpotError(f"expected a batch of 1 to {LARGEST:,} rows, found {self.batch_size:,}")
        if min(self.inputs_length, self.targets_length) < 1:
            raise SpotError(
                f"expected lengths of at least 1, found inputs of {self.inputs_length} and targets "
                f"of {self.targets_length}; give larger ones"
            )
        if not self.pack and (self.packed_inputs_length or self.packed_targets_length):
            raise SpotError(
                "expected packed row lengths only when packing, found pack=False; "
                "set pack=True or leave the packed lengths out"
            )

    def row_lengths(self, room: int) -> tuple[int, int]:
        """Return the width T of the encoder's rows and U of the decoder's."""
        inputs, targets = self.inputs_length + room, self.targets_length
        if self.pack:
            inputs, targets = (
                self.packed_inputs_length or inputs,
                self.packed_targets_length or targets,
            )
        if inputs <= room:
            raise SpotError(
                f"expected packed rows longer than the prompt's {room} tokens, found {inputs}; "
                "raise packed_inputs_length"
            )
        return inputs, targets

    def text_lengths(self, room: int) -> tuple[int, int]:
        """Return where inputs and targets are cut: their own lengths, or the row where shorter."""
        inputs, targets = self.row_lengths(room)
        return min(self.inputs_length, inputs - room), min(self.targets_length, targets)


Row = list[Pair]
"""The segments of one row, in order."""


class Batches:
    """Endless batches of one source; the place among them is exact and small.

    Examples are taken strictly in order. Text over the length is cut and counted: at its end as
    seqio does, or as the writer says. A packed batch is filled by first fit over its rows and
    closes when the next example fits in none; that example opens the next batch.

    Every host makes the same plan; `host_rows` names the rows of the global batch that this host
    materialises. `choices` adds the answers that rows are chosen among, to batches that are not
    packed.

    Attributes:
        examples, truncated_inputs, truncated_targets: counts over all rows since the beginning.
    """

    def __init__(
        self,
        source: Source,
        shape: BatchShape,
        *,
        write: InputWriter | None = None,
        host_rows: slice | None = None,
        choices: ChoiceWriter | None = None,
    ):
        self.source, self.shape, self.write = source, shape, write
        self.choices = choices
        self.host_rows = host_rows or slice(None)
        self.room = write.room if write else 0
        self.row_lengths = shape.row_lengths(self.room)
        self._text_lengths = shape.text_lengths(self.room)
        self.examples = self.truncated_inputs = self.truncated_targets = 0
        self._pending: Pair | None = None
        self._pending_state: State = {}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        rows = self._packed_plan() if self.shape.pack else self._padded_plan()
        # Other hosts' examples are planned and counted, but neither cut nor written.
        here = [
            [_prepare(pair, self._text_lengths, self.write) for pair in row]
            for row in rows[self.host_rows]
        ]
        inputs_length, targets_length = self.row_lengths
        batch = materialise(here, inputs_length, targets_length, packed=self.shape.pack)
        if self.choices is not None:
            batch |= self.choices.features([pair for (pair,) in rows[self.host_rows]])
        return batch

    def _padded_plan(self) -> list[Row]:
        rows = [[self.source.next()] for _ in range(self.shape.batch_size)]
        for (pair,) in rows:
            self._count(pair)
        return rows

    def _packed_plan(self) -> list[Row]:
        rows: list[Row] = [[] for _ in range(self.shape.batch_size)]
        inputs_left, targets_left = (np.full(len(rows), n, np.int32) for n in self.row_lengths)
        while True:
            if self._pending is None:
                self._pending_state = self.source.state()
                self._pending = self.source.next()
            # Looked at first and counted after: an example belongs to the batch that holds it.
            inputs, targets = self._lengths(self._pending)
            has_room = (inputs_left >= inputs) & (targets_left >= targets)
            first = int(has_room.argmax())
            if not has_room[first]:
                return rows
            rows[first].append(self._pending)
            inputs_left[first] -= inputs
            targets_left[first] -= targets
            self._count(self._pending)
            self._pending = None

    def _lengths(self, pair: Pair) -> tuple[int, int]:
        inputs, targets = self._text_lengths
        return min(self._text_length(pair[0]), inputs) + self.room, min(len(pair[1]), targets)

    def _text_length(self, inputs: Ids) -> int:
        return self.write.text_length(inputs) if self.write else len(inputs)

    def _count(self, pair: Pair) -> None:
        inputs_length, targets_length = self._text_lengths
        self.examples += 1
        self.truncated_inputs += self._text_length(pair[0]) > inputs_length
        self.truncated_targets += len(pair[1]) > targets_length

    def state(self) -> State:
        """Return the place of the next batch's first example, and the counts so far."""
        place = self.source.state() if self._pending is None else self._pending_state
        return {
            "source": place,
            "examples": self.examples,
            "truncated_inputs": self.truncated_inputs,
            "truncated_targets": self.truncated_targets,
        }

    def restore(self, state: State) -> None:
        """Go to the place that `state` names; the next batch is the one that followed it."""
        self.source.restore(state["source"])
        self._pending = None
        self.examples = int(state["examples"])
        self.truncated_inputs = int(state["truncated_inputs"])
        self.truncated_targets = int(state["truncated_targets"])


def evaluation_batches(
    examples: Examples,
    shape: BatchShape,
    write: InputWriter | None = None,
    *,
    host_rows: slice | None = None,
    candidates: Int[np.ndarray, "n c u"] | None = None,
) -> Iterator[Batch]:
    """Yield padded batches of all examples, short ones first, each as wide as its texts ask for.

    Batches carry `row_valid` [B] bool, false in the rows that only fill the last one, and
    `row_number` [B] int32, the number of the row's example. Widths are few, as each is a program of
    its own (`_widths`). `shape.pack` plays no part: each example has a row of its own.

    Args:
        examples: tokens of text.
        shape: rows and lengths.
        write: writer of virtual tokens; None for none.
        host_rows: rows of this process; None for all.
        candidates: tokens of each example's answers to choose among, which the batches carry as
            `candidate_tokens` [B, c, u]; None for none.
    """
    room = write.room if write else 0
    lengths = shape.inputs_length, shape.targets_length
    texts = np.minimum(_text_lengths(examples, write), lengths[0])
    order = np.argsort(texts, kind="stable")
    widths = _widths(texts[order], shape)
    for width, start in zip(widths, range(0, len(examples), shape.batch_size), strict=True):
        numbers = np.resize(order[start : start + shape.batch_size], shape.batch_size)
        valid = np.arange(start, start + shape.batch_size) < len(examples)
        numbers, valid = numbers[host_rows or slice(None)], valid[host_rows or slice(None)]
        rows = [
            [_prepare(examples[number], lengths, write)] if is_valid else []
            for number, is_valid in zip(numbers.tolist(), valid, strict=True)
        ]
        batch = materialise(rows, width + room, lengths[1], packed=False)
        batch["row_valid"] = valid
        batch["row_number"] = numbers.astype(np.int32)
        if candidates is not None:
            batch["candidate_tokens"] = np.where(valid[:, None, None], candidates[numbers], 0)
        yield batch


def _text_lengths(examples: Examples, write: InputWriter | None) -> Int[np.ndarray, " n"]:
    """Return how many ids of text each example's inputs have."""
    if write is None:
        return np.diff(examples.inputs_offsets)
    return np.array([write.text_length(inputs) for inputs, _ in examples], np.int64)


def _widths(lengths: Int[np.ndarray, " n"], shape: BatchShape) -> list[int]:
    """Return the width of text of each batch, by the lengths of its examples in rising order.

    Widths are quarters of `shape.inputs_length`. One that fewer than `_BATCHES_A_PROGRAM` batches
    would have gives them to the next, as compiling would take longer than it spares.
    """
    ends = np.arange(0, len(lengths), shape.batch_size) + shape.batch_size - 1
    longest = lengths[np.minimum(ends, len(lengths) - 1)]
    quarters = [-(-shape.inputs_length * k // 4) for k in range(1, 5)]
    counts = np.bincount(np.searchsorted(quarters, longest), minlength=4)
    widths: list[int] = []
    waiting = 0
    for width, count in zip(quarters, counts.tolist(), strict=True):
        waiting += count
        if waiting >= _BATCHES_A_PROGRAM or len(widths) + waiting == len(longest):
            widths += [width] * waiting
            waiting = 0
    return widths


def truncated(
    examples: Examples, shape: BatchShape, write: InputWriter | None = None
) -> tuple[int, int]:
    """Return how many inputs and how many targets of `examples` are longer than the lengths."""
    inputs = _text_lengths(examples, write) > shape.inputs_length
    targets = np.diff(examples.targets_offsets) > shape.targets_length
    return int(inputs.sum()), int(targets.sum())


def _prepare(pair: Pair, lengths: tuple[int, int], write: InputWriter | None) -> Pair:
    """Return a pair cut to its two lengths, its prompt written in."""
    keeps_eos = getattr(pair, "keeps_eos", False)
    targets = cut(pair[1], lengths[1], keeps_eos)
    if write is None:
        return cut(pair[0], lengths[0], keeps_eos), targets
    write.check(targets)
    return write.write(pair[0], lengths[0], keeps_eos), targets


def materialise(rows: list[Row], inputs_length: int, targets_length: int, *, packed: bool) -> Batch:
    """Return the arrays of planned rows, with T5X's feature names.

    Shapes are [rows, inputs_length] for the encoder and [rows, targets_length] for the decoder,
    int32 but for the loss weights, float32. Segments count from 1 and positions from 0 in each;
    decoder inputs are the targets moved right by one within their segment, 0 at its start.
    """
    encoder, decoder = (len(rows), inputs_length), (len(rows), targets_length)
    batch: dict[str, Any] = {
        "encoder_input_tokens": np.zeros(encoder, np.int32),
        "decoder_input_tokens": np.zeros(decoder, np.int32),
        "decoder_target_tokens": np.zeros(decoder, np.int32),
        "decoder_loss_weights": np.zeros(decoder, np.float32),
    }
    if packed:
        for side, size in (("encoder", encoder), ("decoder", decoder)):
            batch[f"{side}_segment_ids"] = np.zeros(size, np.int32)
            batch[f"{side}_positions"] = np.zeros(size, np.int32)
    for number, row in enumerate(rows):
        first = first_target = 0
        for segment, (inputs, targets) in enumerate(row, start=1):
            inputs_at = slice(first, first := first + len(inputs))
            targets_at = slice(first_target, first_target := first_target + len(targets))
            batch["encoder_input_tokens"][number, inputs_at] = inputs
            batch["decoder_target_tokens"][number, targets_at] = targets
            shifted = slice(targets_at.start + 1, targets_at.stop)
            batch["decoder_input_tokens"][number, shifted] = targets[:-1]
            batch["decoder_loss_weights"][number, targets_at] = 1.0
            if packed:
                batch["encoder_segment_ids"][number, inputs_at] = segment
                batch["decoder_segment_ids"][number, targets_at] = segment
                batch["encoder_positions"][number, inputs_at] = np.arange(len(inputs))
                batch["decoder_positions"][number, targets_at] = np.arange(len(targets))
    return batch
