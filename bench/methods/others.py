"""P-Tuning, prefixes, LoRA, IA3, intrinsic subspaces, label vectors: what of each is tried here."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from bench.methods.prompts import Candidate, Way, finished_train, seconds_of, tuned
from bench.methods.results import Cell, MethodResults
from bench.methods.tasks import MODULES, TASKS, Bench, Task
from spot_jax.data.data_source import DataSource
from spot_jax.files.locks import file_lock
from spot_jax.methods.ia3 import IA3Tuning
from spot_jax.methods.lora import LoRATuning
from spot_jax.methods.p_tuning import PTuning
from spot_jax.methods.prefix_tuning import PrefixTuning
from spot_jax.methods.subspace_finding import SubspaceFinding
from spot_jax.methods.subspace_tuning import SubspaceTuning
from spot_jax.methods.y_tuning import YTuning
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.optimizers import Adafactor, AdamW, WarmupDecay
from tasks.bundled import reading

ADAM = AdamW(b2=0.999, weight_decay=0.0, max_norm=None)
# Finding a subspace: rows of each task in an update.
ROWS = 4
Y_LOSSES = {"triplet": "triplet loss", "cross_entropy": "cross entropy"}
# Sets whose prompts subspaces are found from; the others are held out.
FOUND_FROM = (
    "sms_spam",
    "sotu_party",
    "vader_movie",
    "vader_tweets",
    "wordnet_hypernym",
    "wordnet_supersense",
)


def falling(steps: int) -> AdamW:
    """Return AdamW with a rate that warms up shortly, then falls to nothing."""
    return dataclasses.replace(ADAM, schedule=WarmupDecay(steps // 16, steps))


def prompt_way(
    bench: Bench, task: Task, candidates: Mapping[str, Candidate], rates: tuple[float, ...]
) -> Way:
    """Return how prompts are tuned: by the paper's Adafactor, whose rate falls to nothing.

    So few steps of a constant rate end wherever the last batch has pushed the prompt.
    """
    steps = bench.steps
    adafactor = Adafactor(schedule=WarmupDecay(steps // 16, steps))
    return Way(candidates, rates, steps, optimizer=adafactor)


def template(name: str, length: int) -> str:
    """Put half of the virtual tokens before the text, half behind it; of pairs some between."""
    first, *rest = reading.find(name).fields
    if not rest:
        return f"<prompt:{length // 2}> {{{first}:cut}} <prompt:{length - length // 2}> {{target}}"
    third = -(-length // 3)
    places = (third, third, length - 2 * third)
    return (
        f"<prompt:{places[0]}> {{{first}:cut}} <prompt:{places[1]}> {{{rest[0]}}} "
        f"<prompt:{places[2]}> {{target}}"
    )


def p_tuning(bench: Bench, task: Task, results: MethodResults) -> Cell:
    """Return the cell of P-Tuning with the LSTM, by AdamW, under which its rows stay distinct."""
    candidates = {"LSTM": Candidate(PTuning(template(task.name, bench.length)), bench.length)}
    steps = bench.prefix_steps
    way = Way(candidates, (1e-4, 3e-4, 1e-3), steps, optimizer=falling(steps))
    return tuned(bench, task, "p_tuning", way, results)


def prefix(bench: Bench, task: Task, results: MethodResults) -> Cell:
    """Return the cell of prefix-tuning in encoder and decoder, without a reparameterisation."""
    candidates = {f"P = {bench.length}": Candidate(PrefixTuning(bench.length), 0)}
    steps = bench.prefix_steps
    tuning = Way(candidates, (0.01, 0.03, 0.1), steps, optimizer=falling(steps))
    return tuned(bench, task, "prefix", tuning, results)


def lora(bench: Bench, task: Task, results: MethodResults) -> Cell:
    """Low-rank updates of queries and values: of rank 1 about as many numbers as a prefix."""
    candidates = {f"r = {rank}": Candidate(LoRATuning(rank, 2.0 * rank), 0) for rank in (1, 8)}
    steps = bench.prefix_steps
    way = Way(candidates, (0.003, 0.01, 0.03), steps, optimizer=falling(steps))
    return tuned(bench, task, "lora", way, results)


def ia3(bench: Bench, task: Task, results: MethodResults) -> Cell:
    """Tune scales of keys, values and hidden units."""
    steps = bench.prefix_steps
    candidates = {"IA3": Candidate(IA3Tuning(), 0)}
    way = Way(candidates, (0.01, 0.03, 0.1), steps, optimizer=falling(steps))
    return tuned(bench, task, "ia3", way, results)


def intrinsic(bench: Bench, task: Task, results: MethodResults, dim: int) -> Cell:
    """Return the cell of `dim` numbers in a subspace of the prompts of `FOUND_FROM`."""
    candidates = {
        f"d = {dim}": Candidate(SubspaceTuning(str(_subspace(bench, results, dim))), bench.length)
    }
    steps = bench.steps
    tuning = Way(candidates, (0.3,), steps, optimizer=falling(steps))
    return tuned(bench, task, f"ist_{dim}", tuning)


def _subspace(bench: Bench, results: MethodResults, dim: int) -> Path:
    """Return the file of MSF's subspace, tuned unless it exists."""
    directory = bench.directory / "subspace" / f"d{dim}"
    file = directory / "prompts" / "subspace-best-0.safetensors"
    with file_lock(bench.directory / "subspace" / f"d{dim}.lock", wait=True):
        if not seconds_of(directory):
            _find(bench, results, dim, directory)
    return file


def _find(bench: Bench, results: MethodResults, dim: int, directory: Path) -> None:
    tasks = [TASKS[name] for name in FOUND_FROM]
    recipe, steps = f"P = {bench.length}", bench.finding_steps
    prompts = [str(bench.directory / prompt_file(results, task.name, recipe)) for task in tasks]
    lengths = {
        side: max(getattr(task, side) for task in tasks if task.inputs <= 64)
        for side in ("inputs", "targets")
    }
    data = DataSource([task.task for task in tasks], lengths, ROWS, modules=MODULES)
    finished_train(
        model_dir=str(directory),
        backbone=bench.stored(),
        method=SubspaceFinding(prompts, dim),
        data=data,
        optimizer=dataclasses.replace(falling(steps), learning_rate=1e-3),
        train_steps=steps,
        seeds=bench.seeds[0],
        evaluation=EvaluationPlan(
            max(steps // 2, 1),
            examples=100,
            batch_size=bench.evaluation_rows,
            decoding="greedy",
            metric="accuracy",
        ),
        checkpoints=CheckpointPlan(steps),
        progress=False,
    )


def prompt_file(results: MethodResults, task: str, recipe: str) -> str:
    """Return a task's best prompt of these settings by validation, or the first seed's."""
    cell = results.done(task, "prompt_tuning")
    alike = [trial for trial in cell.tried if trial["recipe"] == recipe]
    if not alike:
        return cell.files[0]
    return max(alike, key=lambda trial: trial["validation"])["file"]


def y_way(candidates: Mapping[str, Candidate], steps: int, rates: tuple[float, ...]) -> Way:
    """Return how label vectors are tuned: on cached features, by AdamW, with dropout."""
    return Way(candidates, rates, steps, 32, ADAM, evaluations=5, dropout_rate=0.1)


def y_tuning(bench: Bench, task: Task, results: MethodResults, loss: str) -> Cell:
    """Return the cell of Y-Tuning by one loss, with one vector a label and several.

    Args:
        bench: settings that all cells share.
        task: set to tune on.
        results: finished cells.
        loss: "triplet" or "cross_entropy".
    """
    cache = str(bench.directory / "features")
    candidates = {
        f"V = {vectors}": Candidate(YTuning(cache=cache, loss=loss, per_label=vectors))
        for vectors in (1, 4)
    }
    way = y_way(candidates, bench.y_steps, (1e-3, 3e-3))
    return tuned(bench, task, f"y_tuning_{loss}", way, results)
