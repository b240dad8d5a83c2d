"""Tune a prompt on one task, and predict with it.

python examples/tune_a_prompt.py
"""

import sys

import spot_jax as spot


def main(
    directory: str = "runs/example", backbone: str = "backbones/mini", steps: int = 40
) -> None:
    """Tune 20 virtual tokens that tell spam from other text messages."""
    run = spot.train(
        model_dir=directory,
        backbone=spot.load_backbone(backbone),
        method=spot.PromptTuning(length=20),
        data=spot.DataSource("bundled_sms_spam", {"inputs": 48, "targets": 4}),
        optimizer=spot.Adafactor(0.3),
        train_steps=steps,
        evaluation=spot.EvaluationPlan(period=max(steps // 2, 1), examples=200),
    )
    print(f"best at step {run.best[0].step}: {run.best[0].metrics}")
    texts = ["You have won a prize! Call 0900 now to claim it.", "Shall we meet at noon?"]
    for text, label in zip(texts, spot.load(run.directory).predict(texts), strict=True):
        print(f"{label}: {text}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
