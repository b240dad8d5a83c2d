"""Questions about a text: SQuAD, MRQA and DROP in T5's form of SQuAD, and RACE.

T5 sets ASCII punctuation apart in the question, the text and the answers. Without the task's name
these forms are T5's own (SQuAD) and those of Lester et al.'s domain shift (MRQA).
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from spot_jax import metrics
from tasks.papers import postprocessors, text
from tasks.papers.catalogue import BY_NAME
from tasks.papers.forms import Form, register
from tasks.papers.labelled import AUTOTUNE

# From a row to its key, question, text and answers, the target first.
Parts = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]


def write_question(
    dataset: tf.data.Dataset, prefix: str, parts: Callable[[text.Row], Parts], key: str = "id"
) -> tf.data.Dataset:
    """Return `question: ... context: ...` and the first answer; all answers go along."""

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        number, *others = parts(row)
        question, context, golds = (text.pad_punctuation(part) for part in others)
        return {
            "inputs": text.one_space(text.join(prefix, "question:", question, "context:", context)),
            "targets": golds[0],
            key: number,
            "context": context,
            "question": question,
            "answers": golds,
        }

    return dataset.map(example_of, AUTOTUNE)


def _of_squad(row: text.Row) -> Parts:
    return row["id"], row["question"], row["context"], row["answers"]["text"]


def _of_mrqa(row: text.Row) -> Parts:
    return row["qid"], row["question"], row["context"], row["answers"]


def _of_drop(row: text.Row) -> Parts:
    golds = tf.concat([row["answer"][None], row["validated_answers"]], 0)
    return row["query_id"], row["question"], row["passage"], golds


def write_race(dataset: tf.data.Dataset, prefix: str, words: tuple[str, ...]) -> tf.data.Dataset:
    """Return an example for each question of a passage: it, its options by letter, the article."""

    def questions(row: text.Row) -> tf.data.Dataset:
        options = row["options"]
        if isinstance(options, tf.RaggedTensor):
            options = options.to_tensor(shape=(None, len(words)))
        each = {"question": row["questions"], "options": options, "targets": row["answers"]}
        return tf.data.Dataset.from_tensor_slices(each).map(
            lambda asked: {**asked, "article": row["article"]}
        )

    def example_of(row: text.Row) -> dict[str, tf.Tensor]:
        row = {**row, **{name: row["options"][i] for i, name in enumerate(words)}}
        return {
            "inputs": text.fields(row, ("question", *words, "article"), prefix),
            "targets": row["targets"],
        }

    return dataset.flat_map(questions).map(example_of, AUTOTUNE)


_QUESTION = "question: {question} context: {context}"


def _add(
    name: str,
    prefix: str,
    parts: Callable[[text.Row], Parts],
    key: str = "id",
    read: tuple[str, ...] = (),
) -> None:
    register(
        name,
        Form(
            functools.partial(write_question, parts=parts, key=key),
            prefix=prefix,
            template=_QUESTION,
            metrics=(metrics.squad,),
            postprocess=postprocessors.one_of_all,
            read=read,
        ),
    )


_add("squad", "squad", _of_squad)
_add("drop", "drop", _of_drop)
for _name in BY_NAME:
    if _name.startswith("mrqa_"):
        # Decoding the positions of every token, which are not read, would take most of the time.
        fields = ("qid", "question", "context", "answers")
        _add(_name, _name.removeprefix("mrqa_"), _of_mrqa, key="idx", read=fields)
for _level in ("middle", "high"):
    _letters = BY_NAME[f"race_{_level}"].labels
    register(
        f"race_{_level}",
        Form(
            functools.partial(write_race, words=_letters),
            prefix=f"race_{_level}",
            template=" ".join(f"{name}: {{{name}}}" for name in ("question", *_letters, "article")),
        ),
    )
