"""Examples drawn from a source for batches: their lengths before their tokens."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int64

from spot_jax.data.examples import Example, Examples, ExampleTable, Ids, cut
from spot_jax.data.packing import Pieces, positions
from spot_jax.data.sources import NumberedSource, Source, State

Pair = tuple[Ids, Ids]
Lengths = Int64[np.ndarray, " _k"]
# Examples drawn ahead, at most.
_AHEAD = 4096


class InputWriter(Protocol):
    """What puts a prompt's ids into the inputs, such as `VirtualTokens`."""

    @property
    def room(self) -> int:
        """How many positions the prompt takes in a text of any length."""
        ...

    @property
    def prefix(self) -> Ids | None:
        """Ids that stand before every text; None where each text has places of its own."""
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


class Drawn(Protocol):
    """Examples that a batch holds, in the order of drawing.

    Attributes:
        inputs, targets: lengths of their text, not cut.
    """

    inputs: Lengths
    targets: Lengths

    def pairs(self, which: Int64[np.ndarray, " k"]) -> list[Pair]:
        """Return some of the examples, not cut."""
        ...

    def pieces(
        self, which: Int64[np.ndarray, " k"], lengths: tuple[int, int], write: InputWriter | None
    ) -> tuple[Pieces, Pieces]:
        """Return the inputs, prompts written in, and the targets of some, cut to two lengths."""
        ...


class Draws(Protocol):
    """Examples of a source, of which those not yet taken can be looked at."""

    def lengths(self, first: int, count: int) -> tuple[Lengths, Lengths]:
        """Return the text's lengths of some examples from the `first` not taken on, at least one.

        Args:
            first: number of examples to leave out.
            count: number of examples that the caller can use.
        """
        ...

    def take(self, count: int) -> Drawn:
        """Return the next examples."""
        ...

    def state(self) -> State:
        """Return the source's place before the first example not taken."""
        ...

    def restore(self, state: State) -> None:
        """Go to a place."""
        ...


def draws_of(source: Source, write: InputWriter | None) -> Draws:
    """Return a source's examples, drawn many at a time where they lie in tables."""
    if isinstance(source, NumberedSource) and source.tables:
        return NumberedDraws(source, write)
    return SingleDraws(source, write)


class SinglePairs:
    """`Drawn` examples in memory."""

    def __init__(self, pairs: Sequence[Pair], write: InputWriter | None):
        self._pairs = pairs
        self.inputs = np.array([_text_length(pair, write) for pair in pairs], np.int64)
        self.targets = np.array([len(pair[1]) for pair in pairs], np.int64)

    def pairs(self, which: Int64[np.ndarray, " k"]) -> list[Pair]:
        """Return some of the examples, not cut."""
        return [self._pairs[i] for i in which.tolist()]

    def pieces(
        self, which: Int64[np.ndarray, " k"], lengths: tuple[int, int], write: InputWriter | None
    ) -> tuple[Pieces, Pieces]:
        """Return the inputs, prompts written in, and the targets of some, cut to two lengths."""
        return pieces_of(self.pairs(which), lengths, write)


class SingleDraws:
    """Examples drawn one by one."""

    def __init__(self, source: Source, write: InputWriter | None):
        self._source, self._write = source, write
        self._waiting: list[Pair] = []
        # Place of the source before the last example drawn.
        self._before: State = {}

    def lengths(self, first: int, count: int) -> tuple[Lengths, Lengths]:
        """Return the text's lengths of the example after `first` others."""
        while len(self._waiting) <= first:
            self._before = self._source.state()
            self._waiting.append(self._source.next())
        waiting = SinglePairs(self._waiting[first:], self._write)
        return waiting.inputs, waiting.targets

    def take(self, count: int) -> SinglePairs:
        """Return the next examples."""
        if count:
            self.lengths(count - 1, 1)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return SinglePairs(taken, self._write)

    def state(self) -> State:
        """Return the source's place before the first example not taken, the last one drawn."""
        assert len(self._waiting) <= 1
        return self._before if self._waiting else self._source.state()

    def restore(self, state: State) -> None:
        """Go to a place."""
        self._waiting = []
        self._source.restore(state)


class Numbered:
    """`Drawn` examples that lie in tables."""

    def __init__(
        self,
        tables: Sequence[ExampleTable],
        drawn: Int64[np.ndarray, "4 k"],
    ):
        self._tables = tables
        self._table, self._number, self.inputs, self.targets = drawn

    def pairs(self, which: Int64[np.ndarray, " k"]) -> list[Pair]:
        """Return some of the examples, not cut."""
        where = zip(self._table[which].tolist(), self._number[which].tolist(), strict=True)
        return [self._tables[table][number] for table, number in where]

    def pieces(
        self, which: Int64[np.ndarray, " k"], lengths: tuple[int, int], write: InputWriter | None
    ) -> tuple[Pieces, Pieces]:
        """Return the inputs, prompts written in, and the targets of some, cut to two lengths."""
        if write is not None and write.prefix is None:
            return pieces_of(self.pairs(which), lengths, write)
        inputs = self._gather("inputs", which, lengths[0])
        targets = self._gather("targets", which, lengths[1])
        if write is None:
            return inputs, targets
        write.check(inputs.ids)
        write.check(targets.ids)
        prefix = write.prefix
        assert prefix is not None
        written = inputs.lengths + len(prefix)
        is_text = positions(written) >= len(prefix)
        ids = np.empty(len(is_text), np.int32)
        ids[is_text] = inputs.ids
        ids[~is_text] = np.tile(prefix, len(written))
        return Pieces(ids, written), targets

    def _gather(self, side: str, which: Int64[np.ndarray, " k"], length: int) -> Pieces:
        tables, numbers = self._table[which], self._number[which]
        if len(self._tables) == 1:
            return Pieces(*self._tables[0].gather(side, numbers, length))
        lengths = np.zeros(len(which), np.int64)
        parts, places = [np.zeros(0, np.int32)], []
        for i, table in enumerate(self._tables):
            at = np.flatnonzero(tables == i)
            if len(at):
                ids, lengths[at] = table.gather(side, numbers[at], length)
                parts.append(ids)
                places.append(at)
        ids = np.concatenate(parts)
        if places:
            # Table by table as they are; from there to the places of the examples.
            order = np.concatenate(places)
            starts = np.zeros(len(which), np.int64)
            starts[order] = np.cumsum(lengths[order]) - lengths[order]
            ids = ids[np.repeat(starts, lengths) + positions(lengths)]
        return Pieces(ids, lengths)


class NumberedDraws:
    """Examples of tables, drawn many at a time by number."""

    def __init__(self, source: NumberedSource, write: InputWriter | None):
        self._source, self._tables = source, source.tables
        each = [_lengths(table, write) for table in self._tables]
        self._firsts = np.cumsum([0, *(len(table) for table in self._tables)])
        # Those of one table are not copied: many prompts may share it.
        self._lengths = [
            each[0][side] if len(each) == 1 else np.concatenate([pair[side] for pair in each])
            for side in (0, 1)
        ]
        self._waiting = np.zeros((4, 0), np.int64)
        # Place of the source before a draw, and how many of it and what follows are taken.
        self._before: State = source.state()
        self._taken = 0

    def _draw(self, count: int) -> None:
        if not self._waiting.shape[1]:
            self._before, self._taken = self._source.state(), 0
        tables, numbers = self._source.take(count)
        places = self._firsts[tables] + numbers
        drawn = np.stack([tables, numbers, *(each[places] for each in self._lengths)])
        self._waiting = np.concatenate([self._waiting, drawn], axis=1)

    def lengths(self, first: int, count: int) -> tuple[Lengths, Lengths]:
        """Return the text's lengths of up to `count` examples after `first` others."""
        if self._waiting.shape[1] <= first:
            self._draw(first - self._waiting.shape[1] + min(count, _AHEAD))
        return self._waiting[2, first:], self._waiting[3, first:]

    def take(self, count: int) -> Numbered:
        """Return the next examples."""
        if self._waiting.shape[1] < count:
            self._draw(count - self._waiting.shape[1])
        taken, self._waiting = self._waiting[:, :count], self._waiting[:, count:].copy()
        self._taken += count
        return Numbered(self._tables, taken)

    def state(self) -> State:
        """Return the source's place before the first example not taken."""
        waiting = self._waiting.shape[1]
        if not waiting:
            return self._source.state()
        self._source.restore(self._before)
        self._source.take(self._taken)
        place = self._source.state()
        self._source.take(waiting)
        self._before, self._taken = place, 0
        return place

    def restore(self, state: State) -> None:
        """Go to a place."""
        self._waiting = self._waiting[:, :0]
        self._source.restore(state)


def pieces_of(
    pairs: Sequence[Pair], lengths: tuple[int, int], write: InputWriter | None
) -> tuple[Pieces, Pieces]:
    """Return pairs cut to two lengths, prompts written into their inputs."""
    inputs, targets = [], []
    for pair in pairs:
        keeps_eos = getattr(pair, "keeps_eos", False)
        targets.append(cut(pair[1], lengths[1], keeps_eos))
        if write is None:
            inputs.append(cut(pair[0], lengths[0], keeps_eos))
        else:
            write.check(targets[-1])
            inputs.append(write.write(pair[0], lengths[0], keeps_eos))
    return Pieces.of(inputs), Pieces.of(targets)


def text_lengths(examples: Examples, write: InputWriter | None) -> Lengths:
    """Return how many ids of text each example's inputs have."""
    return _lengths(examples, write)[0]


def _lengths(examples: ExampleTable, write: InputWriter | None) -> tuple[Lengths, Lengths]:
    inputs, targets = examples.lengths
    if write is not None and write.prefix is None:
        inputs = np.array(
            [
                write.text_length(inputs)
                for inputs, _ in (examples[i] for i in range(len(examples)))
            ],
            np.int64,
        )
    return inputs, targets


def _text_length(pair: Pair | Example, write: InputWriter | None) -> int:
    return write.text_length(pair[0]) if write else len(pair[0])
