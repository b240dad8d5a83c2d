"""Tune a prompt on pairs of texts of your own, with no task registered and no seqio.

python examples/your_own_data.py
"""

import sys
from pathlib import Path

import spot_jax as spot

PAIRS = [
    ("the train leaves at nine", "travel"),
    ("a pinch of salt and two eggs", "cooking"),
    ("which platform is it today", "travel"),
    ("let the dough rest for an hour", "cooking"),
] * 8


def main(
    directory: str = "runs/own_data", backbone: str = "backbones/mini", steps: int = 20
) -> None:
    """Write the pairs as files of token ids, and train on them."""
    vocabulary = spot.StoredBackbone(backbone).vocabulary()
    examples = spot.Examples.from_lists(
        [([*vocabulary.encode(text), 1], [*vocabulary.encode(label), 1]) for text, label in PAIRS]
    )
    Path(directory).mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        examples.save(Path(directory) / f"pairs-{split}.npz")
    run = spot.train(
        model_dir=f"{directory}/run",
        backbone=spot.StoredBackbone(backbone),
        method=spot.PromptTuning(length=8),
        data=spot.DataSource(f"{directory}/pairs-{{split}}.npz", {"inputs": 16, "targets": 4}),
        optimizer=spot.Adafactor(0.3),
        train_steps=steps,
        evaluation=spot.EvaluationPlan(period=steps, decoding="greedy"),
    )
    texts = ["how long is the journey", "slice the onions"]
    predictor = spot.load(run.directory, labels=("travel", "cooking"))
    for text, prediction in zip(texts, predictor.predict(texts), strict=True):
        print(f"{text}: {prediction} ({prediction.probability:.0%})")


if __name__ == "__main__":
    main(*sys.argv[1:3])
