"""Settings that suit a file of rows and a backbone, for those who give none."""

import dataclasses
from typing import Any

from spot_jax.data.table.lengths import Lengths
from spot_jax.data.table.task import TableTask
from spot_jax.t5.config import T5Config

SMALL_WIDTH = 512
"""Width of a backbone below which it counts as small."""
FEWEST_STEPS = 100
EVALUATIONS = 5
PACKED_FROM = 0.6
"""Share of a padded row's tokens that are real, below which rows are packed."""


@dataclasses.dataclass(frozen=True)
class _Scale:
    """What goes with the size of a backbone.

    Attributes:
        prompt: number of virtual tokens.
        examples: number of examples a step.
        epochs: number of times that the training rows are read.
        most: largest number of steps.
        dropout: dropout rate.
    """

    prompt: int
    examples: int
    epochs: int
    most: int
    dropout: float


SMALL = _Scale(prompt=20, examples=16, epochs=3, most=300, dropout=0.0)
LARGE = _Scale(prompt=100, examples=32, epochs=10, most=5000, dropout=0.1)


@dataclasses.dataclass(frozen=True)
class Suited:
    """Settings of a run, by the macros of gin_configs/runs/prompt_tuning.gin.

    Attributes:
        macros: value of each macro.
        reasons: words for people that say why, by macro.
    """

    macros: dict[str, Any]
    reasons: dict[str, str]


def suited(task: TableTask, lengths: Lengths, config: T5Config) -> Suited:
    """Return the settings that suit a task and a backbone.

    The papers' 100 virtual tokens are for T5 of 77 million weights and more; a narrow backbone
    gets 20, or one a label up to those 100, fewer steps, and no dropout, as everywhere with `mini`.

    Args:
        task: file of rows.
        lengths: lengths of its rows.
        config: shape of the backbone.
    """
    chosen = lengths.suited()
    rows = len(task.items("train"))
    scale = SMALL if config.emb_dim < SMALL_WIDTH else LARGE
    steps = round(scale.epochs * rows / scale.examples / 10) * 10
    steps = min(scale.most, max(FEWEST_STEPS, steps))
    prompt = max(scale.prompt, min(len(task.labels), LARGE.prompt))
    kept = lengths.inputs.clip(max=chosen["inputs"])
    full = (float(kept.mean()) + prompt) / (chosen["inputs"] + prompt)
    pack = full < PACKED_FROM
    return Suited(
        {
            "TASK_FEATURE_LENGTHS": chosen,
            "TRAIN_STEPS": steps,
            "EVAL_PERIOD": max(1, steps // EVALUATIONS),
            "BATCH_SIZE": max(4, round(scale.examples * full)) if pack else scale.examples,
            "PACK": pack,
            "PROMPT_LENGTH": prompt,
            "PROMPT_INIT": "class_labels" if task.labels else "sampled_vocabulary",
            "DROPOUT_RATE": scale.dropout,
        },
        {
            "TRAIN_STEPS": f"{scale.epochs} times {rows:,} rows, {FEWEST_STEPS} to "
            f"{scale.most:,} steps",
            "BATCH_SIZE": f"about {scale.examples} examples a step",
            "PACK": f"{full:.0%} of a padded row is text and prompt",
            "PROMPT_LENGTH": f"for a backbone of width {config.emb_dim}"
            if prompt == scale.prompt
            else "room for a row a label",
        },
    )
