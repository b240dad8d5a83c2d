"""seqio tasks over the sets of `tasks.papers.rows_files`: `NAME`, and `NAME_no_prefix`.

The form is T5's: each field after its name, the task's name in front (SPoT) or not (Lester).
"""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from spot_jax import metrics
from spot_jax.metrics import Metric
from tasks.papers import data_files
from tasks.papers.catalogue import NO_PREFIX
from tasks.papers.data_set import DataSet
from tasks.papers.registering import add_task
from tasks.papers.rows_files import FILE_SETS, LAYOUTS

# What a column is called in the text, where it is not its own name.
WRITTEN = {
    "obs1": "observation1",
    "obs2": "observation2",
    "hyp1": "hypothesis1",
    "hyp2": "hypothesis2",
}
METRICS: Mapping[str, Metric] = {
    "accuracy": metrics.accuracy,
    "pearson_corrcoef": metrics.pearson_corrcoef,
    "spearman_corrcoef": metrics.spearman_corrcoef,
}


def _dataset(
    split: str, shuffle_files: bool = False, seed: int | None = None, *, name: str
) -> tf.data.Dataset:
    """Return the raw columns of a split; the file is read here and not before."""
    layout = LAYOUTS[name]
    examples = data_files.read(layout, split)
    return tf.data.Dataset.from_tensor_slices(
        {column: tf.constant([row[column] for row in examples]) for column in layout.columns}
    )


@seqio.map_over_dataset
def write_text(
    example: Mapping[str, tf.Tensor], *, item: DataSet, prefix: str
) -> dict[str, tf.Tensor]:
    """Return the example as text: the prefix, each field after its name; and the label word."""
    layout = LAYOUTS[item.name]
    parts = [tf.strings.join([f"{_written(field)}: ", example[field]]) for field in layout.fields]
    inputs = tf.strings.join([prefix, tf.strings.join(parts, " ")])
    target = example[layout.target]
    if layout.bounds is not None:
        # As T5 writes STS-B's scores: rounded to 0.2, with one digit.
        rounded = tf.round(tf.strings.to_number(target) * 5) / 5
        return {"inputs": inputs, "targets": tf.strings.as_string(rounded, precision=1)}
    which = tf.argmax(tf.equal(tf.constant(layout.labels), target), output_type=tf.int32)
    return {"inputs": inputs, "targets": tf.constant(item.labels)[which]}


def _written(field: str) -> str:
    return WRITTEN.get(field, field)


def _add(item: DataSet, suffix: str) -> str:
    layout = LAYOUTS[item.name]
    prefix = "" if suffix else f"{item.name} "
    sizes = {split: item.sizes[split] for split in layout.splits if split in item.sizes}
    return add_task(
        item.name + suffix,
        seqio.FunctionDataSource(
            functools.partial(_dataset, name=item.name),
            splits=layout.splits,
            num_input_examples={split: sizes.get(split) for split in layout.splits},
        ),
        [functools.partial(write_text, item=item, prefix=prefix)],
        [METRICS[name] for name in item.metrics],
        labels=item.labels,
        template=prefix + " ".join(f"{_written(f)}: {{{f}}}" for f in layout.fields),
    )


def register() -> None:
    """Register every set, with its name in the text and without."""
    for item in FILE_SETS:
        for suffix in ("", NO_PREFIX):
            _add(item, suffix)


register()
