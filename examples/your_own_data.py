"""Tune a prompt on a file of your own: no task is registered, and seqio is not needed.

python examples/your_own_data.py
"""

import csv
import sys
from pathlib import Path

import spot_jax as spot

TEXTS = {
    "travel": ("the train leaves at nine", "which platform is it today", "two tickets to the sea"),
    "cooking": ("a pinch of salt and two eggs", "let the dough rest", "the soup needs more pepper"),
}


def main(
    directory: str = "runs/own_data", backbone: str = "backbones/mini", steps: int = 20
) -> None:
    """Write texts with their topics as a CSV file, train on it, and predict."""
    file = Path(directory) / "texts.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "topic"])
        for topic, texts in TEXTS.items():
            rows.writerows([f"{text}, {day}", topic] for text in texts for day in range(1, 8))
    run = spot.train(
        model_dir=f"{directory}/run",
        backbone=spot.StoredBackbone(backbone),
        method=spot.PromptTuning(length=8),
        # Splits, lengths and labels are found; a pandas or polars frame may stand for the file.
        data=spot.Table(str(file), text=("text",), label="topic"),
        optimizer=spot.Adafactor(0.3),
        train_steps=steps,
        evaluation=spot.EvaluationPlan(period=steps),
    )
    texts = ["how long is the journey", "slice the onions"]
    predictions = spot.load(run.directory).predict(texts)
    for text, prediction in zip(texts, predictions, strict=True):
        print(f"{text}: {prediction} ({prediction.probability:.0%})")


if __name__ == "__main__":
    main(*sys.argv[1:3])
