"""Model tuning: of one task from the backbone as it is, or from one that a mixture has tuned."""

import dataclasses
import shutil
import time
from pathlib import Path

from bench.methods.prompts import finished_train, place
from bench.methods.results import Cell
from bench.methods.tasks import DECODING, MODULES, PER_ROW, TASKS, Bench, Task
from spot_jax.data.data_source import DataSource
from spot_jax.files.locks import file_lock
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.optimizers import Adafactor, WarmupDecay
from spot_jax.training.run import TrainResult

MIXTURE = "bundled_all"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How weights are tuned.

    Attributes:
        rate: learning rate of Adafactor, with a warm-up and a linear fall to nothing.
        dropout_rates: rates to try in training; the best on validation is taken.
        steps: number of updates; the best of three checkpoints is kept.
        examples: number of examples of a step; None for the task's own number.
    """

    rate: float = 0.01
    dropout_rates: tuple[float, ...] = (0.0,)
    steps: int = 300
    examples: int | None = None


TUNING = Tuning()
MIXING = Tuning(steps=400)
AFTER_MIXTURE = Tuning(steps=100)
# Rows of the mixture's batch, each as long as the longest text.
ROWS = 8


def adafactor(rate: float, steps: int) -> Adafactor:
    """Return T5X's for whole models: factored, scaled by the parameters, no weight decay."""
    return Adafactor(
        rate,
        WarmupDecay(max(steps // 20, 1), steps),
        weight_decay=0.0,
        factored=True,
        parameter_scale=True,
    )


def model_tuning(bench: Bench, task: Task, tuning: Tuning = TUNING) -> Cell:
    """Return all weights, from the backbone as it is."""
    return _cell(bench, task, "model_tuning", tuning, bench.backbone)


def multitask(bench: Bench, task: Task, tuning: Tuning = AFTER_MIXTURE) -> Cell:
    """Return all weights on a mixture of every set that ships, then on the task alone."""
    return _cell(bench, task, "multitask_model_tuning", tuning, str(_mixture(bench)))


def _mixture(bench: Bench) -> Path:
    directory = bench.directory / "multitask_model_tuning" / MIXTURE
    with file_lock(directory.with_suffix(".lock"), wait=True):
        if not (directory / "result.json").exists():
            _mix(bench, directory)
    return directory / "backbone"


def _mix(bench: Bench, directory: Path) -> None:
    lengths = {
        side: max(getattr(task, side) for task in TASKS.values()) for side in ("inputs", "targets")
    }
    # Labels are short: without more room for them a row would hold few texts.
    packed = {**lengths, "targets": PER_ROW * lengths["targets"]}
    data = DataSource(
        MIXTURE, lengths, batch_size=ROWS, pack=True, packed_lengths=packed, modules=MODULES
    )
    _train(bench, directory, MIXING, bench.backbone, data, 0.0, 0, EvaluationPlan(0))


def _cell(bench: Bench, task: Task, method: str, tuning: Tuning, backbone: str) -> Cell:
    start = time.monotonic()
    data = bench.data(task, tuning.examples or task.examples)
    evaluation = bench.evaluation(task, max(tuning.steps // 3, 1))

    def of(dropout_rate: float, seed: int) -> TrainResult:
        directory = place(bench, task, method, f"dropout-{dropout_rate}-seed-{seed}")
        return _train(bench, directory, tuning, backbone, data, dropout_rate, seed, evaluation)

    first = {
        dropout_rate: of(dropout_rate, bench.seeds[0]) for dropout_rate in tuning.dropout_rates
    }
    tried = [
        {"dropout": dropout_rate, "validation": round(result.best[0].score, 2)}
        for dropout_rate, result in first.items()
    ]
    dropout_rate = max(tried, key=lambda trial: trial["validation"])["dropout"]
    runs = [first[dropout_rate], *(of(dropout_rate, seed) for seed in bench.seeds[1:])]
    scores = [
        score(
            open_tuned(result.directory),
            split="test",
            decoding=DECODING,
            batch_size=bench.evaluation_rows,
            examples=bench.test,
        )[0]
        for result in runs
    ]
    cell = Cell(
        task.name,
        method,
        tuple(round(trial.metrics["accuracy"], 2) for trial in scores),
        scores[0].examples,
        trainable=runs[0].trainable,
        seconds=round(sum(result.seconds for result in runs) / len(runs), 2),
        chosen={"rate": tuning.rate, "dropout": dropout_rate, "steps": tuning.steps},
        tried=tuple(tried),
        whole_seconds=round(time.monotonic() - start, 1),
    )
    # Weights are large, and nothing begins from these.
    shutil.rmtree(place(bench, task, method, ""))
    return cell


def _train(
    bench: Bench,
    directory: Path,
    tuning: Tuning,
    backbone: str,
    data: DataSource,
    dropout_rate: float,
    seed: int,
    evaluation: EvaluationPlan,
) -> TrainResult:
    return finished_train(
        model_dir=str(directory),
        backbone=bench.stored(path=backbone, dropout_rate=dropout_rate),
        method=ModelTuning(),
        data=data,
        optimizer=adafactor(tuning.rate, tuning.steps),
        train_steps=tuning.steps,
        seeds=seed,
        evaluation=evaluation,
        checkpoints=CheckpointPlan(period=tuning.steps, keep=1),
        progress=False,
    )
