"""The answers that each row of a training batch is to be chosen among, as tokens.

They are an example's own (COPA's two), or the task's verbalizers, the same for every row.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS, TextCodec

Tokens = Int[np.ndarray, "c u"]


def answer_tokens(vocabulary: TextCodec, texts: Sequence[str]) -> Tokens:
    """Return answers as tokens with eos, one a row, padded with 0 to the longest."""
    rows = [[*vocabulary.encode(text), EOS] for text in texts]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


@dataclasses.dataclass(frozen=True, eq=False)
class ChoiceWriter:
    """Adds answers to batches.

    Attributes:
        shape: number and greatest length of the answers of a row; fewer and shorter are padded.
        labels: tokens of the task's verbalizers; None where each example has answers of its own.
    """

    shape: tuple[int, int]
    labels: Tokens | None = None

    def features(self, pairs: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return `candidate_tokens` [b, c, u] and `candidate_target` [b], the right ones' numbers.

        Args:
            pairs: `Example`s of the rows, not cut.

        Raises:
            SpotError: a target that is none of its answers.
        """
        tokens = np.zeros((len(pairs), *self.shape), np.int32)
        right = np.zeros(len(pairs), np.int32)
        for number, pair in enumerate(pairs):
            answers = pair.choices if self.labels is None else self.labels
            tokens[number, : answers.shape[0], : answers.shape[1]] = answers
            target = np.zeros(self.shape[1], np.int32)
            target[: len(pair[1])] = pair[1][: self.shape[1]]
            same = (tokens[number] == target).all(axis=1)
            if len(pair[1]) > self.shape[1] or not same.any():
                raise SpotError(
                    "expected targets among the answers to choose from, found one that is none of "
                    "them; correct the task's labels or choices, or leave choice_loss out"
                )
            right[number] = same.argmax()
        return {"candidate_tokens": tokens, "candidate_target": right}
