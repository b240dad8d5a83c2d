"""seqio tasks over LAMA-TREx's relations: `lama_P17` and so on, and `lama` of all 41.

The input is the relation's template, the subject in its place and T5's first sentinel where the
object belongs; the target is the object, and the first answer counts (P@1).

`lama_P17_ptuning` is P-Tuning's template (Liu et al. 2021, section 3.1): three virtual tokens
first, three before the object and three behind it, the relation's words between them as anchors.
Its answers are restricted to known words (`lama_sets.answers`).
"""

import functools
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from spot_jax import metrics
from spot_jax.data import templates
from spot_jax.data.seqio_templates import write_form
from tasks.papers import lama_sets
from tasks.papers.catalogue import PTUNING
from tasks.papers.registering import add_mixture, add_task

GAP = templates.ANSWER
PLACES = "<prompt:3>"


def _dataset(
    split: str,
    shuffle_files: bool = False,
    seed: int | None = None,
    *,
    relation: str,
    read: Callable[[str, str], list[tuple[str, str]]],
) -> tf.data.Dataset:
    template = lama_sets.template_of(relation)
    subjects, objects = zip(*read(relation, split), strict=True)
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
    return {"inputs": inputs, "targets": example["object"], "subject": example["subject"]}


def form(relation: str, places: str = "") -> str:
    """Return a relation's form: its template with the subject as a field and a gap for the object.

    Args:
        relation: name of the relation, such as "P17".
        places: text of places for virtual tokens, such as "<prompt:3>": it stands first and around
            the object.
    """
    words = lama_sets.template_of(relation).replace("{", "{{").replace("}", "}}")
    if not places:
        return words.replace("[X]", "{subject}").replace("[Y]", GAP)
    text = words.replace("[Y]", f"{places} {{target}} {places}").replace("[X]", "{subject}")
    return templates.parse(f"{places} {text}").form


def write_template(dataset: tf.data.Dataset, name: str, relation: str) -> tf.data.Dataset:
    """Return the facts in P-Tuning's template, and the object."""
    dataset = dataset.map(lambda row: {"targets": row["object"], "subject": row["subject"]})
    return write_form(dataset, name, form(relation, PLACES))


def rate(task: seqio.Task) -> float:
    """Return the number of training facts, counted in the file."""
    return float(len(lama_sets.read(task.name.removeprefix("lama_").split("_")[0], "train")))


def register() -> None:
    """Register two tasks a relation, and their mixtures."""
    for relation in lama_sets.RELATIONS:
        name, splits = lama_sets.name_of(relation), tuple(lama_sets.STEMS)
        source = functools.partial(_dataset, relation=relation)
        add_task(
            name,
            seqio.FunctionDataSource(functools.partial(source, read=lama_sets.read), splits),
            [write_text],
            [metrics.precision_at_1],
            template=functools.partial(form, relation),
        )
        add_task(
            name + PTUNING,
            seqio.FunctionDataSource(functools.partial(source, read=lama_sets.restricted), splits),
            [functools.partial(write_template, name=name + PTUNING, relation=relation)],
            [metrics.precision_at_1],
            labels=functools.partial(lama_sets.answers, relation),
            template=functools.partial(form, relation, PLACES),
        )
    names = [lama_sets.name_of(relation) for relation in lama_sets.RELATIONS]
    add_mixture("lama", names, rate)
    add_mixture("lama" + PTUNING, [name + PTUNING for name in names], rate)


register()
