"""T5's two objectives on plain text, in numpy: span corruption and prefix language modelling.

Raffel et al. 2020, section 3.1.4 (span corruption, with 3.3.4's 15% of the tokens in spans of three
on average) and 3.2.3 (prefix LM, which LM adaptation trains: Lester et al. 2021, section 3).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Integer

from spot_jax.data.examples import Ids
from spot_jax.data.sources import State, generator
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS

Chunk = Integer[np.ndarray, " _tokens"]


class Objective(Protocol):
    """Makes an example of a chunk of text; both sides of it end in eos."""

    def chunk_length(self, inputs_length: int) -> int:
        """Return how many tokens of text make inputs of at most `inputs_length`."""
        ...

    def targets_length(self, inputs_length: int) -> int:
        """Return the length that the targets of such a chunk never exceed."""
        ...

    def apply(self, chunk: Chunk, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Return the inputs and targets."""
        ...


@dataclass(frozen=True)
class SpanCorruption:
    """Random spans give way to sentinels; the targets are the sentinels, each before its span.

    Attributes:
        vocab_size: number of ids with the sentinels; sentinel k is id `vocab_size - 1 - k`.
        sentinels: number of sentinels.
    """

    vocab_size: int
    sentinels: int = 100
    noise_density: float = 0.15
    mean_span: float = 3.0

    def _counts(self, length: int) -> tuple[int, int]:
        """Return the number of noise tokens and of spans in `length` tokens."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        spans = max(round(noise / self.mean_span), 1)
        return noise, min(spans, noise, length - noise, self.sentinels)

    def _lengths(self, length: int) -> tuple[int, int]:
        noise, spans = self._counts(length)
        return length - noise + spans + 1, noise + spans + 1

    def chunk_length(self, inputs_length: int) -> int:
        """Return the greatest chunk whose inputs fit: 568 for 512 with T5's settings."""
        if inputs_length < 3:
            raise SpotError(f"expected an inputs length of at least 3, found {inputs_length}")
        length = 2
        while self._lengths(length + 1)[0] <= inputs_length:
            length += 1
        return length

    def targets_length(self, inputs_length: int) -> int:
        """Return the length of the targets: 114 for inputs of 512 with T5's settings."""
        return self._lengths(self.chunk_length(inputs_length))[1]

    def mask(self, length: int, rng: np.random.Generator) -> Bool[np.ndarray, " length"]:
        """Return which of `length` tokens are noise: spans in turn, the first one kept."""
        noise, spans = self._counts(length)
        pieces = np.empty(2 * spans, np.int64)
        pieces[0::2] = _segments(length - noise, spans, rng)
        pieces[1::2] = _segments(noise, spans, rng)
        return np.repeat(np.arange(2 * spans) % 2 == 1, pieces)

    def apply(self, chunk: Chunk, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Return the corrupted chunk and what it lacks; the chunk has at least 2 tokens."""
        noise = self.mask(len(chunk), rng)
        return self._replace(chunk, noise), self._replace(chunk, ~noise)

    def _replace(self, chunk: Chunk, gone: Bool[np.ndarray, " tokens"]) -> Ids:
        """Return the chunk with each run of `gone` tokens as one sentinel, and eos."""
        first = gone & ~np.concatenate([[False], gone[:-1]])
        sentinel = self.vocab_size - np.cumsum(first)
        ids = np.where(first, sentinel, chunk)[first | ~gone]
        return np.append(ids, EOS).astype(np.int32)


def _segments(items: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """Return the lengths of `items` cut into `pieces` at random, none of them empty."""
    cuts = np.sort(rng.choice(items - 1, pieces - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=items)


@dataclass(frozen=True)
class PrefixLM:
    """A chunk is split at a random place: the inputs are its beginning, the targets the rest.

    Attributes:
        continuation: most tokens of the targets, eos aside; None for all of the rest.
    """

    continuation: int | None = None

    def chunk_length(self, inputs_length: int) -> int:
        """Return `inputs_length`: the longest beginning is one shorter and has eos behind it."""
        if inputs_length < 2:
            raise SpotError(f"expected an inputs length of at least 2, found {inputs_length}")
        return inputs_length

    def targets_length(self, inputs_length: int) -> int:
        """Return the greatest length of the targets, eos included."""
        return min(self.continuation or inputs_length - 1, inputs_length - 1) + 1

    def apply(self, chunk: Chunk, rng: np.random.Generator) -> tuple[Ids, Ids]:
        """Return the beginning and the rest; the chunk has 2 tokens or more."""
        place = int(rng.integers(1, len(chunk)))
        rest = chunk[place:] if self.continuation is None else chunk[place:][: self.continuation]
        return (
            np.append(chunk[:place], EOS).astype(np.int32),
            np.append(rest, EOS).astype(np.int32),
        )


class TokenSource:
    """Endless examples from a flat array of text tokens: a `Source`.

    The text is cut into chunks, in every epoch at other places and in another order. What becomes
    of a chunk follows from the seed, the epoch and the chunk's number alone.
    """

    def __init__(self, tokens: Chunk, objective: Objective, inputs_length: int, seed: int):
        self.tokens, self.objective, self.seed = tokens, objective, seed
        self.length = objective.chunk_length(inputs_length)
        if len(tokens) < 2 * self.length:
            raise SpotError(
                f"expected at least {2 * self.length} tokens of text for inputs of {inputs_length},"
                f" found {len(tokens)}; give more text or a shorter length"
            )
        self.chunks = len(tokens) // self.length - 1
        self._epoch, self._index = 0, 0
        self._start_epoch()

    def _start_epoch(self) -> None:
        rng = generator(self.seed, self._epoch)
        self._offset = int(rng.integers(self.length))
        self._order = rng.permutation(self.chunks)

    def next(self) -> tuple[Ids, Ids]:
        """Return the next example."""
        if self._index == self.chunks:
            self._epoch, self._index = self._epoch + 1, 0
            self._start_epoch()
        number = int(self._order[self._index])
        self._index += 1
        start = self._offset + number * self.length
        chunk = np.asarray(self.tokens[start : start + self.length], np.int32)
        return self.objective.apply(chunk, generator(self.seed, self._epoch, number))

    def state(self) -> State:
        """Return the epoch and the index in it."""
        return {"epoch": self._epoch, "index": self._index}

    def restore(self, state: State) -> None:
        """Go to an epoch and index."""
        if not 0 <= state["index"] <= self.chunks:
            raise SpotError(
                f"expected the data place to lie within {self.chunks} chunks, found index "
                f"{state['index']}; the text has changed since the run began"
            )
        self._epoch, self._index = int(state["epoch"]), int(state["index"])
        self._start_epoch()


OBJECTIVES = ("span_corruption", "prefix_lm")


def objective(name: str, vocab_size: int, targets_length: int | None = None) -> Objective:
    """Return the objective of this name; targets of a prefix LM are cut to `targets_length`."""
    if name == "span_corruption":
        return SpanCorruption(vocab_size)
    if name == "prefix_lm":
        return PrefixLM(None if targets_length is None else targets_length - 1)
    raise SpotError(f"expected an objective ({', '.join(OBJECTIVES)}), found {name!r}; choose one")
