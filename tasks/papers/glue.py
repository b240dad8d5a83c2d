"""GLUE in T5's forms (Raffel et al. 2020, appendix D): fields in the order of their names."""

import tensorflow as tf

from spot_jax import metrics
from spot_jax.data import fields
from tasks.papers import text
from tasks.papers.forms import Form, register
from tasks.papers.labelled import AUTOTUNE, add

_SENTENCES = ("sentence1", "sentence2")
_FIELDS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": _SENTENCES,
    "qqp": ("question1", "question2"),
    "mnli": ("hypothesis", "premise"),
    "mnli_mismatched": ("hypothesis", "premise"),
    "qnli": ("question", "sentence"),
    "rte": _SENTENCES,
    "wnli": _SENTENCES,
}
_METRICS = {
    "cola": (metrics.matthews_corrcoef,),
    "mrpc": (metrics.f1("equivalent", "not_equivalent"), metrics.accuracy),
    "qqp": (metrics.f1("duplicate", "not_duplicate"), metrics.accuracy),
}


def write_stsb(dataset: tf.data.Dataset, prefix: str) -> tf.data.Dataset:
    """Return STS-B's pairs with their score as text, rounded to the nearest 0.2."""

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        return {
            "inputs": text.fields(row, _SENTENCES, prefix),
            "targets": tf.strings.as_string(tf.round(row["label"] * 5) / 5, precision=1),
            "idx": row["idx"],
        }

    return dataset.map(example_of, AUTOTUNE)


for _name, _fields in _FIELDS.items():
    add(
        f"glue_{_name}",
        _fields,
        prefix=_name.removesuffix("_mismatched"),
        metrics=_METRICS.get(_name, (metrics.accuracy,)),
        extra=("idx",),
    )
register(
    "glue_stsb",
    Form(
        write_stsb,
        prefix="stsb",
        template=fields.template_from(_SENTENCES),
        metrics=(metrics.pearson_corrcoef, metrics.spearman_corrcoef),
    ),
)
