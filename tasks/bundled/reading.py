"""Read the sets that ship, with neither seqio nor TensorFlow."""

import functools
import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

from spot_jax.data.examples import Examples
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS, Vocabulary
from tasks.bundled.sets import HERE, SETS, BundledSet

SPLITS = ("train", "validation", "test")
SHOTS = 16
SHOT_SUFFIX = f"_{SHOTS}shot"
OTHER_SUFFIX = f"{SHOT_SUFFIX}_s2"
"""A second sample of as many examples, none of them in the first."""

Row = dict[str, Any]


def names() -> tuple[str, ...]:
    """Return the names of all sets."""
    return tuple(SETS)


@functools.lru_cache(maxsize=4)
def _all_rows(name: str, directory: Path) -> tuple[Row, ...]:
    raw = _checked(directory / f"{name}.jsonl.xz")
    lines = lzma.decompress(raw).decode("utf-8").rstrip("\n").split("\n")
    return tuple(json.loads(line) for line in lines)


def rows(name: str, split: str, *, directory: Path = HERE) -> list[Row]:
    """Return the rows of `name` in `split`, in the file's order; labels are words.

    `NAME_16shot` has 16 examples a label in "train", chosen by a hash of the text, and all of
    "validation" and "test"; `NAME_16shot_s2` has the next 16 of each. Raises `SpotError` for an
    unknown set or split, and for a file that is missing or is not the one that ships.
    """
    item = find(name)
    if split not in SPLITS:
        raise SpotError(
            f"expected split {', '.join(SPLITS)} of {name}, found {split!r}; choose one of them"
        )
    chosen = [row for row in _all_rows(item.name, directory) if row["split"] == split]
    if split == "train" and whole(name) != name:
        chosen = _few(chosen, item, int(name.endswith(OTHER_SUFFIX)))
    return chosen


def whole(name: str) -> str:
    """Return the name of the set that a few-shot variant is of; other names as they are."""
    return name.removesuffix(OTHER_SUFFIX).removesuffix(SHOT_SUFFIX)


def find(name: str) -> BundledSet:
    """Return the set of this name, or of the few-shot variant's name."""
    base = whole(name)
    if base not in SETS:
        raise SpotError(f"expected a bundled set ({', '.join(SETS)}), found {name!r}; choose one")
    return SETS[base]


def written(item: BundledSet, row: Row) -> tuple[str, str]:
    """Return the inputs and targets as text: `text: ...`, or `text1: ... text2: ...`."""
    return " ".join(f"{field}: {row[field]}" for field in item.fields), row["label"]


def examples(name: str, split: str, vocabulary: Vocabulary) -> Examples:
    """Return the tokenised examples of `name` in `split`, eos after inputs and targets."""
    item = find(name)
    texts = [written(item, row) for row in rows(name, split)]
    inputs = vocabulary.encode_all([first for first, _ in texts])
    targets = vocabulary.encode_all([second for _, second in texts])
    pairs = [([*a, EOS], [*b, EOS]) for a, b in zip(inputs, targets, strict=True)]
    return Examples.from_lists(pairs, task=f"bundled_{name}")


def _few(candidates: list[Row], item: BundledSet, sample: int) -> list[Row]:
    """Return 16 rows a label in the order of a hash, so that the choice never changes: the first
    16, or for sample 1 the next 16."""

    def rank(row: Row) -> bytes:
        text = " ".join(row[field] for field in item.fields)
        return hashlib.blake2b(f"few {text}".encode(), digest_size=8).digest()

    chosen: dict[str, list[Row]] = {label: [] for label in item.labels}
    for row in sorted(candidates, key=rank):
        chosen[row["label"]].append(row)
    taken = slice(sample * SHOTS, (sample + 1) * SHOTS)
    return [row for label in item.labels for row in chosen[label][taken]]


def _checked(path: Path) -> bytes:
    """Return the bytes of a shipped file after comparing them with SHA256SUMS."""
    try:
        sums = (path.parent / "SHA256SUMS").read_text(encoding="utf-8").split("\n")
        raw = path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    expected = {line.split()[1]: line.split()[0] for line in sums if line}
    if hashlib.sha256(raw).hexdigest() != expected.get(path.name):
        raise _damaged(path, "another content than SHA256SUMS names")
    return raw


def _damaged(path: Path, content: str) -> SpotError:
    return SpotError(
        f"expected the data file {path} as it ships, found {content}; "
        f"restore it with: git checkout -- {path}"
    )
