"""Splits of rows by a hash of their text: one text in one split, each label in equal shares."""

import collections
import hashlib
from collections.abc import Mapping, Sequence

SPLITS = ("train", "validation", "test")
SHARES = (0.1, 0.1)
"""Shares of validation and of test."""
SMALLEST = 5
"""Number of texts from which on a label has at least one in each split."""

Bounds = dict[str, tuple[float, float]]
"""By label the hashes below which a text is of validation, and, from there on, of test."""


def place_of(text: str) -> float:
    """Return a number from 0 to 1 that follows from a text alone, but for case and spaces."""
    digest = hashlib.blake2b(key_of(text).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def key_of(text: str) -> str:
    """Return what texts that count as the same have in common."""
    return " ".join(text.casefold().split())


def bounds_of(texts: Sequence[str], labels: Sequence[str]) -> Bounds:
    """Return bounds that give validation and test their shares of each label's texts.

    Args:
        texts: text of each row.
        labels: label of each row, or one label for all where there are none to hold in balance.
            A text that comes with several counts for its first one.
    """
    label_of = first_labels(texts, labels)
    places = collections.defaultdict(list)
    for key, label in label_of.items():
        places[label].append(place_of(key))
    return {label: _bounds(sorted(numbers)) for label, numbers in sorted(places.items())}


def first_labels(texts: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the label that each text first comes with, by `key_of` of the text."""
    result: dict[str, str] = {}
    for text, label in zip(texts, labels, strict=True):
        result.setdefault(key_of(text), label)
    return result


def _bounds(places: Sequence[float]) -> tuple[float, float]:
    least = 1 if len(places) >= SMALLEST else 0
    validation, test = (max(least, round(share * len(places))) for share in SHARES)
    ends = [*places, 1.0]
    return ends[validation] if validation else 0.0, ends[validation + test]


def split_of(text: str, label: str, bounds: Mapping[str, Sequence[float]]) -> str:
    """Return the split of a text; one of a label that has no bounds has the usual shares."""
    place = place_of(text)
    usual = (SHARES[0], SHARES[0] + SHARES[1])
    validation, test = bounds.get(label, usual)
    if place < validation:
        return "validation"
    return "test" if place < test and test > validation else "train"
