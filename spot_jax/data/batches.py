"""Batches of fixed shape from a stream of examples: padded or packed, prompts written in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from spot_jax.data.choices import ChoiceWriter
from spot_jax.data.draws import Drawn, InputWriter, draws_of, pieces_of, text_lengths
from spot_jax.data.examples import Examples
from spot_jax.data.packing import Batch, FirstFit, materialise
from spot_jax.data.sources import Source, State
from spot_jax.errors import SpotError

__all__ = ["Batch", "BatchShape", "Batches", "InputWriter", "evaluation_batches", "truncated"]

LARGEST = 1_000_000
# A width of its own is worth compiling for from this many batches on.
_BATCHES_A_PROGRAM = 4


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


class Batches:
    """Endless batches of one source; the place among them is exact and small.

    Examples are taken strictly in order. Text over the length is cut and counted: at its end as
    seqio does, or as the writer says. A packed batch is filled by first fit over its rows and
    closes when the next example fits in none; that example opens the next batch.

    Every host makes the same plan, for which it needs no more than the lengths of the examples;
    `host_rows` names the rows of the global batch whose tokens it reads. `choices` adds the answers
    that rows are chosen among, to batches that are not packed.

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
        self.host_rows = range(shape.batch_size)[host_rows or slice(None)]
        self.room = write.room if write else 0
        self.row_lengths = shape.row_lengths(self.room)
        self._text_lengths = shape.text_lengths(self.room)
        self._draws = draws_of(source, write)
        self.examples = self.truncated_inputs = self.truncated_targets = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        rows = self._packed_plan() if self.shape.pack else np.arange(self.shape.batch_size)
        drawn = self._draws.take(len(rows))
        self._count(drawn)
        # Other hosts' examples are planned and counted, but neither read nor written.
        here = np.flatnonzero((rows >= self.host_rows.start) & (rows < self.host_rows.stop))
        here = here[np.argsort(rows[here], kind="stable")]
        inputs, targets = drawn.pieces(here, self._text_lengths, self.write)
        batch = materialise(
            inputs,
            targets,
            rows[here] - self.host_rows.start,
            (len(self.host_rows), *self.row_lengths),
            packed=self.shape.pack,
        )
        if self.choices is not None:
            batch |= self.choices.features(drawn.pairs(here))
        return batch

    def _packed_plan(self) -> Int[np.ndarray, " k"]:
        """Return the row of each example that the batch has room for, in the order of drawing."""
        fit = FirstFit(self.shape.batch_size, *self.row_lengths)
        rows: list[int] = []
        inputs_length, targets_length = self._text_lengths
        while True:
            # Looked at first and taken after: an example belongs to the batch that holds it.
            lengths = self._draws.lengths(len(rows), 4 * self.shape.batch_size)
            inputs = (np.minimum(lengths[0], inputs_length) + self.room).tolist()
            targets = np.minimum(lengths[1], targets_length).tolist()
            placed = fit.place(inputs, targets)
            rows += placed
            if len(placed) < len(inputs):
                return np.array(rows, np.int64)

    def _count(self, drawn: Drawn) -> None:
        inputs_length, targets_length = self._text_lengths
        self.examples += len(drawn.inputs)
        self.truncated_inputs += int(np.count_nonzero(drawn.inputs > inputs_length))
        self.truncated_targets += int(np.count_nonzero(drawn.targets > targets_length))

    def state(self) -> State:
        """Return the place of the next batch's first example, and the counts so far."""
        return {
            "source": self._draws.state(),
            "examples": self.examples,
            "truncated_inputs": self.truncated_inputs,
            "truncated_targets": self.truncated_targets,
        }

    def restore(self, state: State) -> None:
        """Go to the place that `state` names; the next batch is the one that followed it."""
        self._draws.restore(state["source"])
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
    texts = np.minimum(text_lengths(examples, write), lengths[0])
    order = np.argsort(texts, kind="stable")
    widths = _widths(texts[order], shape)
    for width, start in zip(widths, range(0, len(examples), shape.batch_size), strict=True):
        numbers = np.resize(order[start : start + shape.batch_size], shape.batch_size)
        valid = np.arange(start, start + shape.batch_size) < len(examples)
        numbers, valid = numbers[host_rows or slice(None)], valid[host_rows or slice(None)]
        inputs, targets = pieces_of([examples[i] for i in numbers[valid].tolist()], lengths, write)
        size = (len(valid), width + room, lengths[1])
        batch = materialise(inputs, targets, np.flatnonzero(valid), size, packed=False)
        batch["row_valid"] = valid
        batch["row_number"] = numbers.astype(np.int32)
        if candidates is not None:
            batch["candidate_tokens"] = np.where(valid[:, None, None], candidates[numbers], 0)
        yield batch


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
    inputs = text_lengths(examples, write) > shape.inputs_length
    targets = np.diff(examples.targets_offsets) > shape.targets_length
    return int(inputs.sum()), int(targets.sum())
