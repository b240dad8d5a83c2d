"""What any model must beat: the commonest label, no prompt, and a linear SVM on TF-IDF."""

import collections
import time

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from bench.methods.results import Cell
from bench.methods.tasks import DECODING, MODULES, Bench, Task, texts
from spot_jax.data import loading
from spot_jax.inference.scores import score
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.running import bare

COSTS = (0.1, 0.3, 1.0, 3.0, 10.0)


def majority(bench: Bench, task: Task) -> Cell:
    """Return the cell of always answering the commonest label of the training split."""
    start = time.monotonic()
    label = collections.Counter(texts(task.name, "train")[1]).most_common(1)[0][0]
    _, labels = texts(task.name, "test")
    labels = labels[: bench.test]
    accuracy = 100 * labels.count(label) / len(labels)
    return Cell(
        task.name,
        "majority",
        (accuracy,),
        len(labels),
        chosen={"label": label},
        whole_seconds=time.monotonic() - start,
    )


def no_prompt(bench: Bench, task: Task) -> Cell:
    """Return the bare backbone on the text: nothing is trained, read and decoded as with a
    prompt."""
    start = time.monotonic()
    loading.import_modules(MODULES)
    (scored,) = score(
        bare(bench.stored()),
        split="test",
        tasks=[task.task],
        decoding=DECODING,
        batch_size=bench.evaluation_rows,
        lengths={"inputs": task.inputs, "targets": task.targets},
        examples=bench.test,
    )
    return Cell(
        task.name,
        NO_PROMPT,
        (round(scored.metrics["accuracy"], 2),),
        scored.examples,
        whole_seconds=round(time.monotonic() - start, 1),
    )


def svm(bench: Bench, task: Task) -> Cell:
    """Return the cell of a linear SVM a label on TF-IDF of words and pairs of words.

    C is chosen on validation.

    It reads whole texts, and the whole validation split; the fields of a pair are joined. There is
    no chance in it.
    """
    start = time.monotonic()
    read = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features = {"train": read.fit_transform(texts(task.name, "train")[0])}
    for split in ("validation", "test"):
        features[split] = read.transform(texts(task.name, split)[0])
    fitted, tried = {}, []
    for cost in COSTS:
        began = time.monotonic()
        model = LinearSVC(C=cost, random_state=0).fit(
            features["train"], texts(task.name, "train")[1]
        )
        right = model.score(features["validation"], texts(task.name, "validation")[1])
        fitted[cost] = model, time.monotonic() - began
        tried.append({"C": cost, "validation": round(100 * right, 2)})
    chosen = max(tried, key=lambda trial: trial["validation"])
    model, seconds = fitted[chosen["C"]]
    labels = texts(task.name, "test")[1][: bench.test]
    accuracy = 100 * model.score(features["test"][: len(labels)], labels)
    return Cell(
        task.name,
        "svm",
        (round(accuracy, 2),),
        len(labels),
        trainable=model.coef_.size + model.intercept_.size,
        seconds=round(seconds, 2),
        chosen={"C": chosen["C"]},
        tried=tuple(tried),
        whole_seconds=time.monotonic() - start,
    )
