"""RAINBOW's sets in TFDS: the choices by name, and the name of the right one as in T5's COPA."""

import tensorflow as tf

from tasks.papers import text
from tasks.papers.catalogue import BY_NAME
from tasks.papers.labelled import AUTOTUNE, add, write


def write_hellaswag(
    dataset: tf.data.Dataset, prefix: str, words: tuple[str, ...]
) -> tf.data.Dataset:
    """Return a context and its endings by name."""

    def spread(row: text.Row) -> dict[str, tf.Tensor]:
        endings = {name: row["endings"][number] for number, name in enumerate(words)}
        return {"context": row["context"], "label": row["label"], **endings}

    return write(dataset.map(spread, AUTOTUNE), prefix, ("context", *words), words)


def _choices(name: str) -> tuple[str, ...]:
    return BY_NAME[name].labels


add("cosmos_qa", ("question", *_choices("cosmos_qa"), "context"))
add("hellaswag", ("context", *_choices("hellaswag")), write=write_hellaswag)
add("piqa", ("goal", *_choices("piqa")))
add("winogrande", (*_choices("winogrande"), "sentence"))
