"""Text to be written: WMT's translations in T5's form, summaries, and GEM.

SPoT writes `<task> summarize: ...`; without the task's name that is T5's own form. GEM's rows are
written by the name of what they give, in the manner of T5's tasks; its references are scored
against where a row has several.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from spot_jax import metrics
from tasks.papers import postprocessors, text
from tasks.papers.forms import Form, register
from tasks.papers.labelled import AUTOTUNE

Source = Callable[[text.Row], tf.Tensor]
_BOTH = (metrics.rouge, metrics.bleu)


def write(
    dataset: tf.data.Dataset,
    prefix: str,
    source: Source,
    target: str = "target",
    name: str = "",
    extra: tuple[str, ...] = (),
) -> tf.data.Dataset:
    """Return `prefix name: source` and the field `target`; rows with either one empty are left out.

    Some of the published sets have such rows.
    """

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        inputs = text.join(prefix, f"{name}:" if name else "", source(row))
        return {
            "inputs": inputs,
            "targets": row[target],
            **{field: row[field] for field in extra},
        }

    def is_whole(row: text.Row) -> tf.Tensor:
        return tf.logical_and(text.is_written(source(row)), text.is_written(row[target]))

    return dataset.filter(is_whole).map(example_of, AUTOTUNE)


def _field(name: str) -> Source:
    return lambda row: row[name]


def _list(name: str, separator: str) -> Source:
    return lambda row: tf.strings.reduce_join(row[name], separator=separator)


ACTS = (
    "AFFIRM AFFIRM_INTENT CONFIRM GOODBYE INFORM INFORM_COUNT INFORM_INTENT NEGATE NEGATE_INTENT "
    "NOTIFY_FAILURE NOTIFY_SUCCESS OFFER OFFER_INTENT REQUEST REQUEST_ALTS REQ_MORE SELECT "
    "THANK_YOU"
)


def dialog_acts(row: text.Row) -> tf.Tensor:
    """Return a turn's acts, `OFFER(restaurant_name=Bistro), ...`, after what the user had said."""
    acts = row["dialog_acts"]
    values = tf.strings.reduce_join(acts["values"], axis=-1, separator=" / ")
    filled = tf.where(
        tf.equal(values, ""), acts["slot"], tf.strings.join([acts["slot"], "=", values])
    )
    names = tf.gather(ACTS.split(), acts["act"])
    each = tf.strings.join([names, "(", filled, ")"])
    return text.join(
        tf.strings.reduce_join(each, separator=", "), "service:", row["service"],
        "prompt:", row["prompt"],
    )  # fmt: skip


def _translation(name: str, source: str, target: str, words: str) -> None:
    form = Form(
        functools.partial(write, source=_field(source), target=target),
        prefix=words,
        template=f"{{{source}}}",
        metrics=(metrics.bleu,),
    )
    register(name, form)


def _summary(name: str, source: str, target: str, extra: tuple[str, ...] = ()) -> None:
    form = Form(
        functools.partial(
            write, source=_field(source), target=target, name="summarize", extra=extra
        ),
        prefix=name,
        template=f"summarize: {{{source}}}",
        metrics=_BOTH if name.startswith("gem_") else (metrics.rouge,),
        postprocess=postprocessors.references if extra else None,
    )
    register(name, form)


def _gem(name: str, field: str, source: Source) -> None:
    form = Form(
        functools.partial(write, source=source, name=field, extra=("references",)),
        prefix=name,
        template=f"{field}: {{{field}}}",
        metrics=_BOTH,
        postprocess=postprocessors.references,
    )
    register(f"gem_{name}", form)


_translation("wmt_t2t_ende", "en", "de", "translate English to German:")
_translation("wmt15_enfr", "en", "fr", "translate English to French:")
_translation("wmt16_enro", "en", "ro", "translate English to Romanian:")

_summary("aeslc", "email_body", "subject_line")
_summary("billsum", "text", "summary")
_summary("cnn_dailymail", "article", "highlights")
_summary("gigaword", "document", "summary")
_summary("multi_news", "document", "summary")
_summary("newsroom", "text", "summary")
_summary("samsum", "dialogue", "summary")
_summary("xsum", "document", "summary")
_summary("wiki_lingua", "source", "target", ("references",))
_summary("gem_xsum", "document", "target", ("references",))

_gem("common_gen", "concepts", _list("concepts", ", "))
_gem("dart", "tripleset", _list("tripleset", "; "))
_gem("e2e_nlg", "meaning_representation", _field("meaning_representation"))
_gem("schema_guided_dialog", "dialog_acts", dialog_acts)
_gem("web_nlg", "input", _list("input", "; "))
_gem("wiki_auto", "source", _field("source"))
