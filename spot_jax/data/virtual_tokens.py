"""The prompt as token ids: ids from the vocabulary's size upwards name rows of a prompt table.

The ids stand before a text, or in it where a template has put places for them. A place is T5's last
sentinel, `<extra_id_99>`, which its pre-training hardly ever reaches; the sentinel before that one
stands on both sides of the field that is cut where the text is too long.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64

from spot_jax.data.examples import Examples, cut
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS, Vocabulary

PLACE, CUT = 99, 98
PLACEMENTS = ("before", "in_template")


@dataclass(frozen=True)
class VirtualTokens:
    """Writes a prompt's ids before a text.

    Ids `vocab_size + index * length` to `vocab_size + (index + 1) * length - 1` are the rows of
    prompt number `index` in a table that stacks prompts of `length` rows (Lester et al. 2021,
    section 2: the prompt is concatenated before the embedded input).

    Attributes:
        vocab_size: rows of the backbone's embedding table.
        length: rows of one prompt, P.
        index: number of the prompt in the table.
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

    @property
    def prefix(self) -> Int32[np.ndarray, " length"] | None:
        """Ids that stand before every text; None where its places are in the text."""
        return self.ids

    def text_length(self, inputs: Int32[np.ndarray, " text"]) -> int:
        """Return how many of the ids are text: all."""
        return len(inputs)

    def write(
        self, inputs: Int32[np.ndarray, " text"], length: int, keeps_eos: bool = False
    ) -> Int32[np.ndarray, " written"]:
        """Return `inputs`, its end cut at `length`, with the prompt's ids before it.

        Text that is cut ends in eos where `keeps_eos` says so.

        Raises:
            SpotError: for an id not of text.
        """
        self.check(inputs)
        return np.concatenate([self.ids, cut(inputs, length, keeps_eos)])

    def check(self, ids: Int32[np.ndarray, " text"]) -> None:
        """Raise `SpotError` when an id has no row in the backbone's embedding table."""
        check_vocabulary(ids, self.vocab_size)

    def check_examples(self, examples: Examples, length: int) -> None:
        """Accept every example: a text without places has nothing that can be wrong."""


@dataclass(frozen=True)
class TemplateTokens(VirtualTokens):
    """Writes a prompt's ids into the places that a template's text has for them, in their order.

    Where the text is too long the end of the marked field is cut and nothing else; a text without
    marks is cut at its end.

    Attributes:
        place: id that a virtual token takes the place of.
        cut: id that stands before and after the field that is cut.
    """

    place: int = 0
    cut: int = 0

    @property
    def prefix(self) -> None:
        """None: the places of the ids are in the text."""
        return

    def text_length(self, inputs: Int32[np.ndarray, " text"]) -> int:
        """Return how many of the ids are text, neither places nor marks."""
        return len(inputs) - int(np.count_nonzero((inputs == self.place) | (inputs == self.cut)))

    def write(
        self, inputs: Int32[np.ndarray, " text"], length: int, keeps_eos: bool = False
    ) -> Int32[np.ndarray, " written"]:
        """Return `inputs` with at most `length` ids of text, without marks, with the prompt's ids.

        Raises:
            SpotError: not as many places as virtual tokens, nothing left of the field that is cut,
                or an id not of text.
        """
        self.check(inputs)
        self._check_all(inputs, np.array([0, len(inputs)]), length)
        marks = np.flatnonzero(inputs == self.cut)
        stays = np.ones(len(inputs), bool)
        over = self.text_length(inputs) - length
        if over > 0:
            # A text without marks loses its end, but for the eos where that is to be kept.
            last = len(inputs) - int(keeps_eos and inputs[-1] == EOS)
            end = marks[-1] if len(marks) else last
            stays[end - over : end] = False
        stays[marks] = False
        written = inputs[stays]
        places = written == self.place
        self._check_places(np.array([np.count_nonzero(places)]))
        written[places] = self.ids
        return written

    def check_examples(self, examples: Examples, length: int) -> None:
        """Raise `SpotError` when `write` would, for any of the examples."""
        self._check_all(examples.inputs, examples.inputs_offsets, length)

    def _check_all(
        self, ids: Int32[np.ndarray, " all"], offsets: Int64[np.ndarray, " n1"], length: int
    ) -> None:
        def count(which: Bool[np.ndarray, " all"]) -> Int64[np.ndarray, " n"]:
            sums = np.concatenate([[0], np.cumsum(which)])
            return sums[offsets[1:]] - sums[offsets[:-1]]

        is_mark = ids == self.cut
        places, marks = count(ids == self.place), count(is_mark)
        self._check_places(places)
        if odd := set(marks.tolist()) - {0, 2}:
            raise SpotError(
                f"expected <extra_id_{CUT}> before and after the field that is cut and nowhere "
                f"else, found it {max(odd)} times in a text; take it out of the data"
            )
        where = np.flatnonzero(is_mark)
        rest = np.diff(offsets) - places - marks
        text = rest.copy()
        rest[marks == 2] -= where[1::2] - where[::2] - 1
        bad = (text > length) & (rest >= length) & (marks == 2)
        if bad.any():
            number = f"{np.count_nonzero(bad)} of {len(bad)} texts" if len(bad) > 1 else "a text"
            raise SpotError(
                f"nothing is left of the field that is cut in {number}: expected less than "
                f"{length} tokens beside it, found {rest[bad].max()}; raise "
                "TASK_FEATURE_LENGTHS['inputs'] above that, or mark a longer field, {field:cut}"
            )

    def _check_places(self, counts: Int64[np.ndarray, " n"]) -> None:
        wrong = counts[counts != self.length]
        if len(wrong):
            raise SpotError(
                f"expected a text with {self.length} places for virtual tokens, as many as the "
                f"prompt has, found {wrong[0]}; give the task a template with as many, such as "
                f"--gin.TEMPLATE=\"'{{text}} <prompt:{self.length}> {{target}}'\", or set the "
                "prompt's length"
            )


def input_writer(
    vocab_size: int,
    length: int,
    index: int = 0,
    placement: str = "before",
    vocabulary: Vocabulary | None = None,
) -> VirtualTokens | None:
    """Return what writes prompt number `index` into inputs; None for a prompt of length 0.

    Args:
        vocab_size: rows of the backbone's embedding table.
        length: rows of one prompt, P.
        index: number of the prompt in the table.
        placement: "before" the text, or "in_template", at the places that the text has for them.
        vocabulary: vocabulary of the backbone; says which ids places and marks have.

    Raises:
        SpotError: another placement, or one in a template without a vocabulary.
    """
    if not length:
        return None
    if placement == "before":
        return VirtualTokens(vocab_size, length, index)
    if placement != "in_template":
        raise SpotError(f"expected virtual tokens {' or '.join(PLACEMENTS)}, found {placement!r}")
    if vocabulary is None:
        raise SpotError(
            "virtual tokens in a template need the backbone's vocabulary, which it lacks; convert "
            "the backbone with its vocabulary"
        )
    place, cut = (_sentinel(vocabulary, number) for number in (PLACE, CUT))
    return TemplateTokens(vocab_size, length, index, place, cut)


def _sentinel(vocabulary: Vocabulary, number: int) -> int:
    token = vocabulary.sentinel(number)
    if not vocabulary.piece(token).endswith(f"<extra_id_{number}>"):
        raise SpotError(
            f"{vocabulary.path} lacks T5's sentinel <extra_id_{number}>, which stands for a place "
            "in a template; take a vocabulary with 100 sentinels"
        )
    return token


def check_vocabulary(ids: Int32[np.ndarray, " text"], vocab_size: int) -> None:
    """Raise `SpotError` when an id of a text has no row in an embedding of `vocab_size` rows."""
    if len(ids) and (highest := int(ids.max())) >= vocab_size:
        raise SpotError(
            f"expected token ids below {vocab_size}, the backbone's vocabulary, found {highest}; "
            "tokenise the task with the backbone's own vocabulary"
        )
