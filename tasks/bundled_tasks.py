"""seqio tasks over the sets that ship: `bundled_NAME`, `bundled_NAME_16shot`, and mixtures.

`bundled_NAME_16shot_s2` is a second sample, which shares no example with the first.

`bundled_FAMILY` mixes the sets of a family and `bundled_all` mixes them all, both
example-proportionally with an artificial limit of 2^19 examples (SPoT section 2.1.3). The inputs
carry no task name: a prompt says which task it is (Lester et al. 2021, section 3).
"""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from spot_jax import metrics
from spot_jax.data import fields, verbalizers
from tasks.bundled.reading import OTHER_SUFFIX, SHOT_SUFFIX, SHOTS, SPLITS, rows, whole
from tasks.bundled.sets import SETS, BundledSet
from tasks.t5_features import OUTPUT_FEATURES

MAXIMUM = 2**19


def _dataset(
    split: str, shuffle_files: bool = False, seed: int | None = None, *, name: str
) -> tf.data.Dataset:
    """Return the raw fields of a split as a dataset; the file is read here and not before."""
    raw = rows(name, split)
    fields = [*SETS[whole(name)].fields, "label"]
    return tf.data.Dataset.from_tensor_slices(
        {field: tf.constant([row[field] for row in raw]) for field in fields}
    )


@seqio.map_over_dataset
def write_text(
    example: Mapping[str, tf.Tensor], *, fields: tuple[str, ...]
) -> dict[str, tf.Tensor]:
    """Return the example as text: `text: ...`, or `text1: ... text2: ...`, and its label word."""
    parts = [tf.strings.join([f"{field}: ", example[field]]) for field in fields]
    return {"inputs": tf.strings.join(parts, " "), "targets": example["label"], **example}


def _add(item: BundledSet, name: str, sizes: dict[str, int]) -> str:
    """Register one task and return its name."""
    task = f"bundled_{name}"
    seqio.TaskRegistry.add(
        task,
        source=seqio.FunctionDataSource(
            functools.partial(_dataset, name=name), splits=SPLITS, num_input_examples=sizes
        ),
        preprocessors=[
            functools.partial(write_text, fields=item.fields),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features=OUTPUT_FEATURES,
        metric_fns=[getattr(metrics, metric) for metric in item.metrics],
    )
    verbalizers.register(task, item.labels)
    fields.register(task, fields.template_from(item.fields))
    return task


def _mix(name: str, tasks: list[str]) -> None:
    rate = functools.partial(seqio.mixing_rate_num_examples, maximum=MAXIMUM)
    seqio.MixtureRegistry.add(name, tasks, default_rate=rate)


for _item in SETS.values():
    _add(_item, _item.name, _item.sizes)
    for _suffix in (SHOT_SUFFIX, OTHER_SUFFIX):
        _add(_item, _item.name + _suffix, {**_item.sizes, "train": SHOTS * len(_item.labels)})

for _family in sorted({item.family for item in SETS.values()}):
    _mix(f"bundled_{_family}", [f"bundled_{i.name}" for i in SETS.values() if i.family == _family])
_mix("bundled_all", [f"bundled_{name}" for name in SETS])
