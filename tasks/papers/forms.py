"""One form of a data set, registered with the task's name in front and without."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from spot_jax.metrics import Metric, accuracy
from tasks.papers import postprocessors
from tasks.papers.catalogue import BY_NAME, NO_PREFIX
from tasks.papers.registering import add_task
from tasks.papers.tfds_source import Keep, TfdsSource

# From a dataset of rows, and the words in front of the text, to one of `inputs` and `targets`.
Write = Callable[..., tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class Form:
    """How the rows of a data set are written, read back and scored.

    Attributes:
        write: a function of (dataset, prefix=...) that gives `inputs` and `targets`.
        prefix: the words in front that say which task it is.
        template: the text after them with fields in braces, for `spot infer`.
        metrics: metrics of (targets, predictions).
        postprocess: function from text to what metrics compare; by default a label for a set with
            labels, else the text.
        keep: predicate, by split, of the rows that are examples.
        read: the fields to decode, where the set has many others; all by default.
    """

    write: Write
    prefix: str
    template: str | None = None
    metrics: Sequence[Metric] = (accuracy,)
    postprocess: Callable[..., Any] | None = None
    keep: Mapping[str, Keep] | None = None
    read: Sequence[str] = ()


def register(name: str, form: Form) -> None:
    """Register `name` and `name_no_prefix` for a set of the catalogue that TFDS has."""
    item = BY_NAME[name]
    source = TfdsSource(item, form.keep, form.read)
    labels = () if item.several else item.labels
    postprocess = form.postprocess
    if postprocess is None and labels:
        postprocess = functools.partial(postprocessors.label, labels=labels)
    for task, prefix in ((name, form.prefix), (name + NO_PREFIX, "")):
        front = f"{prefix} " if prefix else ""
        add_task(
            task,
            source,
            [functools.partial(form.write, prefix=prefix)],
            form.metrics,
            labels=labels,
            postprocess_fn=postprocess,
            template=None if form.template is None else front + form.template,
        )
