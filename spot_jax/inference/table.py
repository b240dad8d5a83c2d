"""Scores as a small table for people."""

from collections.abc import Sequence
from pathlib import PurePath

from spot_jax.files import aligned
from spot_jax.inference.scores import Score


def table(scores: Sequence[Score]) -> str:
    """Return a line a score, aligned; then majority classes and what was cut, if anything was."""
    names = list(dict.fromkeys(name for score in scores for name in score.metrics))
    head = ["task", "split", "prompt", "examples", *names, "loss"]
    rows = [head]
    for i, score in enumerate(scores):
        values = [score.metrics.get(name) for name in names]
        rows.append(
            [_title(score.task), score.split, score.prompt, str(score.examples)]
            + [_number(value, 2) for value in values]
            + [_number(score.loss, 4)]
        )
        last = i + 1 == len(scores) or scores[i + 1].task != score.task
        if last and score.majority is not None and "accuracy" in names:
            values = [score.majority if name == "accuracy" else None for name in names]
            rows.append(
                [_title(score.task), score.split, "majority class", ""]
                + [_number(value, 2) for value in values]
                + [""]
            )
    return "\n".join([*aligned(rows, left=(0, 1, 2)), *_cut(scores)])


def _title(task: str) -> str:
    """The name of a task; of a file of rows only its own, without what it says of the columns."""
    return PurePath(task.partition("?")[0]).name


def _cut(scores: Sequence[Score]) -> list[str]:
    by_task = {score.task: score for score in scores}
    return [
        f"{count} of {s.examples} {side} of {name} were longer than the lengths allow, and cut"
        for name, s in ((_title(task), s) for task, s in by_task.items())
        for side, count in (("inputs", s.truncated_inputs), ("targets", s.truncated_targets))
        if count
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
