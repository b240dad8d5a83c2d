"""seqio tasks over FewGLUE in P-Tuning's patterns: `fewglue_boolq_ptuning` and so on, seven sets.

`train` is 32 examples, `validation` P-Tuning's dev32, `test` SuperGLUE's validation split
(`tasks.papers.fewglue_sets`).
"""

import functools

import seqio
import tensorflow as tf

from tasks.papers import fewglue_sets, ptuning
from tasks.papers.catalogue import PTUNING


def _dataset(
    split: str, shuffle_files: bool = False, seed: int | None = None, *, name: str
) -> tf.data.Dataset:
    rows = fewglue_sets.read(name, split)
    if (name, split) == ("wsc", "train"):
        rows = [row for row in rows if row["label"] > 0]
    return tf.data.Dataset.from_generator(lambda: rows, output_signature=_signature(rows[0]))


def _signature(row: fewglue_sets.Row) -> dict[str, object]:
    def of(value: object) -> object:
        if isinstance(value, dict):
            return {key: of(inner) for key, inner in value.items()}
        # Whole numbers as TFDS has them where words are counted by one.
        return tf.TensorSpec((), tf.string if isinstance(value, str) else tf.int32)

    return {key: of(value) for key, value in row.items()}


for _name in fewglue_sets.SETS:
    ptuning.add(
        f"{fewglue_sets.PREFIX}{_name}{PTUNING}",
        f"super_glue_{_name}",
        seqio.FunctionDataSource(
            functools.partial(_dataset, name=_name), splits=tuple(fewglue_sets.STEMS)
        ),
    )
