"""When a source prompt helps: targets after few and many steps, from scratch and from two sources.

    python bench/transfer_steps.py [--backbone backbones/mini] [--shots 16] [--output ...]

Every target is tuned four times a seed on the same batches: from scratch, which is sampled
vocabulary, from its label words, from a prompt of a task of its family, and from a prompt of
another family. Test accuracy is taken every few steps, and no checkpoint is chosen. If a source
helps because it teaches the task, the gain lasts and needs the family; if it only saves the steps
in which a prompt learns to ask, the gain fades as steps go by. Beside the curves are the commonest
label and the bare backbone without a prompt. Initial prompts differ by task. Sources are whole
sets, tuned at a rate that falls to nothing. With `--shots 16` targets have 16 examples a label.
Answers are the most likely of a set's labels, or written with `--decoding greedy`. With
`--directory` a second start of the same command goes on where the first one stopped.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spot_jax.training.run import TrainResult

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.untuned import MODULES, untuned  # noqa: E402

# Each target, the source of its family (`tasks.bundled.sets`), and one of another family. Families
# of one set have no such source; pairs of texts are none that a prompt on `mini` learns
# (docs/methods.md), so there is nothing to carry.
TARGETS = {
    "vader_tweets": ("vader_movie", "wordnet_hypernym"),
    "vader_movie": ("vader_tweets", "banking77"),
    "vader_amazon": ("vader_movie", "sms_spam"),
    "clinc150": ("banking77", "vader_tweets"),
    "banking77": ("clinc150", "wordnet_supersense"),
}
SOURCES = ("family", "another family")
# How a target's prompt begins.
STARTS = {
    "scratch": "sampled_vocabulary",
    "class labels": "class_labels",
    **dict.fromkeys(SOURCES, "prompt"),
}
SETTINGS: dict[str, Any] = {
    "length": 20,
    "source_rate": 0.3,
    "target_rate": 0.3,
    "batch_size": 16,
    "inputs": 40,
    "targets": 8,
    "decoding": "rank",
}


def prompts(
    where: str,
    backbone: str,
    tasks: list[str],
    seeds: list[int],
    steps: int,
    init: str,
    starts: list[str] | None = None,
    period: int = 0,
    examples: int | None = None,
) -> "TrainResult":
    """Tune prompts in one program: sources, or with a period targets, scored on test as they go."""
    from spot_jax.data.data_source import DataSource
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.training.checkpoints import CheckpointPlan
    from spot_jax.training.config import EvaluationPlan, StoredBackbone
    from spot_jax.training.optimizers import Adafactor, Constant, WarmupDecay
    from spot_jax.training.run import train

    rate, schedule = SETTINGS["source_rate"], WarmupDecay(steps // 16, steps)
    if period:
        rate, schedule = SETTINGS["target_rate"], Constant()
    return train(
        model_dir=where,
        backbone=StoredBackbone(backbone, dropout_rate=0.0),
        method=PromptTuning(length=SETTINGS["length"], init=init, prompt=starts),
        data=DataSource(
            [f"bundled_{task}" for task in tasks],
            {"inputs": SETTINGS["inputs"], "targets": SETTINGS["targets"]},
            batch_size=SETTINGS["batch_size"],
            modules=MODULES,
        ),
        optimizer=Adafactor(rate, schedule),
        train_steps=steps,
        seeds=seeds,
        evaluation=EvaluationPlan(
            period=period,
            split="test",
            examples=examples,
            batch_size=100,
            decoding=SETTINGS["decoding"],
        ),
        checkpoints=CheckpointPlan(period=steps),
        init_by_task=True,
    )


def curves(directory: Path, tasks: list[str], seeds: int) -> dict[str, dict[str, list]]:
    """Return {task: {"steps": [...], "accuracy": [[of each seed] of each step]}}."""
    from spot_jax.training.metrics_log import read_metrics

    lines = [line for line in read_metrics(directory) if "validation/accuracy" in line]
    by_task = {}
    for n, task in enumerate(dict.fromkeys(tasks)):
        mine = slice(n * seeds, (n + 1) * seeds)
        by_task[task] = {
            "steps": [line["step"] for line in lines],
            "accuracy": [
                [round(float(x), 2) for x in np.atleast_1d(line["validation/accuracy"])[mine]]
                for line in lines
            ],
        }
    return by_task


def changes(by_start: dict[str, dict], steps: list[int], targets: list[str]) -> list[dict]:
    """Return at each number of steps the mean change against scratch, and its 95% interval."""
    from spot_jax.studies.bootstrap import estimate

    rows = []
    for i, step in enumerate(steps):
        row: dict = {"steps": step}
        at = {b: np.array([by_start[b][t]["accuracy"][i] for t in targets]) for b in STARTS}
        row["scratch"] = round(float(at["scratch"].mean()), 2)
        for name in (start for start in STARTS if start != "scratch"):
            change = estimate(at[name] - at["scratch"])
            row[name] = {
                "mean": round(float(at[name].mean()), 2),
                "change": round(change.mean, 2),
                "interval_95": [round(change.low, 2), round(change.high, 2)],
            }
        rows.append(row)
    return rows


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--backbone", default=str(ROOT / "backbones/mini"))
    flags.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    flags.add_argument("--shots", type=int, choices=[16], help="examples a label of the targets")
    flags.add_argument("--source_steps", type=int, default=160)
    flags.add_argument("--steps", type=int, default=40)
    flags.add_argument("--period", type=int, default=10)
    flags.add_argument("--length", type=int, default=SETTINGS["length"])
    flags.add_argument("--decoding", choices=["rank", "greedy"], default=SETTINGS["decoding"])
    flags.add_argument("--target_rate", type=float, default=SETTINGS["target_rate"])
    flags.add_argument("--directory", help="where runs are kept (default: nowhere)")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--examples", type=int, default=200)
    flags.add_argument("--output", default=str(ROOT / "bench/results/transfer_steps.json"))
    return flags


def tune(values: argparse.Namespace, where: str, targets: list[str]) -> dict[str, dict]:
    """Tune the sources, and from each start the targets in `where`; return `curves` by start."""
    seeds = values.seeds
    pairs = [TARGETS[target] for target in values.targets]
    sources = sorted({source for pair in pairs for source in pair})
    tuned = prompts(
        f"{where}/sources",
        values.backbone,
        [source for source in sources for _ in seeds],
        seeds * len(sources),
        values.source_steps,
        "class_labels",
    )
    files = {source: tuned.prompts[len(seeds) * i :] for i, source in enumerate(sources)}
    names = [target for target in targets for _ in seeds]
    by_start = {}
    for start, init in STARTS.items():
        origins = None
        if start in SOURCES:
            place = SOURCES.index(start)
            origins = [str(files[pair[place]][i]) for pair in pairs for i in range(len(seeds))]
        directory = Path(where) / start.replace(" ", "_")
        prompts(
            str(directory),
            values.backbone,
            names,
            seeds * len(targets),
            values.steps,
            init,
            origins,
            values.period,
            values.examples,
        )
        by_start[start] = curves(directory, names, len(seeds))
    return by_start


def main() -> None:
    values = parser().parse_args()
    SETTINGS.update({name: getattr(values, name) for name in ("length", "decoding", "target_rate")})
    suffix = f"_{values.shots}shot" if values.shots else ""
    targets = [f"{target}{suffix}" for target in values.targets]
    with contextlib.ExitStack() as stack:
        where = values.directory or stack.enter_context(tempfile.TemporaryDirectory())
        by_start = tune(values, where, targets)
    steps = by_start["scratch"][targets[0]]["steps"]
    bare = untuned(values.backbone, targets, SETTINGS, SETTINGS["decoding"], values.examples)
    means = {
        name: round(float(np.mean([scores[name] for scores in bare.values()])), 2)
        for name in ("majority", "no_prompt")
    }
    report = {
        "what": "test accuracy by target steps: from scratch, from label words, from a prompt of "
        "the family, from one of another family; without a prompt, and with the commonest label",
        "settings": {
            **SETTINGS,
            "source_steps": values.source_steps,
            "seeds": values.seeds,
            "test_examples": values.examples,
            "sources": {target: list(TARGETS[target]) for target in values.targets},
        },
        "untuned": {"mean": means, **bare},
        "change_by_steps": changes(by_start, steps, targets),
        "curves": by_start,
    }
    Path(values.output).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(means))
    for row in report["change_by_steps"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
