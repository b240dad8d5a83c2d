"""seqio tasks over LAMA-TREx's relations: `lama_P17` and so on, and `lama` of all 41.

The input is the relation's template, the subject in its place and T5's first sentinel where the
object belongs; the target is the object, and the first answer counts (P@1). P-Tuning's virtual
tokens come in the template's place or beside it: that is the method's affair.
"""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from spot_jax.evaluation import metrics
from tasks.papers import lama_sets
from tasks.papers.registering import add_mixture, add_task

GAP = "<extra_id_0>"


def _dataset(
    split: str, shuffle_files: bool = False, seed: int | None = None, *, relation: str
) -> tf.data.Dataset:
    template = lama_sets.template_of(relation)
    subjects, objects = zip(*lama_sets.read(relation, split), strict=True)
    columns = {"subject": subjects, "object": objects, "template": [template] * len(subjects)}
    return tf.data.Dataset.from_tensor_slices(
        {name: tf.constant(column, tf.string) for name, column in columns.items()}
    )


@seqio.map_over_dataset
def write_text(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return the template with the subject and a gap, and the object."""
    before = tf.strings.regex_replace(example["template"], r"\[Y\]", GAP)
    # A subject may hold what a replacement text would take for a group.
    sides = tf.strings.split(before, "[X]")
    inputs = tf.strings.join([sides[0], example["subject"], sides[1]])
    return {"inputs": inputs, "targets": example["object"]}


def rate(task: seqio.Task) -> float:
    """Return the number of training facts, counted in the file."""
    return float(len(lama_sets.read(task.name.removeprefix("lama_"), "train")))


def register() -> None:
    """Register a task a relation and their mixture."""
    for relation in lama_sets.RELATIONS:
        add_task(
            lama_sets.name_of(relation),
            seqio.FunctionDataSource(
                functools.partial(_dataset, relation=relation), splits=tuple(lama_sets.STEMS)
            ),
            [write_text],
            [metrics.precision_at_1],
        )
    add_mixture("lama", [lama_sets.name_of(r) for r in lama_sets.RELATIONS], rate)


register()
