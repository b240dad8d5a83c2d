"""Lengths in tokens of a file's texts and targets, and the feature lengths that suit them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from spot_jax.data.table.task import TableTask, open_table
from spot_jax.t5.vocabulary import UNK, Vocabulary

LONGEST_INPUTS = 512
LONGEST_TARGETS = 256
SHARE = 0.99
"""Share of the texts that lengths are made to hold whole."""
STEP = 8


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths in tokens, eos included.

    Attributes:
        inputs: length of each text.
        targets: length of each target, in the same order.
        unknown: share of the texts' tokens that the vocabulary lacks, from 0 to 1.
    """

    inputs: Int64[np.ndarray, " n"]
    targets: Int64[np.ndarray, " n"]
    unknown: float

    def suited(self) -> dict[str, int]:
        """Return feature lengths that hold all but a few of the texts, and all labels, whole."""
        inputs = int(np.quantile(self.inputs, SHARE, method="higher"))
        targets = int(self.targets.max())
        return {
            "inputs": min(LONGEST_INPUTS, -(-inputs // STEP) * STEP),
            "targets": min(LONGEST_TARGETS, -(-targets // 2) * 2),
        }

    def cut(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """Return how many texts and targets are longer than feature lengths."""
        return {
            "inputs": int((self.inputs > lengths["inputs"]).sum()),
            "targets": int((self.targets > lengths["targets"]).sum()),
        }


def measure(task: TableTask, vocabulary: Vocabulary) -> Lengths:
    """Return the lengths of all rows in use."""
    items = [item for rows in task.splits.values() for item in rows]
    inputs = vocabulary.encode_all([item.text for item in items])
    different = list(dict.fromkeys(item.target for item in items))
    length_of = dict(zip(different, map(len, vocabulary.encode_all(different)), strict=True))
    total = sum(map(len, inputs))
    unknown = sum(ids.count(UNK) for ids in inputs)
    return Lengths(
        np.array([len(ids) + 1 for ids in inputs]),
        np.array([length_of[item.target] + 1 for item in items]),
        unknown / max(total, 1),
    )


def suited_lengths(names: Sequence[str], vocabulary: Vocabulary) -> dict[str, int]:
    """Return the feature lengths that suit all of several files of rows."""
    each = [measure(open_table(name), vocabulary).suited() for name in names]
    return {side: max(lengths[side] for lengths in each) for side in ("inputs", "targets")}
