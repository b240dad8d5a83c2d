"""What LM adaptation does for prompt tuning: prompts on backbones that had it and that had not.

    python -m tasks.pretraining_text TEXT_DIR pretraining
    G="--gin_file=gin_configs/runs/adapt_mini.gin --gin.TRAIN_STEPS=250"
    SPAN="--gin.MIXTURE_OR_TASK_NAME='pretraining/tokens_{split}.npy:span_corruption'"
    FROM="--gin.INITIAL_CHECKPOINT_PATH="
    spot train $G $SPAN "$FROM'backbones/mini'" "--gin.MODEL_DIR='runs/span'"
    spot train $G $SPAN "$FROM'runs/span/backbone'" "--gin.MODEL_DIR='runs/span_again'"
    spot train $G "$FROM'runs/span/backbone'" "--gin.MODEL_DIR='runs/adapted'"
    python bench/lm_adaptation.py --pair NAME runs/span_again/backbone runs/adapted/backbone

`mini`, whose last stage had the language model's objective in it, is turned to span corruption, and
from there goes on as long again by span corruption or by the language model's objective: both of a
pair have had equally many updates on the same text. On each, prompts of every task and seed are
tuned in one program with the same data; their best checkpoints on validation are scored on test.
The change is the mean over tasks and seeds, with a bootstrap interval over both. Beside them are
the commonest label and each backbone without a prompt.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.untuned import MODULES, untuned  # noqa: E402

TASKS = ("wordnet_supersense", "sms_spam", "vader_tweets", "wordnet_hypernym", "vader_movie")
SETTINGS = {"length": 20, "learning_rate": 0.3, "batch_size": 16, "inputs": 48, "targets": 12}

DECODING = "rank"
Accuracies = dict[str, list[float]]


def accuracies(backbone: str, steps: int, seeds: list[int], examples: int) -> Accuracies:
    """Return the test accuracies of every task's prompts, one per seed."""
    from spot_jax.data.data_source import DataSource
    from spot_jax.inference.scores import score
    from spot_jax.inference.tuned import open_tuned
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.training.checkpoints import CheckpointPlan
    from spot_jax.training.config import EvaluationPlan, StoredBackbone
    from spot_jax.training.optimizers import Adafactor
    from spot_jax.training.run import train

    with tempfile.TemporaryDirectory() as directory:
        train(
            model_dir=directory,
            backbone=StoredBackbone(backbone, dropout_rate=0.0),
            method=PromptTuning(length=SETTINGS["length"], init="class_labels"),
            data=DataSource(
                [f"bundled_{task}" for task in TASKS for _ in seeds],
                {side: SETTINGS[side] for side in ("inputs", "targets")},
                batch_size=SETTINGS["batch_size"],
                modules=MODULES,
            ),
            optimizer=Adafactor(SETTINGS["learning_rate"]),
            train_steps=steps,
            seeds=seeds * len(TASKS),
            evaluation=EvaluationPlan(
                period=max(steps // 2, 1), examples=200, batch_size=100, decoding=DECODING
            ),
            checkpoints=CheckpointPlan(period=steps),
            init_by_task=True,
        )
        scores = score(open_tuned(directory), decoding=DECODING, batch_size=100, examples=examples)
    by_task: Accuracies = {task: [] for task in TASKS}
    for scored in scores:
        by_task[scored.task.removeprefix("bundled_")].append(scored.metrics["accuracy"])
    return by_task


def compared(without: Accuracies, adapted: Accuracies) -> dict:
    """Return the mean change and its 95% interval over tasks and seeds."""
    from spot_jax.studies.bootstrap import estimate

    change = estimate(np.array([np.subtract(adapted[task], without[task]) for task in TASKS]))
    interval = [round(change.low, 2), round(change.high, 2)]
    return {"change": round(change.mean, 2), "interval_95": interval}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pair", nargs=3, action="append", required=True,
                      metavar=("NAME", "WITHOUT", "ADAPTED"))  # fmt: skip
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--output", default=str(ROOT / "bench/results/lm_adaptation.json"))
    arguments = parser.parse_args()
    results = []
    for name, *backbones in arguments.pair:
        without, adapted = (
            accuracies(backbone, arguments.steps, arguments.seeds, arguments.examples)
            for backbone in backbones
        )
        bare = [
            untuned(backbone, TASKS, SETTINGS, DECODING, arguments.examples)
            for backbone in backbones
        ]
        row = {"pair": name, **compared(without, adapted)}
        row["tasks"] = {
            task: {
                "commonest_label": bare[0][task]["majority"],
                "no_prompt": [scores[task]["no_prompt"] for scores in bare],
                "without": [round(x, 1) for x in without[task]],
                "adapted": [round(x, 1) for x in adapted[task]],
                "change": round(statistics.mean(adapted[task]) - statistics.mean(without[task]), 1),
            }
            for task in TASKS
        }
        # Over tasks; of no prompt the two backbones', of the others over seeds.
        row["mean"] = {
            name: np.round(
                np.mean([each[name] for each in row["tasks"].values()], axis=0), 1
            ).tolist()
            for name in ("commonest_label", "no_prompt", "without", "adapted")
        }
        print(json.dumps(row), flush=True)
        results.append(row)
    report = {
        "what": "test accuracy of prompts on backbones with and without LM adaptation",
        "settings": {
            **SETTINGS,
            "decoding": DECODING,
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "test_examples": arguments.examples,
        },  # fmt: skip
        "results": results,
    }
    Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
