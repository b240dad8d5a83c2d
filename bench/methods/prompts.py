"""A method with prompts on a task: every seed, at the settings that validation chose.

Settings are chosen on one set, `SETTINGS_FROM`, with the first seed: each recipe of that grid is
one program, whose prompts differ in learning rate. The seeds at the end are one program too.
Everything is `spot_jax.training.run.train` and `spot_jax.inference.scores`.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.methods.results import Cell, MethodResults
from bench.methods.tasks import DECODING, SETTINGS_FROM, Bench, Task
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.base import BaseMethod
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.optimizers import Adafactor, AdamW
from spot_jax.training.run import TrainResult
from spot_jax.transfer.tuning import finish_training

FINAL = "final"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings of a method that are tried.

    Attributes:
        method: method to tune with.
        room: virtual tokens of an example, where several share a row; None where none does.
    """

    method: BaseMethod
    room: int | None = None


@dataclasses.dataclass(frozen=True)
class Way:
    """How a method tunes prompts, and what is tried.

    Attributes:
        candidates: methods to try, by what tells them apart, such as "P = 20".
        rates: learning rates to try.
        steps: number of updates.
        examples: examples of a step of each prompt; fewer where texts are long.
        optimizer: optimizer, whose learning rate is replaced by each of `rates`.
        evaluations: number of evaluations of each run; the best checkpoint is kept.
        dropout_rate: rate of dropout in training.
    """

    candidates: Mapping[str, Candidate]
    rates: tuple[float, ...]
    steps: int
    examples: int = 16
    optimizer: Adafactor | AdamW = Adafactor()
    evaluations: int = 3
    dropout_rate: float = 0.0


def tuned(
    bench: Bench, task: Task, method: str, way: Way, results: MethodResults | None = None
) -> Cell:
    """Return the cell of a method with prompts.

    Args:
        bench: settings that all cells share.
        task: set to tune on.
        method: name of the method.
        way: settings to try; where they are more than one, the grid is run on the set that
            settings are chosen on, and the others take the best of it.
        results: finished cells; None to run the grid on this set.

    Raises:
        SpotError: settings are not chosen yet.
    """
    start = time.monotonic()
    tried: list[dict[str, Any]] = []
    best: Mapping[str, Any] = {"recipe": next(iter(way.candidates)), "rate": way.rates[0]}
    if len(way.candidates) * len(way.rates) > 1:
        if results is None or task.name == SETTINGS_FROM:
            for name in way.candidates:
                tried += _grid(bench, task, method, way, name)
            best = max(tried, key=lambda trial: trial["validation"])
        else:
            best = {**best, **_settings(results, method, way)}
    seeds = list(bench.seeds)
    result = run(
        bench,
        task,
        place(bench, task, method, FINAL),
        way,
        way.candidates[best["recipe"]],
        rates=best["rate"],
        seeds=seeds,
    )
    scores = score(
        open_tuned(result.directory),
        split="test",
        decoding=DECODING,
        batch_size=bench.evaluation_rows,
        examples=bench.test,
    )
    return Cell(
        task.name,
        method,
        tuple(round(trial.metrics["accuracy"], 2) for trial in scores),
        scores[0].examples,
        trainable=result.trainable,
        seconds=round(result.seconds / len(seeds), 2),
        chosen={
            "recipe": best["recipe"],
            "rate": best["rate"],
            "steps": way.steps,
        },
        tried=tuple(tried),
        files=tuple(relative(bench, path) for path in result.prompts),
        whole_seconds=round(time.monotonic() - start, 1),
    )


def _settings(results: MethodResults, method: str, way: Way) -> Mapping[str, Any]:
    """Return what was best on the set that settings are chosen on; the recipe if it is a choice."""
    chosen = results.done(SETTINGS_FROM, method).chosen
    names = ("recipe", "rate") if len(way.candidates) > 1 else ("rate",)
    return {name: chosen[name] for name in names}


def _grid(bench: Bench, task: Task, method: str, way: Way, name: str) -> list[dict[str, Any]]:
    directory, rates = place(bench, task, method, name), list(way.rates)
    candidate = way.candidates[name]
    result = run(bench, task, directory, way, candidate, rates=rates, seeds=bench.seeds[0])
    return [
        {
            "recipe": name,
            "rate": rate,
            "validation": round(best.score, 2),
            "step": best.step,
            "file": relative(bench, path),
        }
        for rate, best, path in zip(rates, result.best, result.prompts, strict=True)
    ]


def run(
    bench: Bench,
    task: Task,
    directory: Path,
    way: Way,
    candidate: Candidate,
    *,
    rates: float | list[float],
    seeds: int | list[int],
) -> TrainResult:
    """Tune a prompt a rate, or a prompt a seed, in one program."""
    examples = min(way.examples, task.examples)
    room = candidate.room
    source = bench.padded(task, examples) if room is None else bench.data(task, examples, room)
    steps = way.steps
    return finished_train(
        model_dir=str(directory),
        backbone=bench.stored(dropout_rate=way.dropout_rate),
        method=candidate.method,
        data=source,
        optimizer=dataclasses.replace(way.optimizer, learning_rate=rates),
        train_steps=steps,
        seeds=seeds,
        evaluation=bench.evaluation(task, max(steps // way.evaluations, 1)),
        checkpoints=CheckpointPlan(period=steps),
        progress=False,
    )


def finished_train(**options: Any) -> TrainResult:
    """Train to the end; a run that had ended before has the time that it took then.

    Raises:
        Stopped: by a signal.
    """
    before = seconds_of(Path(options["model_dir"]))
    result = finish_training(**options)
    return result if result.seconds else dataclasses.replace(result, seconds=before)


def place(bench: Bench, task: Task, method: str, name: str) -> Path:
    """Return the directory of a run."""
    return bench.directory / method / task.name / name.replace(" ", "")


def relative(bench: Bench, path: Path) -> str:
    """Return a file as results name it."""
    return str(path.relative_to(bench.directory))


def seconds_of(directory: Path) -> float:
    """Return what a run that is finished already took; it is not timed again."""
    path = directory / "result.json"
    return json.loads(path.read_text())["seconds"] if path.exists() else 0.0
