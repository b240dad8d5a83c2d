"""SuperGLUE in T5's forms (Raffel et al. 2020, appendix D).

MultiRC is one example an answer, ReCoRD one an answer that is right, and WSC asks what a pronoun
stands for, so that only true pairs can be trained on (Lester et al. 2021, A.3).
"""

from collections.abc import Sequence

import tensorflow as tf

from spot_jax import metrics
from tasks.papers import postprocessors, text
from tasks.papers.catalogue import BY_NAME
from tasks.papers.forms import Form, register
from tasks.papers.labelled import AUTOTUNE, add

_FIELDS = {
    "boolq": ("passage", "question"),
    "cb": ("hypothesis", "premise"),
    "copa": ("choice1", "choice2", "premise", "question"),
    "rte": ("hypothesis", "premise"),
    "wic": ("sentence1", "sentence2", "word"),
}
_NO_PRONOUN = "expected WSC's text to have its pronoun at word `span2_index` or later"
_MULTIRC = ("question", "answer", "paragraph")
KEEP_TRUE = {"train": lambda row: row["label"] > 0}


def write_multirc(dataset: tf.data.Dataset, prefix: str, words: Sequence[str]) -> tf.data.Dataset:
    """Return a question, an answer and the paragraph without its HTML, with the numbers of each."""

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        return {
            "inputs": text.without_html(text.fields(row, _MULTIRC, prefix)),
            "targets": text.word(row["label"], words),
            **{f"idx/{part}": row["idx"][part] for part in ("paragraph", "question", "answer")},
        }

    return dataset.map(example_of, AUTOTUNE)


def write_record(dataset: tf.data.Dataset, prefix: str) -> tf.data.Dataset:
    """Return one example for each answer of a query; all its answers go along.

    The passage's highlights follow it as sentences. A query without answers is one example with the
    target `<unk>`.
    """

    def examples_of(row: text.Row) -> tf.data.Dataset:
        passage = tf.strings.regex_replace(row["passage"], "([.?!\"'])\n@highlight\n", r"\1 ")
        passage = tf.strings.regex_replace(passage, "\n@highlight\n", ". ")
        parts = {
            "query": row["query"],
            "entities": tf.strings.reduce_join(row["entities"], separator=", "),
            "passage": passage,
        }
        same = {
            "inputs": text.fields(parts, tuple(parts), prefix),
            "answers": row["answers"],
            "idx/passage": row["idx"]["passage"],
            "idx/query": row["idx"]["query"],
        }
        right_answers = row["answers"]
        targets = tf.cond(
            tf.size(right_answers) > 0, lambda: right_answers, lambda: tf.constant([text.UNKNOWN])
        )
        return tf.data.Dataset.from_tensor_slices(targets).map(
            lambda target: {**same, "targets": target}
        )

    # One row at a time: examples stay in the order of the rows.
    return dataset.flat_map(examples_of)


def mark_pronoun(row: text.Row) -> tf.Tensor:
    """Return the text with stars around the pronoun at the word `span2_index`.

    Punctuation that is written to the pronoun is set apart. Where another word stands at that
    place, as in one row of the data, the pronoun's next occurrence is meant.
    """
    words = tf.strings.split(row["text"], " ")
    pronoun = row["span2_text"]
    lengths = tf.strings.length(words)
    ends = tf.minimum(tf.strings.length(pronoun), lengths)
    rest = tf.strings.substr(words, ends, lengths - ends)
    is_pronoun = tf.logical_and(
        tf.equal(tf.strings.substr(words, tf.zeros_like(ends), ends), pronoun),
        tf.strings.regex_full_match(rest, "[[:punct:]]*"),
    )
    later = tf.logical_and(is_pronoun, tf.range(tf.size(words)) >= row["span2_index"])
    places = tf.where(later)[:, 0]
    with tf.control_dependencies([tf.debugging.assert_positive(tf.size(places), _NO_PRONOUN)]):
        place = tf.reduce_min(places)
    marked = tf.strings.join(["*", pronoun, "*"])
    is_apart = tf.strings.length(rest[place]) > 0
    parts = [words[:place], [marked], [rest[place]], words[place + 1 :]]
    apart = tf.strings.strip(tf.strings.reduce_join(tf.concat(parts, 0), separator=" "))
    together = tf.strings.reduce_join(tf.concat([*parts[:2], parts[3]], 0), separator=" ")
    return tf.where(is_apart, apart, together)


def write_wsc(dataset: tf.data.Dataset, prefix: str) -> tf.data.Dataset:
    """Return the text with its pronoun marked, and what the pronoun may stand for."""

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        return {
            "inputs": text.join(prefix, mark_pronoun(row)),
            "targets": row["span1_text"],
            "label": row["label"],
            "idx": row["idx"],
        }

    return dataset.map(example_of, AUTOTUNE)


_METRICS = {
    "cb": (
        metrics.mean_multiclass_f1(BY_NAME["super_glue_cb"].labels),
        metrics.accuracy,
    )
}
for _name, _fields in _FIELDS.items():
    add(
        f"super_glue_{_name}",
        _fields,
        prefix=_name,
        metrics=_METRICS.get(_name, (metrics.accuracy,)),
        extra=("idx",),
    )
add(
    "super_glue_multirc",
    _MULTIRC,
    prefix="multirc",
    metrics=(metrics.multirc("True", "False"),),
    write=write_multirc,
    postprocess=postprocessors.multirc,
)
register(
    "super_glue_record",
    Form(
        write_record,
        prefix="record",
        template="query: {query} entities: {entities} passage: {passage}",
        metrics=(metrics.record,),
        postprocess=postprocessors.record,
    ),
)
register(
    "super_glue_wsc",
    Form(
        write_wsc,
        prefix="wsc:",
        template="{text}",
        metrics=(metrics.wsc,),
        postprocess=postprocessors.wsc,
        keep=KEEP_TRUE,
    ),
)
