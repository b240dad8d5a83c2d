"""Endless streams of examples whose place can be written down and found again exactly."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from spot_jax.data.examples import ExampleTable, Ids
from spot_jax.errors import SpotError, short

State = dict[str, Any]
Numbers = Int64[np.ndarray, " _count"]
JOIN = "+"
"""What stands between the names of tasks that are mixed."""
BLOCK = 4096


def unknown_name(name: str, names: Collection[str]) -> SpotError:
    """Return the complaint about a name that is no task's or mixture's, with the nearest ones."""
    near = difflib.get_close_matches(name, sorted(names), 4, cutoff=0.5)
    return SpotError(
        f"expected a registered task or mixture, found {short(name)} (nearest: "
        f"{', '.join(near) or f'none of the {len(names)}'}); correct the name (`spot tasks list` "
        "shows all) or import the module that registers it"
    )


def unknown_split(name: str, existing: Collection[str], split: str) -> SpotError:
    """Return the error for a split that a task lacks, such as "test[:10]"."""
    few = ", with --examples N (EVAL_EXAMPLES) for its first N" if "[" in split else ""
    return SpotError(
        f"expected a split of {name} ({', '.join(existing)}), found {split!r}; choose one of "
        f"them{few}"
    )


class Source(Protocol):
    """An endless stream of (inputs, targets) token ids.

    `state` is a small tree of JSON's types; `restore` of it makes the next draws those that
    followed when it was taken.
    """

    def next(self) -> tuple[Ids, Ids]:
        """Return the next example."""
        ...

    def state(self) -> State:
        """Return the place in the stream."""
        ...

    def restore(self, state: State) -> None:
        """Go to the place that `state` names."""
        ...


@runtime_checkable
class NumberedSource(Source, Protocol):
    """A source whose examples lie in tables: what is drawn is known before any of it is read."""

    @property
    def tables(self) -> Sequence[ExampleTable]:
        """Tables of the examples; none where they lie in no table."""
        ...

    def take(self, count: int) -> tuple[Numbers, Numbers]:
        """Return the table, [count], and the number in it, [count], of the next examples."""
        ...


def generator(*key: int) -> np.random.Generator:
    """Return numpy's counter-based generator for a key of whole numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class Epochs:
    """The numbers 0 to n - 1 in an order of their own in every epoch, from the seed alone."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epoch, self._index = 0, 0
        self._order = self._shuffle()

    def _shuffle(self) -> np.ndarray:
        return generator(self.seed, self._epoch).permutation(self.count)

    def next(self) -> int:
        """Return the next number; after the last one a new epoch begins."""
        if self._index == self.count:
            self._epoch, self._index = self._epoch + 1, 0
            self._order = self._shuffle()
        self._index += 1
        return int(self._order[self._index - 1])

    def take(self, count: int) -> Numbers:
        """Return the next `count` numbers."""
        parts = [np.zeros(0, np.int64)]
        while count:
            if self._index == self.count:
                self._epoch, self._index = self._epoch + 1, 0
                self._order = self._shuffle()
            parts.append(self._order[self._index : self._index + count])
            self._index += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)

    def state(self) -> State:
        """Return the epoch and the index in it."""
        return {"epoch": self._epoch, "index": self._index}

    def restore(self, state: State) -> None:
        """Go to an epoch and index."""
        if not 0 <= state["index"] <= self.count:
            raise SpotError(
                f"expected the data place to lie within {self.count} examples, found index "
                f"{state['index']}; the task's data has changed since the run began"
            )
        epoch, self._index = int(state["epoch"]), int(state["index"])
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._shuffle()


class Shuffled:
    """All examples in an order of their own in every epoch, from the seed and the epoch alone."""

    def __init__(self, examples: ExampleTable, seed: int):
        self.examples = examples
        self._numbers = Epochs(len(examples), seed)

    def next(self) -> tuple[Ids, Ids]:
        """Return the next example; after the last one a new epoch begins."""
        return self.examples[self._numbers.next()]

    @property
    def tables(self) -> Sequence[ExampleTable]:
        """The examples."""
        return (self.examples,)

    def take(self, count: int) -> tuple[Numbers, Numbers]:
        """Return the table, [count], and the number in it, [count], of the next examples."""
        return np.zeros(count, np.int64), self._numbers.take(count)

    def state(self) -> State:
        """Return the epoch and the index in it."""
        return self._numbers.state()

    def restore(self, state: State) -> None:
        """Go to an epoch and index."""
        self._numbers.restore(state)


class Mixture:
    """Several sources; which one comes at draw i follows from the seed and i alone.

    Rates need not sum to one. The order of names does not matter.
    """

    def __init__(self, sources: Mapping[str, Source], rates: Mapping[str, float], seed: int):
        if set(sources) != set(rates):
            odd = ", ".join(sorted(set(sources) ^ set(rates)))
            raise SpotError(
                f"expected one rate for each task of the mixture, found a mismatch "
                f"in {odd}; give both"
            )
        self._names = sorted(sources)
        self._sources, self.seed = dict(sources), seed
        weights = np.array([rates[name] for name in self._names], np.float64)
        if not len(weights) or np.any(weights < 0) or weights.sum() <= 0:
            raise SpotError(
                f"expected rates that are not negative and some above 0, found "
                f"{dict(rates)}; check the mixture"
            )
        self.rates = dict(zip(self._names, (weights / weights.sum()).tolist(), strict=True))
        self._cumulative = np.cumsum(weights / weights.sum())
        self._draw, self._block_number = 0, -1
        self._block = np.zeros(0, np.int64)

    def next(self) -> tuple[Ids, Ids]:
        """Return the next example of the source whose turn it is."""
        return self._sources[self._names[int(self._turns(1)[0])]].next()

    def _turns(self, count: int) -> Numbers:
        """Return the number of the source of each of the next draws."""
        parts = [np.zeros(0, np.int64)]
        while count:
            block, place = divmod(self._draw, BLOCK)
            if block != self._block_number:
                draws = generator(self.seed, block).random(BLOCK)
                chosen = np.searchsorted(self._cumulative, draws, side="right")
                self._block = np.minimum(chosen, len(self._names) - 1)
                self._block_number = block
            parts.append(self._block[place : place + count])
            self._draw += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)

    @property
    def tables(self) -> Sequence[ExampleTable]:
        """The tables of all sources; none if one of these has none."""
        each = [getattr(self._sources[name], "tables", ()) for name in self._names]
        return [table for tables in each for table in tables] if all(each) else []

    def take(self, count: int) -> tuple[Numbers, Numbers]:
        """Return the table, [count], and the number in it, [count], of the next examples."""
        turns = self._turns(count)
        tables, numbers = np.zeros((2, count), np.int64)
        first = 0
        for i, name in enumerate(self._names):
            source = self._sources[name]
            assert isinstance(source, NumberedSource)
            at = np.flatnonzero(turns == i)
            in_source, numbers[at] = source.take(len(at))
            tables[at] = first + in_source
            first += len(source.tables)
        return tables, numbers

    def state(self) -> State:
        """Return the number of draws and every source's own place."""
        places = {name: self._sources[name].state() for name in self._names}
        return {"draw": self._draw, "sources": places}

    def restore(self, state: State) -> None:
        """Go to a draw, every source to its place."""
        if set(state["sources"]) != set(self._names):
            raise SpotError(
                f"expected the data place of tasks {', '.join(self._names)}, found that of "
                f"{', '.join(sorted(state['sources']))}; the mixture has changed since then"
            )
        self._draw = int(state["draw"])
        for name in self._names:
            self._sources[name].restore(state["sources"][name])


class Stream:
    """An iterator made anew on `restore`, which skips what has been drawn: exact, but not quick.

    `make_iterator` must give the same examples each time. A stream that ends is an error: repeat
    it where it is made.
    """

    def __init__(self, make_iterator: Callable[[], Iterator[tuple[Ids, Ids]]], *, name: str = ""):
        self._make, self._name = make_iterator, name
        self._iterator: Iterator[tuple[Ids, Ids]] | None = None
        self._count = 0

    def next(self) -> tuple[Ids, Ids]:
        """Return the next example."""
        if self._iterator is None:
            self._iterator = self._make()
            self._skip(self._count)
        example = self._take()
        self._count += 1
        return example

    def _take(self) -> tuple[Ids, Ids]:
        assert self._iterator is not None
        try:
            return next(self._iterator)
        except StopIteration:
            raise SpotError(
                f"expected an endless stream{f' of {self._name}' if self._name else ''}, found its "
                f"end after {self._count} examples; check the split's data"
            ) from None

    def _skip(self, count: int) -> None:
        for _ in range(count):
            self._take()

    def state(self) -> State:
        """Return the number of examples drawn."""
        return {"count": self._count}

    def restore(self, state: State) -> None:
        """Go to the place after `count` examples: on the next draw, from the beginning."""
        self._count = int(state["count"])
        self._iterator = None


def mixing_rates(sizes: Mapping[str, int], maximum: float = 2**19) -> dict[str, float]:
    """Return example-proportional rates that sum to one: rate_i ∝ min(n_i, maximum).

    SPoT section 2.1.3 (after T5's artificial size limit K = 2^19).
    """
    capped = {name: float(min(size, maximum)) for name, size in sizes.items()}
    total = sum(capped.values())
    if total <= 0:
        raise SpotError(f"expected tasks with examples, found sizes {dict(sizes)}; check the tasks")
    return {name: size / total for name, size in capped.items()}
