"""GoEmotions, Sentiment140 and Yelp-2, their fields by name as T5 writes GLUE."""

import functools

import tensorflow as tf

from spot_jax import metrics
from spot_jax.data import fields
from tasks.papers import text
from tasks.papers.catalogue import BY_NAME
from tasks.papers.forms import Form, register
from tasks.papers.labelled import AUTOTUNE, add, write

_COMMENT = ("comment_text",)


def write_go_emotions(
    dataset: tf.data.Dataset, prefix: str, words: tuple[str, ...]
) -> tf.data.Dataset:
    """Return a comment and the names of its emotions, in the order of `words`."""

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        chosen = tf.boolean_mask(tf.constant(words), tf.stack([row[name] for name in words]))
        return {
            "inputs": text.fields(row, _COMMENT, prefix),
            "targets": tf.strings.reduce_join(chosen, separator=", "),
        }

    return dataset.map(example_of, AUTOTUNE)


_EMOTIONS = BY_NAME["go_emotions"].labels
register(
    "go_emotions",
    Form(
        functools.partial(write_go_emotions, words=_EMOTIONS),
        prefix="go_emotions",
        template=fields.template_from(_COMMENT),
        metrics=(metrics.multilabel_macro_f1(_EMOTIONS), metrics.accuracy),
    ),
)
_polarity = functools.partial(write, names=("text",), label="polarity", numbers=(0, 2, 4))
add("sentiment140", ("text",), write=_polarity)
add("yelp_polarity", ("text",))
