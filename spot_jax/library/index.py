"""What a library knows of its prompts without opening them; derived, never needed for correctness.

    LIB/index/entries.jsonl                             a line an entry: all but the numbers
    LIB/index/<backbone>-<width>-<metric>.safetensors   `signatures` [n, d] float32, and their ids

The listing of LIB/prompts is the truth. An index that says something else is brought up to it:
prompts that are new are read, once; those that are gone are dropped; a file that is damaged is
made anew. Each file is written whole and moved into place, so that readers never see half of one;
of two processes that write at once one wins, and the next adds what it left out.
"""

import dataclasses
import functools
import os
import re
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from spot_jax.errors import SpotError, SpotWarning
from spot_jax.library import similarity
from spot_jax.library.entry import SUFFIX, Entry, Stored, entry_fields, entry_of
from spot_jax.library.index_files import (
    DamagedIndexError,
    OldIndexError,
    changed,
    list_prompts,
    read_lines,
    read_signatures,
    write_lines,
    write_signatures,
)
from spot_jax.library.same_sets import data_set

_READERS = 8
# A directory's time of change is trusted once it is this old: file systems round it.
_SETTLED_SECONDS = 2.0

_ENTRIES = "entries.jsonl"

Key = tuple[str, int]  # backbone and width


class LibraryWarning(SpotWarning):
    """A fault in a library that was worked around: a prompt left out, an index made again."""


def warn(message: str) -> None:
    """Warn of a library; the place in the code would tell the user nothing."""
    warnings.warn(message, LibraryWarning, stacklevel=3)


@dataclasses.dataclass(eq=False)
class Group:
    """The entries of a backbone and width that have a task embedding, by rows; ids ascend.

    Attributes:
        entries: entry of each row.
        signatures: signatures [rows, d], float32; NaN where an embedding has no direction.
    """

    entries: list[Entry]
    signatures: np.ndarray

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens by row."""
        return np.array([entry.length for entry in self.entries], np.int64)

    @functools.cached_property
    def embedding_steps(self) -> np.ndarray:
        """Embedding steps by row."""
        return np.array([entry.embedding_step for entry in self.entries], np.int64)

    @functools.cached_property
    def rows_by_task(self) -> dict[str, list[int]]:
        """The rows that have seen a task, by the name of its data set."""
        rows: dict[str, list[int]] = {}
        for row, entry in enumerate(self.entries):
            for name in seen_tasks(entry):
                rows.setdefault(name, []).append(row)
        return rows


@functools.lru_cache(maxsize=4096)
def whole_task(name: str) -> str:
    """Return a task's name without its number of shots and its sample: X of X_16shot and
    X_16shot_s2."""
    return re.sub(r"_\d+_?shots?(_s\d+)?$", "", name)


def seen_tasks(entry: Entry) -> set[str]:
    """Return the data sets whose text went into a prompt, or into one that it began from."""
    names = [entry.task, *entry.tasks]
    for ancestor in entry.ancestry:
        names += [str(ancestor.get("task", "")), *map(str, ancestor.get("tasks", ()))]
    return {data_set(name) for name in names if name}


class Index:
    """Entries and signatures of a library, from its index files where they are right.

    Attributes:
        entries: entries by id, ids ascending; as of the last `refresh`.
    """

    def __init__(self, root: epath.Path, read: Callable[[str], Stored]):
        """Start without entries; `refresh` reads them.

        Args:
            root: path of the library.
            read: function from an id to the stored prompt, checked whole; SpotError if it is
                damaged, FileNotFoundError if it has gone.
        """
        self.entries: dict[str, Entry] = {}
        self._prompts, self._directory, self._read = root / "prompts", root / "index", read
        self._loaded, self._write_failed = False, False
        self._seen_at: float | None = None
        # Of the whole library, so they stay from search to search.
        self._groups: dict[tuple[Key, str], Group] = {}
        self._counts: dict[Key, tuple[int, int]] | None = None
        # Signatures that were reckoned and are in no file yet.
        self._fresh: dict[str, dict[str, np.ndarray]] = {}

    def refresh(self) -> None:
        """Bring `entries` up to what is in the directory; warn of damaged prompts."""
        stamp = changed(self._prompts)
        if stamp is not None and stamp == self._seen_at:
            return
        if not self._loaded:
            self.entries, self._loaded = self._load_entries(), True
            self._counts = None
        listed = list_prompts(self._prompts)
        new = self._read_all(sorted(listed - self.entries.keys()))
        gone = [self.entries.pop(id) for id in self.entries.keys() - listed]
        if new or gone:
            self.entries = dict(sorted([*self.entries.items(), *((e.id, e) for e in new)]))
            self._groups.clear()
            self._counts = None
            lines = [entry_fields(entry) for entry in self.entries.values()]
            self._write(lambda: write_lines(self._directory / _ENTRIES, lines))
            for key in {_key(entry) for entry in [*new, *gone]}:
                self._update(key)
        settled = stamp is not None and time.time() - stamp > _SETTLED_SECONDS
        self._seen_at = stamp if settled else None

    def counts(self) -> dict[Key, tuple[int, int]]:
        """Count, for each backbone and width, ascending, the entries that have a task embedding and
        those that have none."""
        if self._counts is None:
            counts: dict[Key, list[int]] = {}
            for entry in self.entries.values():
                counts.setdefault(_key(entry), [0, 0])[not entry.embedding_step] += 1
            self._counts = {key: (n[0], n[1]) for key, n in sorted(counts.items())}
        return self._counts

    def group(self, key: Key, metric: similarity.Metric) -> Group:
        """Return the entries of one backbone and width that can be ranked, with a metric's
        signatures."""
        if (key, metric) not in self._groups:
            rows = self._rows(key)
            self._groups[key, metric] = Group(rows, self._signatures(key, metric, rows))
        return self._groups[key, metric]

    def _rows(self, key: Key) -> list[Entry]:
        return [e for e in self.entries.values() if _key(e) == key and e.embedding_step]

    def _update(self, key: Key) -> None:
        """Write the signatures of both metrics while what was read is at hand."""
        rows = self._rows(key)
        for metric in similarity.METRICS:
            if rows:
                self._signatures(key, metric, rows)
            else:
                path = self._path(key, metric)
                self._write(functools.partial(path.unlink, missing_ok=True))
        if not self._write_failed:  # what could not be written must stay at hand
            self._fresh.clear()

    def _signatures(self, key: Key, metric: str, rows: list[Entry]) -> np.ndarray:
        path, ids = self._path(key, metric), [entry.id for entry in rows]
        try:
            stored_ids, old = read_signatures(path, _about(key, metric))
        except (DamagedIndexError, OldIndexError) as error:
            if isinstance(error, DamagedIndexError):
                self._warn_of_damage(path, error)
            stored_ids, old = [], np.empty((0, key[1]), np.float32)
        if stored_ids == ids:
            return old
        place = {id: row for row, id in enumerate(stored_ids)}
        self._read_all([id for id in ids if id not in place and id not in self._fresh])
        nothing = {metric: np.full(key[1], np.nan, np.float32)}
        signatures = np.empty((len(ids), key[1]), np.float32)
        for row, id in enumerate(ids):
            stored_row = place.get(id)
            signatures[row] = (
                old[stored_row] if stored_row is not None else self._fresh.get(id, nothing)[metric]
            )
        if all(id in place or id in self._fresh for id in ids):
            self._write(lambda: write_signatures(path, _about(key, metric), ids, signatures))
        return signatures

    def _read_all(self, ids: list[str]) -> list[Entry]:
        """Read prompts, each once: entries of those that are whole; signatures go to `_fresh`."""

        def reduced(id: str) -> tuple[Entry, dict[str, np.ndarray]] | str | None:
            try:
                stored = self._read(id)
            except FileNotFoundError:
                return None
            except SpotError as error:
                return str(error)
            return stored.entry, _directions(stored)

        entries = []
        with ThreadPoolExecutor(_READERS) as pool:
            for item in pool.map(reduced, ids):
                if isinstance(item, str):
                    warn(f"left out: {item}")
                elif item is not None:
                    entries.append(item[0])
                    self._fresh[item[0].id] = item[1]
        return entries

    def _load_entries(self) -> dict[str, Entry]:
        path = self._directory / _ENTRIES
        try:
            rows = read_lines(path)
            start = os.fspath(self._prompts / "_")[:-1]  # joining 100,000 paths takes a second
            entries = (entry_of(row, f"{start}{row['id']}{SUFFIX}") for row in rows)
            return {entry.id: entry for entry in entries}
        except (DamagedIndexError, SpotError, KeyError) as error:
            self._warn_of_damage(path, error)
            return {}

    def _path(self, key: Key, metric: str) -> epath.Path:
        return self._directory / f"{key[0][:12] or 'unknown'}-{key[1]}-{metric}{SUFFIX}"

    def _warn_of_damage(self, path: epath.Path, error: Exception) -> None:
        warn(f"the index file {path} is damaged ({error}); it is made again from the prompts")

    def _write(self, write: Callable[[], None]) -> None:
        # Whatever stops it, a library that may only be read is still one to search.
        try:
            write()
        except Exception as error:
            if not self._write_failed:
                self._write_failed = True
                warn(
                    f"the index {self._directory} cannot be written ({error}); each search will "
                    "read the prompts that it lacks"
                )


def _key(entry: Entry) -> Key:
    return entry.backbone, entry.width


def _about(key: Key, metric: str) -> dict[str, Any]:
    return {"backbone": key[0], "width": key[1], "metric": metric}


def _directions(stored: Stored) -> dict[str, np.ndarray]:
    if stored.embedding is None:
        return {}
    directions: dict[str, np.ndarray] = {}
    for metric in similarity.METRICS:
        try:
            vector = similarity.signature(stored.embedding.rows, metric)
        except SpotError:  # zero: nothing is like it; `Library.add` refuses such
            vector = np.full(stored.entry.width, np.nan)
        directions[metric] = vector.astype(np.float32)
    return directions
