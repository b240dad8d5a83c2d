"""What LM adaptation does for prompt tuning: prompts on backbones that had it and that had not.

    python bench/lm_adaptation.py \
      --pair "before choices" runs/mini_span/backbone runs/mini_lm/backbone \
      --pair "after choices" runs/mini_multitask_unadapted/backbone backbones/mini

Each pair is a backbone without LM adaptation and one with it, alike in everything else
(docs/mini.md has the runs that make them). On each, prompts of every task and seed are tuned in one
program with the same data; their best checkpoints on validation are scored on test. The change is
the mean over tasks and seeds, with a bootstrap interval over both.
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
TASKS = ("banking77", "clinc150", "sms_spam", "sotu_party", "vader_movie", "vader_tweets",
         "wordnet_hypernym", "wordnet_supersense", "vader_amazon", "gap_coref")  # fmt: skip
SETTINGS = {"length": 20, "learning_rate": 0.3, "batch_size": 16, "inputs": 40, "targets": 8}


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

    names = [f"bundled_{task}" for task in TASKS for _ in seeds]
    lengths = {"inputs": SETTINGS["inputs"], "targets": SETTINGS["targets"]}
    with tempfile.TemporaryDirectory() as directory:
        train(
            model_dir=directory,
            backbone=StoredBackbone(backbone, dropout_rate=0.0),
            method=PromptTuning(length=SETTINGS["length"]),
            data=DataSource(
                names,
                lengths,
                batch_size=SETTINGS["batch_size"],
                modules=("tasks.bundled_tasks",),
            ),
            optimizer=Adafactor(SETTINGS["learning_rate"]),
            train_steps=steps,
            seeds=seeds * len(TASKS),
            evaluation=EvaluationPlan(
                period=max(steps // 4, 1), examples=200, batch_size=100, decoding="greedy"
            ),
            checkpoints=CheckpointPlan(period=steps),
        )
        scores = score(open_tuned(directory), decoding="greedy", batch_size=100, examples=examples)
    by_task: Accuracies = {task: [] for task in TASKS}
    for scored in scores:
        by_task[scored.task.removeprefix("bundled_")].append(scored.metrics["accuracy"])
        MAJORITY[scored.task.removeprefix("bundled_")] = scored.majority
    return by_task


MAJORITY: dict[str, float | None] = {}


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
        row = {"pair": name, **compared(without, adapted)}
        row["tasks"] = {
            task: {
                "commonest_label": round(MAJORITY[task] or 0.0, 1),
                "without": [round(x, 1) for x in without[task]],
                "adapted": [round(x, 1) for x in adapted[task]],
                "change": round(statistics.mean(adapted[task]) - statistics.mean(without[task]), 1),
            }
            for task in TASKS
        }
        print(json.dumps(row), flush=True)
        results.append(row)
    report = {
        "what": "test accuracy of prompts on backbones with and without LM adaptation",
        "settings": {
            **SETTINGS,
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "test_examples": arguments.examples,
        },  # fmt: skip
        "results": results,
    }
    Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
