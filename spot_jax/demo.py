"""The main job in minutes: tune a prompt on a source task, begin a target task's prompt from it.

Everything is real and ships with the package: a small T5 (docs/mini.md says what it has read) and
labelled text that people wrote, of which it has seen no label, as files of rows such as anybody
has. What happens is what `spot train` and `spot eval` do.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from spot_jax import shipped
from spot_jax.data import loading
from spot_jax.data.data_source import DataSource
from spot_jax.data.table import is_table
from spot_jax.files import aligned
from spot_jax.inference.scores import Score, score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import Adafactor
from spot_jax.training.run import TrainResult, train


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the demo runs; the defaults take some minutes on two cores.

    Attributes:
        backbone: path of a stored backbone.
        source: task whose prompt is carried on; a file of rows, as all tasks here may be.
        target: task that it is carried to.
        modules: modules that register tasks by name.
        seeds: seeds of the target's prompts, tuned together in one program.
        source_steps: number of updates of the source prompt.
        target_steps: number of updates of the target's prompts, from scratch and from the source.
        length: number of virtual tokens, P.
        lengths: numbers of tokens of text, of inputs and of targets.
        learning_rate: learning rate of Adafactor.
        decoding: way to predict labels, as in `EvaluationPlan`.
        validation_examples: number of examples that choose a checkpoint.
        test_examples: greatest number of examples that are scored.
        evaluations: number of evaluations of each run.
    """

    source: str
    target: str
    modules: tuple[str, ...] = ()
    backbone: str = str(shipped.BACKBONE)
    seeds: tuple[int, ...] = (0, 1, 2)
    source_steps: int = 60
    target_steps: int = 10
    length: int = 20
    lengths: tuple[int, int] = (40, 12)
    learning_rate: float = 0.3
    decoding: str = "rank"
    validation_examples: int = 100
    test_examples: int = 300
    evaluations: int = 2


def demo(
    directory: Path, plan: Plan, say: Callable[[str], None], progress: bool | None = None
) -> dict[str, list[Score]]:
    """Run the plan in `directory` and report on it line by line.

    A demo that was stopped goes on; a finished demo only shows its results again.

    Returns:
        The target's test scores, one a seed, by where its prompts began; "no prompt" is the bare
        backbone's score.
    """
    say(f"source: one prompt on {_named(plan.source)}, {plan.source_steps} steps")
    source = _tune(directory / "source", plan, plan.source, plan.source_steps, [0], None, progress)
    say(_rise(source, plan))
    origins = {"scratch": None, "source prompt": str(source.prompts[0])}
    scores = {"no prompt": _no_prompt(plan)}
    for name, prompt in origins.items():
        say(
            f"target: {len(plan.seeds)} prompts on {_named(plan.target)} from "
            f"{'the source prompt' if prompt else 'scratch'}, {plan.target_steps} steps, "
            "in one program"
        )
        run = directory / name.replace(" ", "_")
        steps, seeds = plan.target_steps, plan.seeds
        result = _tune(run, plan, plan.target, steps, seeds, prompt, progress)
        tuned = open_tuned(result.directory)
        scores[name] = score(
            tuned,
            split="test",
            decoding=plan.decoding,
            batch_size=100,
            examples=plan.test_examples,
        )
    say("")
    for line in _table(scores, plan):
        say(line)
    say("")
    say(f"files: {directory}/*/prompts/best-*.safetensors, metrics.jsonl and TensorBoard's beside")
    return scores


def _named(task: str) -> str:
    """Return the name of a task for people: of a file of rows what the file is called."""
    return Path(task.partition("?")[0]).stem if is_table(task) else task


def _tune(
    directory: Path,
    plan: Plan,
    task: str,
    steps: int,
    seeds: Sequence[int],
    prompt: str | None,
    progress: bool | None,
) -> TrainResult:
    init = "class_labels" if prompt is None else "prompt"
    period = max(steps // plan.evaluations, 1)
    return train(
        model_dir=str(directory),
        backbone=StoredBackbone(plan.backbone, dropout_rate=0.0),
        method=PromptTuning(length=plan.length, init=init, prompt=prompt),
        data=DataSource(
            task,
            dict(zip(("inputs", "targets"), plan.lengths, strict=True)),
            batch_size=32,
            modules=plan.modules,
        ),
        optimizer=Adafactor(learning_rate=plan.learning_rate),
        train_steps=steps,
        seeds=list(seeds),
        evaluation=EvaluationPlan(
            period=period,
            examples=plan.validation_examples,
            batch_size=100,
            decoding=plan.decoding,
        ),
        checkpoints=CheckpointPlan(period=period),
        progress=progress,
    )


def _no_prompt(plan: Plan) -> list[Score]:
    """The bare backbone on the target's test split, read and decoded as with a prompt."""
    if plan.modules:
        loading.import_modules(plan.modules)
    return score(
        open_tuned(backbone=plan.backbone),
        split="test",
        tasks=[plan.target],
        decoding=plan.decoding,
        batch_size=100,
        lengths=dict(zip(("inputs", "targets"), plan.lengths, strict=True)),
        examples=plan.test_examples,
    )


def _rise(result: TrainResult, plan: Plan) -> str:
    """How the source prompt's validation accuracy rose, against always the commonest label."""
    lines = [line for line in read_metrics(result.directory) if "validation/accuracy" in line]
    steps = ", ".join(f"{line['validation/accuracy']:.1f} at {line['step']}" for line in lines)
    best = score(
        open_tuned(result.directory),
        split="validation",
        decoding=plan.decoding,
        batch_size=100,
        examples=plan.validation_examples,
    )[0]
    return f"  validation accuracy {steps} steps; the commonest label alone {best.majority:.1f}"


def _table(by_origin: dict[str, list[Score]], plan: Plan) -> list[str]:
    scores = next(iter(by_origin.values()))
    names = [n for n in scores[0].metrics if n in ("accuracy", "macro_f1")]
    what = f"{_named(plan.target)}, {scores[0].examples} test examples"
    head = f"{what}, mean and sd of {len(plan.seeds)} seeds"
    rows = [[head, *names], ["commonest label", *[""] * len(names)]]
    if scores[0].majority is not None:
        rows[1][1 + names.index("accuracy")] = f"{scores[0].majority:.1f}"
    for origin, each in by_origin.items():
        cells = []
        for name in names:
            values = [score.metrics[name] for score in each]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        rows.append([origin if origin == "no prompt" else f"prompt from {origin}", *cells])
    return aligned(rows, left=range(len(names) + 1))
