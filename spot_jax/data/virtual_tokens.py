"""The prompt as token ids: ids from the vocabulary's size upwards name rows of a prompt table."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from spot_jax.errors import SpotError


@dataclass(frozen=True)
class VirtualTokens:
    """Writes a prompt's ids before a text.

    Ids `vocab_size + index * length` to `vocab_size + (index + 1) * length - 1` are the rows of
    prompt number `index` in a table that stacks prompts of `length` rows (Lester et al. 2021,
    section 2: the prompt is concatenated before the embedded input).

    Attributes:
        vocab_size: rows of the backbone's embedding table.
        length: rows of one prompt, P.
        index: which prompt of the table.
    """

    vocab_size: int
    length: int
    index: int = 0

    @property
    def room(self) -> int:
        """How many input positions the prompt takes."""
        return self.length

    @property
    def ids(self) -> Int32[np.ndarray, " length"]:
        """The ids of this prompt."""
        first = self.vocab_size + self.index * self.length
        return np.arange(first, first + self.length, dtype=np.int32)

    def write(self, inputs: Int32[np.ndarray, " text"]) -> Int32[np.ndarray, " length+text"]:
        """Return `inputs` with the prompt's ids before them; `SpotError` for an id not of text."""
        self.check(inputs)
        return np.concatenate([self.ids, inputs])

    def check(self, inputs: Int32[np.ndarray, " text"]) -> None:
        """Raise `SpotError` when an id has no row in the backbone's embedding table."""
        check_vocabulary(inputs, self.vocab_size)


def input_writer(
    vocab_size: int, length: int, index: int = 0, placement: str = "before"
) -> VirtualTokens | None:
    """Return what writes prompt number `index` into inputs; None for a prompt of length 0.

    Args:
        vocab_size: rows of the backbone's embedding table.
        length: rows of one prompt, P.
        index: which prompt of the table.
        placement: "before" the text.
    """
    if not length:
        return None
    if placement != "before":
        raise SpotError(f"expected virtual tokens 'before' the text, found {placement!r}")
    return VirtualTokens(vocab_size, length, index)


def check_vocabulary(ids: Int32[np.ndarray, " text"], vocab_size: int) -> None:
    """Raise `SpotError` when an id of a text has no row in an embedding of `vocab_size` rows."""
    if len(ids) and (highest := int(ids.max())) >= vocab_size:
        raise SpotError(
            f"expected token ids below {vocab_size}, the backbone's vocabulary, found {highest}; "
            "tokenise the task with the backbone's own vocabulary"
        )
