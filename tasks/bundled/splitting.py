"""Which split an example belongs to: a hash of its text, so the same text never changes sides."""

import hashlib
from collections.abc import Mapping, Sequence

TRAIN, VALIDATION = 0.8, 0.1


def normalised(text: str) -> str:
    """Return `text` in lower case with letters and digits only: near duplicates become equal."""
    return "".join(character for character in text.lower() if character.isalnum())


def split_of(text: str) -> str:
    """Return "train" (80%), "validation" (10%) or "test" (10%) by a hash of the normalised text."""
    digest = hashlib.blake2b(normalised(text).encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < TRAIN:
        return "train"
    return "validation" if share < TRAIN + VALIDATION else "test"


def group_splits(rows: Sequence[Mapping[str, str]], fields: Sequence[str]) -> list[str]:
    """Return each row's split; rows that share a text in any of `fields` share the split.

    Rows linked through a chain of shared texts form one group, whose split is that of its
    alphabetically first text. With one field this is `split_of` of that field.
    """
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = [[normalised(row[field]) for field in fields] for row in rows]
    for first, *others in keys:
        for other in others:
            low, high = sorted((find(first), find(other)))
            parent[high] = low
    return [split_of(find(first)) for first, *_ in keys]
