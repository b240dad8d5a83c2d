"""Tasks in the manner of google-research/prompt-tuning's modules, scored here and by seqio.

Its SuperGLUE tasks with `_examples`, SQuAD and MRQA: what its preprocessors, postprocessors and
metrics do is written anew here. The same predictions must get the same values.
"""

import functools
import re
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")

import tasks  # noqa: E402
from spot_jax.data import loading, seqio_tasks  # noqa: E402
from spot_jax.evaluation.evaluate import measure  # noqa: E402
from spot_jax.metrics import Outputs  # noqa: E402
from spot_jax.t5.vocabulary import EOS, Vocabulary  # noqa: E402
from tasks.t5_features import OUTPUT_FEATURES  # noqa: E402

pytestmark = pytest.mark.slow
LENGTHS = {"inputs": 24, "targets": 6}

# Rows as TFDS has them, and what a model may have written for each.
ROWS = {
    "boolq": [
        (
            {
                "passage": "Cats sleep a lot, most of the day.",
                "question": "do cats sleep",
                "label": 1,
            },
            "True",
        ),
        ({"passage": "It rains in Rome in winter.", "question": "is Rome dry", "label": 0}, "True"),
        ({"passage": "A short one.", "question": "is it long", "label": 0}, "neither"),
    ],
    "cb": [
        ({"premise": "He said it.", "hypothesis": "it was said", "label": 0}, "entailment"),
        ({"premise": "He may come.", "hypothesis": "he comes", "label": 2}, "neutral"),
        ({"premise": "He left.", "hypothesis": "he stayed", "label": 1}, "neutral"),
        ({"premise": "He ate.", "hypothesis": "he fasted", "label": 1}, "nothing of the kind"),
    ],
    "multirc": [
        (
            {
                "paragraph": "Ann has a cat and a dog.",
                "question": "pets?",
                "answer": "a cat",
                "label": 1,
                "q": 1,
            },
            "True",
        ),
        (
            {
                "paragraph": "Ann has a cat and a dog.",
                "question": "pets?",
                "answer": "a fish",
                "label": 0,
                "q": 1,
            },
            "True",
        ),
        (
            {
                "paragraph": "Bob has a bird.",
                "question": "pet?",
                "answer": "a bird",
                "label": 1,
                "q": 2,
            },
            "True",
        ),
    ],
    "wsc": [
        (
            {"text": "Bob gave Tom his *hat* .", "referent": "Bob's hat", "label": 1},
            "the Bob's hat",
        ),
        ({"text": "Ann saw Eve when *she* came .", "referent": "Ann", "label": 0}, "Eve"),
        ({"text": "Ann saw Eve when *she* left .", "referent": "Eve", "label": 0}, "Eve"),
    ],
    "squad": [
        (
            {"question": "who ?", "context": "Ann Lee wrote it .", "answers": ["Ann Lee", "Lee"]},
            "the lee",
        ),
        (
            {
                "question": "what ?",
                "context": "A long book about snow .",
                "answers": ["a book", "a long book"],
            },
            "long snow",
        ),
        ({"question": "when ?", "context": "In 1920 or so .", "answers": ["1920"]}, ""),
    ],
}
WORDS = {
    "boolq": ("False", "True"),
    "cb": ("entailment", "contradiction", "neutral"),
    "multirc": ("False", "True"),
}


def texts(example, fields, words):
    parts = [part for name in fields for part in (f"{name}:", example[name])]
    word = tf.gather(tf.constant(words), example["label"])
    return {**example, "inputs": tf.strings.join(parts, " "), "targets": word}


def of_labels(name, fields):
    return lambda dataset: dataset.map(lambda row: texts(row, fields, WORDS[name]))


def wsc_rows(dataset):
    return dataset.map(lambda row: {**row, "inputs": row["text"], "targets": row["referent"]})


def qa_rows(dataset):
    def qa_row(row):
        inputs = tf.strings.join(["question:", row["question"], "context:", row["context"]], " ")
        return {**row, "inputs": inputs, "targets": row["answers"][0]}

    return dataset.map(qa_row)


def class_number(text, words, example=None, is_target=False):
    return words.index(text) if text in words else -1


def grouped(text, words, example=None, is_target=False):
    value = {"value": class_number(text, words)}
    return {**value, "group": int(example["q"])} if is_target else value


def referent(text, example=None, is_target=False):
    """1 where the words of one text are among the other's: of a prediction by its example."""
    if is_target:
        return int(example["label"])
    answer, target = (
        {w.lower() for w in t.split()} - {"the", "a"}
        for t in (text, example["targets_pretokenized"].decode())
    )
    return int(answer <= target or target <= answer)


def all_answers(text, example=None, is_target=False):
    return [answer.decode() for answer in example["answers"]] if is_target else text


def with_examples(
    postprocess, text, fields=("inputs_pretokenized", "targets_pretokenized"), **more
):
    """A prediction with what it was made of, as `postprocess_with_examples` returns it."""
    if more.get("is_target"):
        return postprocess(text, **more)
    context = {name: more.get("example", {}).get(name) for name in fields}
    return {"prediction": postprocess(text, **more), "prediction_text": text, **context}


def unwrapped(metric, targets, predictions):
    return metric(targets, [p["prediction"] for p in predictions])


def samples(targets, predictions, name):
    lines = [f"{p['inputs_pretokenized'].decode()}: {p['prediction_text']}" for p in predictions]
    wrong = [
        p["prediction_text"]
        for p, t in zip(predictions, targets, strict=True)
        if p["prediction"] != t
    ]
    return {
        f"{name} samples": seqio.metrics.Text("\n".join(lines)),
        f"{name} wrong": seqio.metrics.Text(" ".join(wrong)),
        f"{name} lengths": seqio.metrics.Histogram(np.array([len(line) for line in lines])),
    }


def accuracy(targets, predictions):
    right = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"accuracy": seqio.metrics.Scalar(100 * float(np.mean(right)))}


def all_right(targets, predictions):
    groups = {}
    for target, prediction in zip(targets, predictions, strict=True):
        same = target["value"] == prediction["value"]
        groups.setdefault(target["group"], []).append(same)
    return {"exact_match": np.float64(100 * np.mean([all(each) for each in groups.values()]))}


def overlap(targets, predictions):
    def words(text):
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    def f1(gold, answer):
        common = sum((Counter(gold) & Counter(answer)).values())
        return 2 * common / max(len(gold) + len(answer), 1)

    each = [
        max(f1(words(g), words(p)) for g in golds)
        for golds, p in zip(targets, predictions, strict=True)
    ]
    return {"f1": 100 * float(np.mean(each)), "each": np.array(each)}


FORMS = {
    "boolq": (
        of_labels("boolq", ("passage", "question")),
        functools.partial(class_number, words=WORDS["boolq"]),
        [accuracy],
    ),
    "cb": (
        of_labels("cb", ("premise", "hypothesis")),
        functools.partial(class_number, words=WORDS["cb"]),
        [accuracy],
    ),
    "multirc": (
        of_labels("multirc", ("question", "answer", "paragraph")),
        functools.partial(grouped, words=WORDS["multirc"]),
        [all_right],
    ),
    "wsc": (wsc_rows, referent, [accuracy]),
    "squad": (qa_rows, all_answers, [overlap]),
}


def register(name):
    rows = [row for row, _ in ROWS[name]]
    preprocess, postprocess, metrics = FORMS[name]

    def dataset(split, shuffle_files=False, seed=None):
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        columns = {
            k: tf.ragged.constant(v) if isinstance(v[0], list) else tf.constant(v)
            for k, v in columns.items()
        }
        return tf.data.Dataset.from_tensor_slices(columns)

    task = f"examples_{name}"
    if task in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(task)
    seqio.TaskRegistry.add(
        task,
        source=seqio.FunctionDataSource(dataset, splits=["validation"]),
        preprocessors=[
            preprocess,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        postprocess_fn=functools.partial(with_examples, postprocess),
        metric_fns=[
            *(functools.partial(unwrapped, metric) for metric in metrics),
            functools.partial(samples, name=name),
        ],
        output_features=OUTPUT_FEATURES,
    )
    return task


@pytest.fixture(scope="module")
def t5():
    return Vocabulary(Path(tasks.__file__).parent / "t5_spiece.model")


@pytest.mark.parametrize("name", ROWS)
def test_the_same_predictions_have_the_values_of_seqios_evaluator(name, t5):
    task, answers = register(name), [answer for _, answer in ROWS[name]]
    evaluator = seqio.Evaluator(
        task,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length=LENGTHS,
    )
    ids = [[*t5.encode(answer), EOS] for answer in answers]
    rows = [row + [0] * (max(map(len, ids)) - len(row)) for row in ids]
    expected = evaluator.evaluate(
        compute_metrics=True, predict_fn=lambda dataset: list(enumerate(rows))
    )[0].result()[task]
    expected = {
        key: next(iter(vars(value).values()))
        if isinstance(value, seqio.metrics.MetricValue)
        else value
        for key, value in expected.items()
    }

    loaded = loading.load_evaluation(task, "validation", t5, lengths=LENGTHS)
    outputs = Outputs([t5.decode(row) for row in rows])
    (metrics,) = loaded.metrics
    values = metrics.of_outputs(loaded.targets, outputs)
    assert values.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_equal(values[key], value, err_msg=key)
    numbers = measure(loaded.metrics, loaded.targets, outputs)
    assert set(numbers) == {"accuracy", "exact_match", "f1"} & set(values)
    assert all(0 < value < 100 for value in numbers.values())
    assert seqio_tasks.keeps_eos(task)
