"""Examples of a split that several hosts read, tokenise and hold together.

Each host reads and tokenises one share, and writes it to a directory that all see. Then each knows
the lengths of all examples, by which batches are planned, and reads the tokens of its own rows
from the shares when it needs them. Numbers of examples are those of one process that reads the
split alone, so batches are too. What is written stays for the next start, of however many hosts.

share-I.inputs, share-I.targets   ids of share I, one example after another
share-I.lengths.npy               lengths [2, k] of its inputs and targets
share-I.json                      what is known of it, written when the rest is there
examples.json                     what all is of, and in which order, written when all shares are
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
from etils import epath
from jaxtyping import Int, Int64

from spot_jax.data.examples import Example, Examples, Ids
from spot_jax.errors import SpotError
from spot_jax.files import is_local, read_object, remove_tree, write_object, write_whole
from spot_jax.t5.vocabulary import EOS

REMEDY = "remove that directory, and the same command reads the data anew"
_SIDES = ("inputs", "targets")
_BLOCK = 4096


@dataclass(frozen=True)
class Hosts:
    """The processes that read together.

    Attributes:
        index: number of this one.
        count: number of all.
        directory: directory that all see.
        wait: function that returns when all have called it, with the same words.
    """

    index: int
    count: int
    directory: epath.Path
    wait: Callable[[str], None]


@dataclass(frozen=True)
class Share:
    """What a host has to write.

    Attributes:
        examples: examples of the host, in order.
        counts: number of them by the number of their file, filled while they are read; empty where
            every so many-th example of the whole is the host's.
    """

    examples: Iterable[Example]
    counts: dict[str, int]


def write_share(hosts: Hosts, directory: epath.Path, share: Share, most: int) -> None:
    """Write this host's share of a split, and wait until all have written theirs.

    Args:
        hosts: processes that read together.
        directory: directory of the split.
        share: share of this host.
        most: number of examples after which reading ends, as the split is too large to be held.
    """
    parts: dict[str, list[np.ndarray]] = {side: [] for side in _SIDES}
    lengths: list[np.ndarray] = []
    block: list[Example] = []
    highest, count, keeps_eos = 0, 0, False

    def flush() -> None:
        nonlocal highest
        lengths.append(np.array([[len(pair[i]) for pair in block] for i in (0, 1)], np.int32))
        for i, side in enumerate(_SIDES):
            ids = np.concatenate([pair[i] for pair in block])
            highest = max(highest, int(ids.max(initial=0)))
            parts[side].append(ids.astype(np.uint16 if highest < 2**16 else np.int32))
        block.clear()

    for example in share.examples:
        block.append(example)
        count, keeps_eos = count + 1, keeps_eos or example.keeps_eos
        if len(block) == _BLOCK:
            flush()
        if count > most:
            break
    if block:
        flush()
    name = f"share-{hosts.index}"
    dtype = np.dtype(np.uint16 if highest < 2**16 else np.int32)

    def write(side: str) -> Callable[[Any], None]:
        def to(file: Any) -> None:
            for part in parts[side]:
                file.write(part.astype(dtype).tobytes())

        return to

    for side in _SIDES:
        write_whole(directory / f"{name}.{side}", write(side))
        parts[side].clear()
    joined = np.concatenate([np.zeros((2, 0), np.int32), *lengths], axis=1)
    write_whole(directory / f"{name}.lengths.npy", lambda file: np.save(file, joined))
    facts = {"count": count, "highest": highest, "dtype": dtype.name, "keeps_eos": keeps_eos}
    write_object(directory / f"{name}.json", {**facts, "files": share.counts})
    hosts.wait(f"the shares of {directory.name} are written")


def read_facts(directory: epath.Path, count: int) -> list[dict[str, Any]]:
    """Return what is known of each of so many shares."""
    facts = [read_object(directory / f"share-{i}.json", REMEDY) for i in range(count)]
    return [_present(each, directory) for each in facts]


def _present(fields: dict[str, Any] | None, directory: epath.Path) -> dict[str, Any]:
    if fields is None:
        raise SpotError(f"{directory}: a share of its examples is gone; {REMEDY}")
    return fields


def dealt(counts: Sequence[int]) -> Int64[np.ndarray, " n"]:
    """Return the place among all shares, one after another, of each example dealt out in turn."""
    total, hosts = sum(counts), len(counts)
    firsts = np.cumsum([0, *counts[:-1]])
    numbers = np.arange(total)
    return firsts[numbers % hosts] + numbers // hosts


def by_files(
    facts: Sequence[Mapping[str, Any]], file: Int[np.ndarray, " n"], number: Int[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Return the place among all shares of each example, by its file and its number in that."""
    counts = [(int(name), count) for each in facts for name, count in each["files"].items()]
    firsts = np.zeros(len(counts), np.int64)
    ends = np.cumsum([count for _, count in counts])
    for (name, count), end in zip(counts, ends.tolist(), strict=True):
        firsts[name] = end - count
    return firsts[file] + number


class SharedExamples:
    """The examples of a split in shares, as `Examples` whose tokens are read when asked for.

    Attributes:
        task: name of the task.
        choices: None; examples with answers of their own are not shared.
    """

    choices = None

    def __init__(
        self,
        directory: epath.Path,
        facts: Sequence[dict[str, Any]],
        order: Int64[np.ndarray, " n"],
        task: str,
    ):
        self.task, self._directory, self._facts = task, directory, facts
        self._share = np.repeat(np.arange(len(facts)), [each["count"] for each in facts])
        self._share = self._share.astype(np.int16)[order]
        each = []
        for i in range(len(facts)):
            with (directory / f"share-{i}.lengths.npy").open("rb") as file:
                each.append(np.load(file, allow_pickle=False))
        starts = [np.cumsum(lengths, axis=1, dtype=np.int64) - lengths for lengths in each]
        lengths = np.concatenate(each, axis=1)[:, order]
        self.lengths = lengths[0], lengths[1]
        self._starts = np.concatenate(starts, axis=1)[:, order]
        self._open: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        return len(self._share)

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        numbers = np.array([i])
        inputs, targets = (
            self._read(side, numbers, self._lengths(side)[numbers]) for side in _SIDES
        )
        return Example(inputs, targets, bool(self._facts[self._share[i]]["keeps_eos"]))

    def _lengths(self, side: str) -> Int[np.ndarray, " n"]:
        return self.lengths[_SIDES.index(side)]

    def gather(
        self, side: str, numbers: Int64[np.ndarray, " k"], length: int
    ) -> tuple[Ids, Int64[np.ndarray, " k"]]:
        """Return the ids of some examples' inputs or targets, as `Examples.gather` does."""
        whole = self._lengths(side)[numbers].astype(np.int64)
        lengths = np.minimum(whole, length)
        ids = self._read(side, numbers, lengths)
        over = np.flatnonzero(whole > length)
        if len(over) and any(each["keeps_eos"] for each in self._facts):
            ends = np.cumsum(lengths)
            last = self._read(side, numbers[over], np.ones(len(over), np.int64), whole[over] - 1)
            ids[ends[over[last == EOS]] - 1] = EOS
        return ids, lengths

    def _read(
        self,
        side: str,
        numbers: Int64[np.ndarray, " k"],
        lengths: Int[np.ndarray, " k"],
        skip: Int64[np.ndarray, " k"] | int = 0,
    ) -> Ids:
        """Return so many ids of each example from the `skip`-th on."""
        shares = self._share[numbers].tolist()
        starts = (self._starts[_SIDES.index(side)][numbers] + skip).tolist()
        spans = list(zip(shares, starts, lengths.tolist(), strict=True))
        sizes = [np.dtype(each["dtype"]).itemsize for each in self._facts]
        if is_local(self._directory):
            raw = [
                os.pread(self._descriptor(i, side), count * sizes[i], start * sizes[i])
                for i, start, count in spans
            ]
        else:
            # All at once: a bucket answers each in tens of milliseconds.
            paths = [f"{self._directory}/share-{i}.{side}" for i in shares]
            system, _ = fsspec.core.url_to_fs(str(self._directory))
            firsts = [start * sizes[i] for i, start, _ in spans]
            ends = [(start + count) * sizes[i] for i, start, count in spans]
            raw = system.cat_ranges(paths, firsts, ends, on_error="raise")
        ids = [
            np.frombuffer(data, self._facts[i]["dtype"]).astype(np.int32)
            for data, i in zip(raw, shares, strict=True)
        ]
        if [len(each) for each in ids] != lengths.tolist():
            raise SpotError(f"{self._directory}: a share of its examples is cut short; {REMEDY}")
        return np.concatenate(ids) if ids else np.zeros(0, np.int32)

    def _descriptor(self, i: int, side: str) -> int:
        if (i, side) not in self._open:
            self._open[i, side] = os.open(self._directory / f"share-{i}.{side}", os.O_RDONLY)
        return self._open[i, side]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def check_ids(self, vocab_size: int, name: str) -> None:
        """Raise `SpotError` for ids that a backbone's embedding of `vocab_size` rows lacks."""
        highest = np.array([max(each["highest"] for each in self._facts)], np.int32)
        Examples(highest, np.array([0, 1]), highest, np.array([0, 1])).check_ids(vocab_size, name)


def shared_examples(
    hosts: Hosts,
    directory: epath.Path,
    shares: Sequence[tuple[Callable[[], Share], Callable[[list[dict[str, Any]]], Any]]],
    task: str,
    most: int,
) -> SharedExamples | None:
    """Return a split's examples in shares, written now or by an earlier start.

    Args:
        hosts: processes that read together.
        directory: directory of the split, named after all that its examples depend on.
        shares: ways to divide the split, the best one first: a function that begins to read this
            host's share, and one from what is known of all shares to the order of the examples,
            or to None where this way cannot know it.
        task: name of the task, for errors.
        most: number of examples beyond which the split is not held.

    Returns:
        The examples; None if they are more than `most`.
    """
    hosts.wait(f"{directory.name} is looked for")
    whole = read_object(directory / "examples.json", REMEDY)
    if whole is not None:
        facts = read_facts(directory, whole["shares"])
        return SharedExamples(directory, facts, shares[whole["way"]][1](facts), task)
    hosts.wait(f"{directory.name} is not there")
    for way, (begin, order_of) in enumerate(shares):
        if hosts.index == 0:
            remove_tree(directory)
        hosts.wait(f"{directory.name} is empty, {way}")
        write_share(hosts, directory, begin(), most)
        facts = read_facts(directory, hosts.count)
        count = sum(each["count"] for each in facts)
        if not count:
            raise SpotError(
                f"expected examples of {task}, found none; check the task's data and filters"
            )
        if count > most:
            return None
        order = order_of(facts)
        hosts.wait(f"{directory.name} is read, {way}")
        if order is not None:
            if hosts.index == 0:
                fields = {"shares": hosts.count, "way": way}
                write_object(directory / "examples.json", fields)
            hosts.wait(f"{directory.name} is whole")
            return SharedExamples(directory, facts, order, task)
    raise AssertionError("no way to divide the split knows its order")
