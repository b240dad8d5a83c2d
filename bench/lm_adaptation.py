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


Found = dict[str, list[float]]


def accuracies(backbone: str, steps: int, seeds: list[int], examples: int) -> Found:
    """Test accuracy of every task's prompts, one a seed."""
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
    found: Found = {task: [] for task in TASKS}
    for one in scores:
        found[one.task.removeprefix("bundled_")].append(one.metrics["accuracy"])
        MAJORITY[one.task.removeprefix("bundled_")] = one.majority
    return found


MAJORITY: dict[str, float | None] = {}


def compared(without: Found, adapted: Found) -> dict:
    """The mean change and its 95% interval over tasks and seeds."""
    from spot_jax.studies.bootstrap import estimate

    change = estimate(np.array([np.subtract(adapted[task], without[task]) for task in TASKS]))
    interval = [round(change.low, 2), round(change.high, 2)]
    return {"change": round(change.mean, 2), "interval_95": interval}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    made.add_argument("--pair", nargs=3, action="append", required=True,
                      metavar=("NAME", "WITHOUT", "ADAPTED"))  # fmt: skip
    made.add_argument("--steps", type=int, default=60)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--examples", type=int, default=500)
    made.add_argument("--output", default=str(ROOT / "bench/results/lm_adaptation.json"))
    given = made.parse_args()
    results = []
    for name, *backbones in given.pair:
        without, adapted = (
            accuracies(one, given.steps, given.seeds, given.examples) for one in backbones
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
    written = {
        "what": "test accuracy of prompts on backbones with and without LM adaptation",
        "settings": {
            **SETTINGS,
            "steps": given.steps,
            "seeds": given.seeds,
            "test_examples": given.examples,
        },  # fmt: skip
        "results": results,
    }
    Path(given.output).write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
