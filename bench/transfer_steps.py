"""When a source prompt helps: targets after few and many steps, from scratch and from two sources.

    python bench/transfer_steps.py [--backbone backbones/mini] [--output ...]

Every target is tuned three times a seed on the same batches: from scratch, from a prompt of a task
of its family, and from a prompt of another family. Test accuracy is taken every few steps, and no
checkpoint is chosen. If a source helps because it teaches the task, the gain lasts and needs the
family; if it only saves the steps in which a prompt learns to ask, the gain fades as steps go by.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# Each target, the source of its family, and a source of another one.
TARGETS = {
    "vader_tweets": ("vader_movie", "wordnet_hypernym"),
    "vader_movie": ("vader_tweets", "banking77"),
    "vader_amazon": ("vader_movie", "sotu_party"),
    "clinc150": ("banking77", "vader_tweets"),
    "banking77": ("clinc150", "wordnet_supersense"),
    "wordnet_supersense": ("wordnet_hypernym", "clinc150"),
    "wordnet_hypernym": ("wordnet_supersense", "vader_movie"),
}
BEGINNINGS = ("scratch", "family", "another family")
SETTINGS = {"length": 20, "learning_rate": 0.3, "batch_size": 16, "inputs": 40, "targets": 8}


def prompts(
    where: str,
    backbone: str,
    tasks: list[str],
    seeds: list[int],
    steps: int,
    starts: list[str] | None,
    period: int = 0,
    examples: int = 0,
):
    """Tunes prompts in one program; with a period also scores them on test as they go."""
    from spot_jax.training.checkpoints import CheckpointPlan
    from spot_jax.training.config import (
        DataSource,
        EvaluationPlan,
        PromptTuningRecipe,
        StoredBackbone,
    )
    from spot_jax.training.optimizers import Adafactor
    from spot_jax.training.run import train

    init = "class_labels" if starts is None else "prompt"
    return train(
        model_dir=where,
        backbone=StoredBackbone(backbone, dropout_rate=0.0),
        method=PromptTuningRecipe(length=SETTINGS["length"], init=init, prompt=starts),
        data=DataSource(
            [f"bundled_{task}" for task in tasks],
            {"inputs": SETTINGS["inputs"], "targets": SETTINGS["targets"]},
            batch_size=SETTINGS["batch_size"],
            modules=("tasks.bundled_tasks",),
        ),
        optimizer=Adafactor(SETTINGS["learning_rate"]),
        train_steps=steps,
        seeds=seeds,
        evaluation=EvaluationPlan(
            period=period, split="test", examples=examples, batch_size=100, decoding="greedy"
        ),
        checkpoints=CheckpointPlan(period=steps),
    )


def curves(directory: Path, tasks: list[str], seeds: int) -> dict[str, dict[str, list]]:
    """{task: {"steps": [...], "accuracy": [[of each seed] of each step]}}."""
    from spot_jax.training.metrics_log import read_metrics

    lines = [line for line in read_metrics(directory) if "validation/accuracy" in line]
    found = {}
    for n, task in enumerate(dict.fromkeys(tasks)):
        mine = slice(n * seeds, (n + 1) * seeds)
        found[task] = {
            "steps": [line["step"] for line in lines],
            "accuracy": [
                [round(x, 2) for x in line["validation/accuracy"][mine]] for line in lines
            ],
        }
    return found


def changes(found: dict[str, dict], steps: list[int]) -> list[dict]:
    """At each number of steps the mean change against scratch, and its 95% interval."""
    from spot_jax.studies.bootstrap import estimate

    rows = []
    for i, step in enumerate(steps):
        row: dict = {"steps": step}
        at = {b: np.array([found[b][t]["accuracy"][i] for t in TARGETS]) for b in BEGINNINGS}
        row["scratch"] = round(float(at["scratch"].mean()), 2)
        for name in BEGINNINGS[1:]:
            one = estimate(at[name] - at["scratch"])
            row[name] = {
                "mean": round(float(at[name].mean()), 2),
                "change": round(one.mean, 2),
                "interval_95": [round(one.low, 2), round(one.high, 2)],
            }
        rows.append(row)
    return rows


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    made.add_argument("--backbone", default=str(ROOT / "backbones/mini"))
    made.add_argument("--source_steps", type=int, default=40)
    made.add_argument("--steps", type=int, default=40)
    made.add_argument("--period", type=int, default=10)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--examples", type=int, default=200)
    made.add_argument("--output", default=str(ROOT / "bench/results/transfer_steps.json"))
    given = made.parse_args()
    seeds, found = given.seeds, {}
    names = [task for task in TARGETS for _ in seeds]
    with tempfile.TemporaryDirectory() as where:
        sources = sorted({source for pair in TARGETS.values() for source in pair})
        tuned = prompts(
            f"{where}/sources",
            given.backbone,
            [source for source in sources for _ in seeds],
            seeds * len(sources),
            given.source_steps,
            None,
        )
        files = {source: tuned.prompts[len(seeds) * i :] for i, source in enumerate(sources)}
        for number, beginning in enumerate(BEGINNINGS):
            starts = None
            if number:
                starts = [
                    str(files[pair[number - 1]][i])
                    for pair in TARGETS.values()
                    for i in range(len(seeds))
                ]
            directory = Path(where) / beginning.replace(" ", "_")
            prompts(
                str(directory),
                given.backbone,
                names,
                seeds * len(TARGETS),
                given.steps,
                starts,
                given.period,
                given.examples,
            )
            found[beginning] = curves(directory, names, len(seeds))
    steps = found["scratch"][next(iter(TARGETS))]["steps"]
    written = {
        "what": "test accuracy by target steps: from scratch, from a prompt of the family, "
        "from a prompt of another family",
        "settings": {
            **SETTINGS,
            "source_steps": given.source_steps,
            "seeds": seeds,
            "test_examples": given.examples,
            "sources": {target: list(pair) for target, pair in TARGETS.items()},
        },
        "change_by_steps": changes(found, steps),
        "curves": found,
    }
    Path(given.output).write_text(json.dumps(written, indent=1) + "\n")
    for row in written["change_by_steps"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
