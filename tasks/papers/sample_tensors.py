"""The samples as a data set's source gives them to a task: TensorFlow's values."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tasks.papers import samples, samples_files
from tasks.papers.catalogue import find


def tensors(name: str) -> dict[str, Any]:
    """Return the first sample of a set of the catalogue as nested tensors."""
    files = samples_files.ROWS
    row: dict[str, Any] = dict(files[name] if name in files else samples.raw(name))
    if find(name).several:
        row = dict.fromkeys(find(name).labels, False) | row
    return _tensors(row)


def _tensors(value: Any) -> Any:
    # As TFDS reads rows: a list of rows as columns; whole numbers but labels have 32 bits.
    if isinstance(value, Mapping):
        return {key: _tensors(item) for key, item in value.items()}
    if not isinstance(value, list):
        return tf.constant(value, _dtype(value))
    if value and isinstance(value[0], Mapping):
        return {key: _tensors([item[key] for item in value]) for key in value[0]}
    if value and isinstance(value[0], list):
        return tf.ragged.constant(value)
    return tf.constant(value, _dtype(value[0]) if value else tf.string)


def _dtype(value: Any) -> tf.DType:
    kinds = {str: tf.string, bool: tf.bool, int: tf.int32, float: tf.float32}
    return kinds[type(value)]
