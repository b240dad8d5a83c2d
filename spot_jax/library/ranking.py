"""Retrieval: which stored prompts are most like a task (Vu et al. 2022, section 3.3)."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from spot_jax.errors import SpotError
from spot_jax.library import similarity
from spot_jax.library.entry import Entry
from spot_jax.library.index import Group, Index, Key, warn
from spot_jax.library.same_sets import data_set


@dataclasses.dataclass(frozen=True)
class Match:
    """A stored prompt, and the similarity of its task embedding to the question's."""

    entry: Entry
    similarity: float


class Ranking(list[Match]):
    """Matches, best first; of equals that with the smaller id.

    Attributes:
        notes: lines for the user on what was left out, and why.
    """

    def __init__(self, matches: list[Match], notes: list[str]):
        super().__init__(matches)
        self.notes = notes


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What to rank by; `Library.rank` explains the fields."""

    embedding: Float[np.ndarray, "p d"]
    backbone: str
    metric: similarity.Metric
    top_k: int | None
    exclude: Collection[str]
    force: bool


def rank(
    index: Index, where: str, question: Question, is_whole: Callable[[Entry], bool]
) -> Ranking:
    """Rank as `Library.rank` does, over an index that is up to date.

    Args:
        index: index of the library.
        where: path of the library, for messages.
        question: question to answer.
        is_whole: whether an entry's file is still of its size; asked of what is returned only.
    """
    vector = similarity.signature(
        question.embedding, question.metric, name="the target's embedding"
    )
    if question.top_k is not None and question.top_k < 1:
        raise SpotError(f"expected a top_k of 1 or more, found {question.top_k}")
    keys = _keys(index, where, question, len(vector))
    group = _joined([index.group(key, question.metric) for key in keys])
    scores = group.signatures @ vector.astype(np.float32)
    notes = [*_outside(index, keys), *_leave_out(group, scores, question)]
    matches: list[Match] = []
    for row in _best_first(group, scores, question.top_k):
        entry = group.entries[row]
        if is_whole(entry):
            matches.append(Match(entry, float(np.clip(scores[row], -1, 1))))
        else:
            warn(f"left out: {entry.path}: damaged or gone; see `spot prompts verify`")
        if len(matches) == question.top_k:
            break
    if not matches:
        raise SpotError(
            f"nothing in {where} is left to rank ({'; '.join(notes)}); add prompts of other "
            "tasks on this backbone, with task embeddings"
        )
    return Ranking(matches, [*notes, *_remarks(matches, question.top_k)])


def _keys(index: Index, where: str, question: Question, width: int) -> list[Key]:
    if not index.entries:
        raise SpotError(
            f"the library {where} is empty; fill it: spot prompts add RUN_DIR --library {where}"
        )
    keys = [key for key, (ranked, _) in index.counts().items() if ranked]
    if not keys:
        raise SpotError(
            f"none of the {len(index.entries)} prompts in {where} has a task embedding; tune with "
            "an embedding step (CheckpointPlan.embedding_step) and add the run again"
        )
    alike = [key for key in keys if key[1] == width]
    chosen = alike if question.force else [key for key in alike if key[0] == question.backbone]
    if not chosen:
        tuned_on = ", ".join(f"{_short(backbone)} of width {d}" for backbone, d in keys)
        remedy = ", or rank them all the same with --force" if alike else ""
        raise SpotError(
            f"no prompt in {where} was tuned on the backbone {_short(question.backbone)} of width "
            f"{width}, but on {tuned_on}; search with that backbone{remedy}"
        )
    return chosen


def _joined(groups: list[Group]) -> Group:
    if len(groups) == 1:
        return groups[0]
    entries = list(itertools.chain.from_iterable(group.entries for group in groups))
    return Group(entries, np.concatenate([group.signatures for group in groups]))


def _outside(index: Index, keys: list[Key]) -> list[str]:
    """Return what stands in the library and in none of the groups that are ranked."""
    without, others = 0, Counter[str]()
    for key, (ranked, unranked) in index.counts().items():
        if key in keys:
            without += unranked
        else:
            others[_short(key[0])] += ranked + unranked
    notes = [f"left out: {without} without a task embedding"] if without else []
    if others:
        notes.append(f"left out: {others.total()} of other backbones ({_counts(others)})")
    return notes


def _leave_out(group: Group, scores: np.ndarray, question: Question) -> list[str]:
    """Set the scores of what must not be ranked to NaN; return lines on what that was."""
    notes = []

    def drop(rows: np.ndarray) -> np.ndarray:
        dropped = rows[~np.isnan(scores[rows])]
        scores[dropped] = np.nan
        return dropped

    zero = int(np.isnan(scores).sum())
    if zero:
        notes.append(f"left out: {zero} whose task embedding is zero or could not be read")
    names = {data_set(name) for name in question.exclude}
    seen = drop(np.array([r for n in names for r in group.rows_by_task.get(n, ())], np.int64))
    if len(seen):
        notes.append(
            f"left out: {len(seen)} that have seen {', '.join(sorted(names))} (leakage: of "
            "transfer they would prove nothing)"
        )
    if not question.force:
        length = len(question.embedding)
        odd = drop(np.flatnonzero(group.lengths != length))
        if len(odd):
            lengths = Counter(map(str, group.lengths[odd]))
            notes.append(
                f"left out: {len(odd)} of other lengths than {length} tokens ({_counts(lengths)}); "
                "--force ranks them too"
            )
    return notes


def _best_first(group: Group, scores: np.ndarray, top_k: int | None) -> Iterator[int]:
    """Sort rows by falling score, then id; beyond the first top_k only where asked to."""

    def in_order(rows: np.ndarray) -> list[int]:
        return sorted(rows.tolist(), key=lambda row: (-scores[row], group.entries[row].id))

    rows = np.flatnonzero(~np.isnan(scores))
    if top_k is not None and top_k < len(rows):
        left = scores[rows]
        edge = np.partition(left, len(left) - top_k)[len(left) - top_k]
        yield from in_order(rows[left >= edge])
        rows = rows[left < edge]
    yield from in_order(rows)


def _remarks(matches: list[Match], top_k: int | None) -> list[str]:
    notes = []
    if top_k is not None and len(matches) < top_k:
        notes.append(f"only {len(matches)} to rank, fewer than top_k = {top_k}: all are given")
    steps = Counter(str(match.entry.embedding_step) for match in matches)
    if len(steps) > 1:
        notes.append(
            f"their task embeddings are of several steps ({_counts(steps)}); similarities compare "
            "well only at one step"
        )
    return notes


def _short(backbone: str) -> str:
    return backbone[:12] or "unknown"


def _counts(counter: Counter[Any]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in sorted(counter.items()))
