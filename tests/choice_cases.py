"""A task whose examples have answers of their own to choose among."""

import seqio
import tensorflow as tf

from spot_jax.metrics import accuracy
from spot_jax.t5.vocabulary import Vocabulary

VOCABULARY = Vocabulary("tasks/mini_spiece.model")
ROWS = [
    ("the water froze because", ["it was cold", "it was late"], 0),
    ("he ran because", ["he was slow", "the bus was about to leave", "night fell"], 1),
    ("she slept because", ["she was tired", "a dog barked"], 0),
]


def register(name, rows):
    def source(split, shuffle_files, seed=None):
        def examples():
            for text, choices, right in rows:
                yield {"inputs": text, "targets": choices[right], "choices": choices}

        signature = {
            "inputs": tf.TensorSpec([], tf.string),
            "targets": tf.TensorSpec([], tf.string),
            "choices": tf.TensorSpec([None], tf.string),
        }
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(source, splits=["train", "validation"]),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={
                f: seqio.Feature(seqio.SentencePieceVocabulary(str(VOCABULARY.path)))
                for f in ("inputs", "targets")
            },
            metric_fns=[accuracy],
        )
    return name
