"""seqio tasks and mixtures over CrossFit's 120 few-shot tasks (`tasks.papers.crossfit_sets`).

`crossfit_TASK` is the sample that IPT trains on, `crossfit_TASK_sSEED` are the four others. The
text begins with the task's name in brackets, as it does in CrossFit and for all of IPT's settings.
Mixtures `crossfit_SPLIT_PART` are IPT's: their tasks are weighted by the number of examples, as
where all are pooled.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from spot_jax import metrics
from spot_jax.metrics import Metric
from tasks.papers import crossfit_sets
from tasks.papers.crossfit_sets import FewShotTask, gym
from tasks.papers.registering import add_mixture, add_task

METRICS: Mapping[str, Metric] = {
    "ACC": metrics.accuracy_without_case,
    "Classification-F1": metrics.macro_f1_of_outputs,
    "EM": metrics.exact_match,
    "Matthew-Correlation": metrics.matthews_corrcoef_of("acceptable"),
    "QA-F1": metrics.word_f1,
    "Rouge-L": metrics.rouge_l,
}


def _dataset(
    split: str,
    shuffle_files: bool = False,
    seed: int | None = None,
    *,
    task: FewShotTask,
    sample: int,
) -> tf.data.Dataset:
    examples = crossfit_sets.read(task, sample, split)
    spec = {"text": tf.TensorSpec((), tf.string), "answers": tf.TensorSpec((None,), tf.string)}
    return tf.data.Dataset.from_generator(
        lambda: ({"text": text, "answers": list(answers)} for text, answers in examples),
        output_signature=spec,
    )


@seqio.map_over_dataset
def write_text(example: Mapping[str, tf.Tensor], *, title: str) -> dict[str, tf.Tensor]:
    """Return the example as text: `[TASK] ` and the input, and the first of its answers."""
    return {
        "inputs": tf.strings.join([f"[{title}] ", example["text"]]),
        "targets": example["answers"][0],
        "answers": example["answers"],
    }


def answers_of(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """Return all right answers of a target, and a prediction as it is."""
    if not is_target or not example:
        return text
    return [answer.decode("utf-8") for answer in example["answers"]]


def _add(task: FewShotTask, sample: int) -> str:
    read: Callable[..., tf.data.Dataset] = functools.partial(_dataset, task=task, sample=sample)
    return add_task(
        task.sampled(sample),
        seqio.FunctionDataSource(read, splits=tuple(crossfit_sets.STEMS)),
        [functools.partial(write_text, title=task.title)],
        [METRICS[task.metric]],
        postprocess_fn=answers_of,
        template=f"[{task.title}] {{text}}",
    )


def rate(task: seqio.Task, *, sizes: Mapping[str, tuple[FewShotTask, int]]) -> float:
    """Return the number of training examples, counted in the file: it is a few dozen lines."""
    return float(len(crossfit_sets.read(*sizes[task.name], "train")))


def register() -> None:
    """Register all samples of all tasks, and IPT's mixtures of them."""
    catalogue = gym()
    for task in catalogue.tasks.values():
        for sample in catalogue.samples:
            _add(task, sample)
    firsts = {task.name: (task, crossfit_sets.FIRST) for task in catalogue.tasks.values()}
    for split, parts in catalogue.splits.items():
        for part, titles in parts.items():
            names = [catalogue.tasks[title].name for title in titles]
            add_mixture(f"crossfit_{split}_{part}", names, functools.partial(rate, sizes=firsts))


register()
