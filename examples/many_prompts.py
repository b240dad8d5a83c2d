"""Tune many prompts in one program: tasks, seeds and learning rates, each as it would go alone.

python examples/many_prompts.py
"""

import sys

import spot_jax as spot

TASKS = ["bundled_vader_tweets", "bundled_vader_movie", "bundled_vader_amazon"]


def main(directory: str = "runs/many", backbone: str = "backbones/mini", steps: int = 40) -> None:
    """Tune a prompt for each of three tasks: every batch holds rows of all of them."""
    run = spot.train(
        model_dir=directory,
        backbone=spot.load_backbone(backbone),
        method=spot.PromptTuning(length=20),
        data=spot.DataSource(TASKS, {"inputs": 24, "targets": 4}, batch_size=16),
        optimizer=spot.Adafactor([0.3, 0.3, 0.1]),
        train_steps=steps,
        seeds=[0, 1, 2],
        evaluation=spot.EvaluationPlan(period=max(steps // 2, 1), examples=200),
    )
    for task, best, path in zip(TASKS, run.best, run.prompts, strict=True):
        print(f"{task}: {best.score:.1f} at step {best.step}, {path}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
