"""Pieces of text-to-text forms in TensorFlow, which every family's rows are written with."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

Row = Mapping[str, tf.Tensor]
UNKNOWN = "<unk>"  # what T5 writes for a label that is kept back


def join(*parts: str | tf.Tensor) -> tf.Tensor:
    """Return the parts with a space between each two; Python's empty ones are left out."""
    return tf.strings.join([part for part in parts if not _is_empty(part)], " ")


def _is_empty(part: str | tf.Tensor) -> bool:
    return isinstance(part, str) and not part


def fields(row: Row, names: Sequence[str], prefix: str = "") -> tf.Tensor:
    """Return `prefix name: value name: value ...`, T5's way of writing a row."""
    return join(prefix, *(part for name in names for part in (f"{name}:", row[name])))


def word(label: tf.Tensor, words: Sequence[str], numbers: Sequence[int] | None = None) -> tf.Tensor:
    """Return the word of a label number; -1 is `<unk>`, as in T5's tasks.

    Any other number that has no word is written as `<label 7>`, which no task has among its labels,
    so that reading it is an error that names it.

    Args:
        label: a whole number.
        words: words of the labels.
        numbers: numbers that stand for the words; 0, 1, ... by default.
    """
    label = tf.cast(label, tf.int64)
    matches = tf.equal(label, tf.constant(numbers or list(range(len(words))), tf.int64))
    strange = tf.strings.join(["<label ", tf.strings.as_string(label), ">"])
    other = tf.where(tf.equal(label, -1), UNKNOWN, strange)
    chosen = tf.gather(tf.constant(words), tf.argmax(tf.cast(matches, tf.int32)))
    return tf.where(tf.reduce_any(matches), chosen, other)


def pad_punctuation(text: tf.Tensor) -> tf.Tensor:
    """Return text with a space on each side of ASCII punctuation and no two spaces together."""
    return one_space(tf.strings.regex_replace(text, "([[:punct:]])", r" \1 "))


def one_space(text: tf.Tensor) -> tf.Tensor:
    """Return text with every run of white space as one space."""
    return tf.strings.regex_replace(text, r"\s+", " ")


def without_html(text: tf.Tensor) -> tf.Tensor:
    """Return text without the tags that MultiRC has: line breaks are spaces, bold print nothing."""
    return tf.strings.regex_replace(tf.strings.regex_replace(text, "<br>", " "), "</?b>", "")


def without_final_punctuation(text: tf.Tensor) -> tf.Tensor:
    """Return text without the ASCII punctuation that it ends in."""
    return tf.strings.regex_replace(text, "[[:punct:]]+$", "")


def with_lower_first(text: tf.Tensor) -> tf.Tensor:
    """Return text with its first character in lower case."""
    first = tf.strings.substr(text, 0, 1, unit="UTF8_CHAR")
    rest = tf.strings.substr(text, tf.strings.length(first), tf.strings.length(text))
    return tf.strings.lower(first, encoding="utf-8") + rest


def is_written(text: tf.Tensor) -> tf.Tensor:
    """Return whether there is more than white space in a text."""
    return tf.strings.length(tf.strings.strip(text)) > 0
