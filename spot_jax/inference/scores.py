"""Scores of prompts on splits of tasks: each alone, and as an ensemble."""

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from spot_jax.data.batches import BatchShape, truncated
from spot_jax.errors import SpotError
from spot_jax.evaluation.ensemble import evaluate_ensemble
from spot_jax.evaluation.evaluate import evaluate
from spot_jax.evaluation.scored_task import ScoredTask, load_tasks, score_of
from spot_jax.files import write_whole
from spot_jax.inference.predictor import DEFAULT_LENGTHS, DEFAULT_ROWS
from spot_jax.inference.tuned import Prompt, Tuned
from spot_jax.metrics import accuracy


@dataclasses.dataclass(frozen=True)
class Score:
    """Score of a prompt, or of a vote of several, on a split.

    Attributes:
        task: name of the task.
        split: split of the task.
        prompt: path of the prompt file, "no prompt", or "vote of N".
        examples: number of examples in the split.
        metrics: values of the task's metrics.
        loss: mean cross-entropy of the target tokens.
        score: number that checkpoints are chosen by.
        truncated_inputs: number of examples whose inputs were cut.
        majority: accuracy of always answering the split's most frequent label; None without labels.
        predictions: a text an example; empty where only the loss counts.
        targets: values that the predictions are compared with.
        inputs: texts of the examples.
        truncated_targets: number of examples whose targets were cut, of which the loss sees less.
    """

    task: str
    split: str
    prompt: str
    examples: int
    metrics: dict[str, float]
    loss: float | None
    score: float
    truncated_inputs: int
    majority: float | None
    predictions: list[str]
    targets: list[Any]
    inputs: list[str]
    truncated_targets: int = 0

    def summary(self) -> dict[str, Any]:
        """Return everything but the examples, in JSON's types."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in fields.items() if k not in ("predictions", "targets", "inputs")}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a JSON object an example, for a file of predictions."""
        for text, target, prediction in zip(
            self.inputs, self.targets, self.predictions, strict=True
        ):
            plain = target if isinstance(target, str | int | float | None) else repr(target)
            row = {"task": self.task, "split": self.split, "prompt": self.prompt, "inputs": text}
            yield {**row, "target": plain, "prediction": prediction}


def score(
    tuned: Tuned,
    *,
    split: str = "test",
    tasks: Sequence[str] = (),
    ensemble: bool = False,
    decoding: str = "auto",
    beams: int = 4,
    batch_size: int | None = None,
    lengths: Mapping[str, int] | None = None,
    examples: int | None = None,
) -> list[Score]:
    """Score every prompt on its task, and a prompt of a mixture on each of its tasks.

    Args:
        tuned: backbone and prompts.
        split: split of the tasks.
        tasks: names of tasks, instead of those that the prompts were tuned on. Of a
            run's prompts those tuned on a task are scored on it, or all where none was; prompt
            files that were named are scored on every task.
        ensemble: whether all prompts of a task vote too (Lester 2021, section 6).
        decoding: see `scored_task.load_task`.
        beams: number of beams of "beam".
        batch_size: rows; the run's by default.
        lengths: tokens of text of inputs and targets; the run's by default, and without a run
            the longest example's, at most 512 and 32.
        examples: number of examples, the first of the split; all by default.

    Raises:
        SpotError: modules of a run without leave (`open_tuned`), no task, an unknown task or
            split, a target outside the labels, or an ensemble of one.
    """
    setup = tuned.setup
    tuned.register_tasks()
    fitted = setup is None and not lengths
    rows = batch_size or (setup.batch_size if setup else DEFAULT_ROWS)
    all_lengths = {**(setup.lengths if setup else DEFAULT_LENGTHS), **(lengths or {})}
    scores = []
    for name, prompts in _jobs(tuned, tasks):
        if ensemble and len(prompts) < 2:
            raise SpotError(
                f"an ensemble needs at least two prompts for {name}, found {len(prompts)}; "
                "add --prompt FILE"
            )
        scored_tasks = load_tasks(
            name,
            split,
            tuned.vocabulary,
            lengths=all_lengths,
            decoding=decoding,
            beams=beams,
            limit=examples,
        )
        for task in scored_tasks:
            task.examples.check_ids(tuned.backbone.config.vocab_size, task.name)
            if ensemble and not task.metrics:
                raise SpotError(f"{task.name} has no answers to vote on; leave --ensemble out")
            shape = BatchShape(rows, *_lengths(task, all_lengths, fitted=fitted))
            if ensemble:
                scores += _vote(tuned, task, prompts, shape)
            else:
                scores += [_alone(tuned, task, prompt, shape) for prompt in prompts]
    return scores


def write_predictions(path: epath.PathLike, scores: Sequence[Score]) -> None:
    """Write every example's prediction, one JSON object a line, in one move."""
    rows = (row for score in scores for row in score.rows())
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _jobs(tuned: Tuned, tasks: Sequence[str]) -> Iterator[tuple[str, list[Prompt]]]:
    setup, prompts = tuned.setup, list(tuned.prompts)
    if setup is None:
        names = [prompt.task for prompt in prompts]
    elif tuned.from_run and len(prompts) == len(setup.tasks):
        names = [facts.name for facts in setup.tasks]
    else:
        tasks = tasks or list(dict.fromkeys(facts.name for facts in setup.tasks))
        names = [""] * len(prompts)
    if not tasks and not all(names):
        raise SpotError(
            "a prompt file that does not say its task needs one; add --task NAME"
            if any(prompt.file for prompt in prompts)
            else "the backbone alone needs a task to be scored on; add --task NAME"
        )
    by_task: dict[str, list[Prompt]] = collections.defaultdict(list)
    for prompt, name in zip(prompts, names, strict=True):
        by_task[name].append(prompt)
    for name in tasks or by_task:
        if tuned.from_run:
            yield name, by_task.get(name, prompts)
        else:
            yield name, prompts if tasks else by_task[name]


def _lengths(task: ScoredTask, limits: Mapping[str, int], *, fitted: bool) -> tuple[int, int]:
    if not fitted:
        return limits["inputs"], limits["targets"]
    inputs, targets = task.examples.longest()
    return min(inputs, limits["inputs"]), min(targets, limits["targets"])


def _alone(tuned: Tuned, task: ScoredTask, prompt: Prompt, shape: BatchShape) -> Score:
    batches, place = tuned.batches(task.examples, shape, prompt, candidates=task.candidates)
    inference = tuned.inference(prompt)
    result = evaluate(
        inference.params,
        tuned.backbone.config,
        batches,
        tuned.vocabulary,
        task.targets or [""] * len(task.examples),
        task.metrics,
        table=inference.table,
        search=task.search,
        scorer=inference.scorer,
        place=place,
        choices=task.choices,
    )
    cut = truncated(task.examples, shape, tuned.writer(prompt))
    return _score(tuned, task, cut, prompt.name, result.metrics, result.loss, result.predictions)


def _vote(
    tuned: Tuned, task: ScoredTask, prompts: Sequence[Prompt], shape: BatchShape
) -> list[Score]:
    """Return the members' scores, and that of their vote; ties go to the best by validation."""
    prompts = sorted(prompts, key=lambda prompt: -prompt.score)
    inference = tuned.ensemble(prompts, shape.batch_size)
    batches, place = tuned.batches(task.examples, shape, prompts[0], len(prompts), task.candidates)
    result = evaluate_ensemble(
        inference.params,
        tuned.backbone.config,
        batches,
        tuned.vocabulary,
        task.targets,
        task.metrics,
        table=inference.table,
        members=len(prompts),
        search=task.search,
        place=place,
        choices=task.choices,
    )
    members = zip(prompts, result.members, result.member_predictions, strict=True)
    rows = [(prompt.name, metrics, texts) for prompt, metrics, texts in members]
    rows.append((f"vote of {len(prompts)}", result.metrics, result.predictions))
    cut = truncated(task.examples, shape, tuned.writer(prompts[0]))
    # One pass knows one loss, the mean over the members'.
    losses = [None] * len(prompts) + [result.loss]
    return [
        _score(tuned, task, cut, name, metrics, loss, texts)
        for (name, metrics, texts), loss in zip(rows, losses, strict=True)
    ]


def _score(
    tuned: Tuned,
    task: ScoredTask,
    cut: tuple[int, int],
    prompt: str,
    metrics: dict[str, float],
    loss: float | None,
    predictions: list[str],
) -> Score:
    choice = tuned.setup.metric if tuned.setup else None
    return Score(
        task=task.name,
        split=task.split,
        prompt=prompt,
        examples=len(task.examples),
        metrics=metrics,
        loss=loss,
        score=score_of(task.name, metrics, loss, choice if choice in metrics else None),
        truncated_inputs=cut[0],
        truncated_targets=cut[1],
        majority=_majority(task),
        predictions=predictions if task.metrics else [],
        targets=task.targets,
        inputs=[tuned.vocabulary.decode(ids.tolist()) for ids, _ in task.examples]
        if task.metrics
        else [],
    )


def _majority(task: ScoredTask) -> float | None:
    if not task.labels or not all(isinstance(target, str) for target in task.targets):
        return None
    most = collections.Counter(task.targets).most_common(1)[0][0]
    return accuracy(task.targets, [most] * len(task.targets))["accuracy"]
