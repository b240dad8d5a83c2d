"""Plain text as a seqio source, and the numpy objectives as a seqio preprocessor."""

import functools
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from spot_jax.data.denoising import OBJECTIVES, Objective, TokenSource, objective
from spot_jax.data.sources import generator
from spot_jax.data.text_tokens import TextDirectory, read_directory, tokenise
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS, Vocabulary, load_vocabulary

SPLITS = ("train", "validation")
SEED = 0  # of the noise, where seqio itself draws the examples
Lengths = Mapping[str, int]
FEATURES = dict.fromkeys(
    ("inputs", "targets"), seqio.Feature(seqio.PassThroughVocabulary(0), add_eos=True)
)
"""What text tasks are registered with; the backbone's vocabulary takes its place where they are
read."""


class TextLines(seqio.FunctionDataSource):
    """The paragraphs of a directory's `.txt` files, with the objective that they are used for.

    The directory is looked at when the data is first asked for.
    """

    def __init__(self, directory: str, objective_name: str):
        self.directory, self.objective_name = directory, objective_name
        super().__init__(self._lines, splits=SPLITS)

    @functools.cached_property
    def text(self) -> TextDirectory:
        """The files; `SpotError` when there is no UTF-8 text."""
        return read_directory(self.directory)

    def _lines(
        self, split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> tf.data.Dataset:
        text = self.text
        return tf.data.Dataset.from_generator(
            lambda: ({"text": line} for line in text.lines(split)),
            output_signature={"text": tf.TensorSpec((), tf.string)},
        )

    def objective(self, vocabulary: Vocabulary, lengths: Lengths | None) -> Objective:
        """Return the objective for these ids and lengths."""
        return objective(self.objective_name, vocabulary.size, (lengths or {}).get("targets"))

    def token_source(
        self, split: str, vocabulary: Vocabulary, lengths: Lengths | None, seed: int
    ) -> TokenSource:
        """Tokenise the whole split and return its endless examples, without seqio's pipeline."""
        tokens = tokenise(self.text.lines(split), vocabulary, seed=seed)
        text_objective = self.objective(vocabulary, lengths)
        return TokenSource(tokens, text_objective, inputs_length(lengths), seed)


def register_text(directory: str | os.PathLike[str], *, prefix: str = "") -> tuple[str, ...]:
    """Register `{prefix}span_corruption` and `{prefix}prefix_lm` over the text in `directory`.

    The directory holds `.txt` files in UTF-8, one paragraph a line; 1% of the lines, chosen by
    their hash, are the validation split. Files in another encoding are left out and logged.
    Registering again replaces the tasks. Returns the two names; raises `SpotError` when there is
    no text.
    """
    skipped = read_directory(directory).skipped
    if skipped:
        logging.getLogger(__name__).warning(
            "%d files in %s are not UTF-8 and are left out", len(skipped), directory
        )
    names = tuple(prefix + kind for kind in OBJECTIVES)
    for name, kind in zip(names, OBJECTIVES, strict=True):
        if name in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name,
            source=TextLines(os.fspath(directory), kind),
            preprocessors=[functools.partial(make_examples, objective_name=kind)],
            output_features=FEATURES,
        )
    return names


def inputs_length(lengths: Lengths | None) -> int:
    """Return the length of inputs, which a chunk of text depends on; `SpotError` without one."""
    if not lengths or "inputs" not in lengths:
        raise SpotError(
            "expected the length of inputs for a task over plain text, found none; give the "
            "feature lengths, for instance {'inputs': 512, 'targets': 114}"
        )
    return lengths["inputs"]


def make_examples(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, Any],
    sequence_length: Lengths | None,
    objective_name: str,
) -> tf.data.Dataset:
    """Return a dataset of `text` as `inputs` and `targets` of an objective, eos included."""
    registered = output_features["inputs"].vocabulary
    vocabulary = load_vocabulary(registered.sentencepiece_model_file)
    text_objective = objective(
        objective_name, vocabulary.size, (sequence_length or {}).get("targets")
    )
    length = text_objective.chunk_length(inputs_length(sequence_length))

    def examples() -> Iterator[dict[str, np.ndarray]]:
        lines = (row["text"].decode("utf-8") for row in dataset.as_numpy_iterator())
        for number, chunk in enumerate(_chunks(lines, vocabulary, length)):
            inputs, targets = text_objective.apply(chunk, generator(SEED, number))
            yield {"inputs": inputs, "targets": targets}

    ids = tf.TensorSpec((None,), tf.int32)
    return tf.data.Dataset.from_generator(
        examples, output_signature={"inputs": ids, "targets": ids}
    )


def _chunks(lines: Iterable[str], vocabulary: Vocabulary, length: int) -> Iterator[np.ndarray]:
    """Yield the token stream, eos between lines, in pieces of `length`; the last one is dropped."""
    rest: list[int] = []
    lines = iter(lines)
    while block := list(itertools.islice(lines, 1000)):
        for ids in vocabulary.encode_all(block):
            rest.extend(ids)
            rest.append(EOS)
        full = len(rest) // length
        yield from np.array(rest[: full * length], np.int32).reshape(full, length)
        rest = rest[full * length :]
