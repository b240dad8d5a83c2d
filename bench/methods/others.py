"""P-Tuning, prefixes, intrinsic subspaces and label vectors: what of each is tried here."""

import dataclasses
from pathlib import Path

from bench.methods.prompts import Candidate, Way, finished_train, seconds_of, tuned
from bench.methods.results import Cell, Results, done
from bench.methods.tasks import MODULES, TASKS, Bench, Task
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import DataSource, EvaluationPlan
from spot_jax.training.optimizers import AdamW, WarmupDecay
from spot_jax.training.recipes_intrinsic import SubspaceFindingRecipe, SubspaceTuningRecipe
from spot_jax.training.recipes_p_tuning import PTuningRecipe
from spot_jax.training.recipes_prefix import PrefixTuningRecipe
from spot_jax.training.recipes_y_tuning import YTuningRecipe
from tasks.bundled import reading

STEPS, LENGTH = 40, 20
PREFIX_STEPS = 120
# Of the prompts that a subspace is found from.
PROMPTS = f"P = {LENGTH}"
ADAM = AdamW(b2=0.999, weight_decay=0.0, max_norm=None)
# Finding a subspace: updates, rows of each task in one.
FINDING, ROWS = 150, 4
# On features that are there already an update costs next to nothing.
Y_STEPS = 500


def falling(steps: int) -> AdamW:
    """Its rate warms up shortly, then falls to nothing."""
    return dataclasses.replace(ADAM, schedule=WarmupDecay(steps // 16, steps))


def template(name: str) -> str:
    """Half of the virtual tokens before the text and half behind it; of pairs some between."""
    first, *rest = reading.find(name).fields
    if not rest:
        return f"<prompt:{LENGTH // 2}> {{{first}:cut}} <prompt:{LENGTH // 2}> {{target}}"
    last = LENGTH - 2 * 7
    return f"<prompt:7> {{{first}:cut}} <prompt:7> {{{rest[0]}}} <prompt:{last}> {{target}}"


def p_tuning(bench: Bench, task: Task, results: Results) -> Cell:
    """With the LSTM and without."""
    form = template(task.name)
    found = {
        "LSTM": Candidate(PTuningRecipe(form), LENGTH),
        "no encoder": Candidate(
            PTuningRecipe(form, encoder="identity", init="sampled_vocabulary"), LENGTH
        ),
    }
    return tuned(bench, task, "p_tuning", Way(found, (0.1, 0.3, 1.0), STEPS))


def prefix(bench: Bench, task: Task, results: Results) -> Cell:
    """Keys and values of encoder and decoder, without a reparameterisation."""
    found = {PROMPTS: Candidate(PrefixTuningRecipe(LENGTH), 0)}
    way = Way(found, (0.01, 0.03, 0.1), PREFIX_STEPS, optimizer=falling(PREFIX_STEPS))
    return tuned(bench, task, "prefix", way)


def intrinsic(bench: Bench, task: Task, results: Results, dim: int) -> Cell:
    """`dim` numbers in a subspace of the prompts of the sets that `mini` has seen."""
    found = {
        f"d = {dim}": Candidate(SubspaceTuningRecipe(str(_subspace(bench, results, dim))), LENGTH)
    }
    way = Way(found, (0.1, 0.3, 1.0), STEPS, optimizer=falling(STEPS))
    return tuned(bench, task, f"ist_{dim}", way)


def _subspace(bench: Bench, results: Results, dim: int) -> Path:
    """The file of MSF's subspace, found unless it is there."""
    directory = bench.directory / "subspace" / f"d{dim}"
    file = directory / "prompts" / "subspace-best-0.safetensors"
    if seconds_of(directory):
        return file
    tasks = [task for task in TASKS.values() if task.seen]
    prompts = [str(bench.directory / prompt_file(results, task.name, PROMPTS)) for task in tasks]
    lengths = {
        side: max(getattr(task, side) for task in tasks if task.inputs <= 64)
        for side in ("inputs", "targets")
    }
    data = DataSource([task.task for task in tasks], lengths, ROWS, modules=MODULES)
    finished_train(
        model_dir=str(directory),
        backbone=bench.stored(),
        method=SubspaceFindingRecipe(prompts, dim),
        data=data,
        optimizer=dataclasses.replace(falling(FINDING), learning_rate=1e-3),
        train_steps=FINDING,
        seeds=bench.seeds[0],
        evaluation=EvaluationPlan(
            FINDING // 2,
            examples=100,
            batch_size=bench.evaluation_rows,
            decoding="greedy",
            metric="accuracy",
        ),
        checkpoints=CheckpointPlan(FINDING),
        progress=False,
    )
    return file


def prompt_file(results: Results, task: str, recipe: str) -> str:
    """The best of a task's prompts with these settings, by validation."""
    alike = [one for one in done(results, task, "prompt_tuning").tried if one["recipe"] == recipe]
    return max(alike, key=lambda one: one["validation"])["file"]


def y_tuning(bench: Bench, task: Task, results: Results) -> Cell:
    """On cached features of the encoder's last layer."""
    found = {"1 layer": Candidate(YTuningRecipe(cache=str(bench.directory / "features")))}
    return tuned(
        bench,
        task,
        "y_tuning",
        Way(
            found,
            (1e-3, 3e-3),
            Y_STEPS,
            examples=32,
            optimizer=ADAM,
            evaluations=5,
            dropout_rate=0.1,
        ),
    )
