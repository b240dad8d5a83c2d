"""Rows with a label number, written as T5 writes GLUE: fields by name, then the label's word."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from spot_jax.data import fields
from spot_jax.metrics import Metric, accuracy
from tasks.papers import text
from tasks.papers.catalogue import BY_NAME
from tasks.papers.forms import Form, register

AUTOTUNE = tf.data.AUTOTUNE


def write(
    dataset: tf.data.Dataset,
    prefix: str,
    names: Sequence[str],
    words: Sequence[str],
    extra: Sequence[str] = (),
    label: str = "label",
    numbers: Sequence[int] | None = None,
) -> tf.data.Dataset:
    """Return `inputs`, `prefix name: value ...`, and `targets`, the word of the label.

    Args:
        dataset: data set of rows.
        prefix: the words in front; none if empty.
        names: names of the fields, in order.
        words: words of the labels.
        extra: names of fields that go along, as those of `names` do.
        label: the name of the field that holds the label's number.
        numbers: numbers that stand for the words; 0, 1, ... by default.
    """

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        return {
            "inputs": text.fields(row, names, prefix),
            "targets": text.word(row[label], words, numbers),
            **{name: row[name] for name in (*extra, *names)},
        }

    return dataset.map(example_of, AUTOTUNE)


def add(
    name: str,
    names: Sequence[str],
    *,
    prefix: str = "",
    metrics: Sequence[Metric] = (accuracy,),
    extra: Sequence[str] = (),
    **form: Any,
) -> None:
    """Register a set whose rows have the fields `names` and a label among the catalogue's."""
    form.setdefault("write", functools.partial(write, names=names, extra=extra))
    item = BY_NAME[name]
    form["write"] = functools.partial(form["write"], words=item.labels)
    template = fields.template_from(tuple(names))
    register(name, Form(prefix=prefix or name, template=template, metrics=metrics, **form))
