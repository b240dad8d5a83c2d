"""P-Tuning's patterns of SuperGLUE as tasks, `NAME_ptuning` (Liu et al. 2021; PT-Fewshot's code).

Each is a template (`spot_jax.data.templates`) with the places of virtual tokens that the authors'
code has, its letter case and marks, and with a text as the field that is cut where an example is
too long.
"""

import dataclasses
import functools

import seqio
import tensorflow as tf

from spot_jax import metrics
from spot_jax.data.seqio_templates import fill
from spot_jax.data.templates import parse
from spot_jax.metrics import Metric
from tasks.papers import postprocessors, text
from tasks.papers.catalogue import BY_NAME, PTUNING
from tasks.papers.labelled import AUTOTUNE
from tasks.papers.registering import add_task
from tasks.papers.super_glue import KEEP_TRUE, mark_pronoun
from tasks.papers.tfds_source import TfdsSource

_YES_NO = {"True": "Yes", "False": "No", "entailment": "Yes", "not_entailment": "No"}
_MAYBE = {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"}


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A pattern and the words that stand for its set's labels.

    Attributes:
        text: a template.
        words: from label to the word that is written; empty where the answer is a text.
    """

    text: str
    words: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def form(self) -> str:
        """The template with T5's sentinels."""
        return parse(self.text).form


# The code encodes each part by itself, so that marks stand apart as they do here. T5 has no [SEP],
# which stands between the two texts of CB and WiC there: a space here.
PATTERNS = {
    "super_glue_boolq": Pattern(
        "{passage} . <prompt:1> Question: {question} ? Answer: {target} .", _YES_NO
    ),
    "super_glue_cb": Pattern("{premise} {hypothesis} ? <prompt:1> answer: {target}", _MAYBE),
    "super_glue_copa": Pattern(
        "{choice1} or {choice2} ? {premise:cut} {joint} <prompt:1> {target} ."
    ),
    "super_glue_multirc": Pattern(
        "{paragraph} . Question: {question} ? Is it {answer} ? <prompt:1> {target} .", _YES_NO
    ),
    "super_glue_rte": Pattern(
        "{premise} Question: {hypothesis} ? <prompt:1> Answer: {target} .", _YES_NO
    ),
    "super_glue_wic": Pattern("{sentence1} {sentence2} <prompt:1> *{word} *? {target}", _YES_NO),
    "super_glue_wsc": Pattern("{marked} <prompt:1> pronoun '* {span2_text} *' refers to {target}."),
}


def write(dataset: tf.data.Dataset, name: str) -> tf.data.Dataset:
    """Return the filled pattern of a set, its answer, and what its metrics need besides."""
    pattern, labels = PATTERNS[name], BY_NAME[name].labels

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        row, target, extra = dict(row), None, {}
        if name == "super_glue_rte":
            row["hypothesis"] = text.without_final_punctuation(row["hypothesis"])
        elif name == "super_glue_copa":
            row["premise"] = text.without_final_punctuation(row["premise"])
            for choice in ("choice1", "choice2"):
                lowered = text.with_lower_first(row[choice])
                row[choice] = text.without_final_punctuation(lowered)
            row["joint"] = tf.where(tf.equal(row["question"], "cause"), "because", "so")
            target = text.word(row["label"], labels)
            target = tf.where(tf.equal(target, labels[0]), row["choice1"], row["choice2"])
            extra = {"choices": tf.stack([row["choice1"], row["choice2"]])}
        elif name == "super_glue_wsc":
            row["marked"] = mark_pronoun(row)
            target, extra = row["span1_text"], {"label": row["label"]}
        elif name == "super_glue_multirc":
            extra = {"idx/question": row["idx"]["question"]}
            for field in ("paragraph", "question", "answer"):
                row[field] = text.without_html(row[field])
        if target is None:
            target = text.word(row["label"], tuple(pattern.words[label] for label in labels))
        return {"inputs": fill(row, pattern.form), "targets": target, **extra}

    return dataset.map(example_of, AUTOTUNE)


def _metrics(name: str) -> tuple[Metric, ...]:
    if name == "super_glue_cb":
        return (metrics.mean_multiclass_f1(tuple(_MAYBE.values())), metrics.accuracy)
    if name == "super_glue_multirc":
        return (metrics.multirc("Yes", "No"),)
    return (metrics.wsc if name == "super_glue_wsc" else metrics.accuracy,)


_POSTPROCESS = {
    "super_glue_multirc": postprocessors.multirc,
    "super_glue_wsc": postprocessors.wsc,
}


def add(task: str, name: str, source: seqio.DataSource) -> str:
    """Register a set's pattern over a source of its rows, and return the task's name."""
    pattern, labels = PATTERNS[name], BY_NAME[name].labels
    return add_task(
        task,
        source,
        [functools.partial(write, name=name)],
        _metrics(name),
        labels=tuple(pattern.words[label] for label in labels) if pattern.words else (),
        postprocess_fn=_POSTPROCESS.get(name),
        template=pattern.form,
    )


for _name in PATTERNS:
    _keep = KEEP_TRUE if _name == "super_glue_wsc" else None
    add(_name + PTUNING, _name, TfdsSource(BY_NAME[_name], _keep))
