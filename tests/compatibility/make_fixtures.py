"""Writes `written_by_76fbee3.tar.xz`: prompt files and runs as the code of that commit wrote them.

Run with that commit's code on the path, in an empty directory:

    PYTHONPATH=CHECKOUT:CHECKOUT/tests python make_fixtures.py

The tiny backbone is not stored: `tiny_text.store_backbone` draws it again. `expected.json` holds
what that code computed with each run: losses and predictions, and for runs that are stored whole
the prompts two steps later.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
from spot_jax.training.recipes_intrinsic import (
    FastfoodTuningRecipe,
    SubspaceFindingRecipe,
    SubspaceTuningRecipe,
)
from spot_jax.training.recipes_p_tuning import PTuningRecipe
from spot_jax.training.recipes_prefix import PrefixTuningRecipe
from spot_jax.training.recipes_y_tuning import YTuningRecipe
from tiny_text import store_backbone

from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import (
    DataSource,
    EvaluationPlan,
    ModelTuningRecipe,
    PromptTuningRecipe,
    StoredBackbone,
)
from spot_jax.training.optimizers import Adafactor, AdamW
from spot_jax.training.run import train

TASK = "bundled_vader_tweets"
FILES = [f"prompt_tuning/prompts/best-{i}.safetensors" for i in (0, 1)]

# Name of the run: method, optimizer, tasks, seeds, steps.
RUNS = {
    "prompt_tuning": (PromptTuningRecipe(4), Adafactor(0.3), TASK, [0, 1], 3),
    "continued": (
        PromptTuningRecipe(4, "prompt", prompt=FILES[0]),
        Adafactor([0.3, 0.1]),
        TASK,
        0,
        2,
    ),
    "p_tuning": (
        PTuningRecipe("{text} <prompt:3> {target}"),
        AdamW(1e-2),
        TASK,
        [0, 1],
        2,
    ),
    "prefix": (
        PrefixTuningRecipe(2, places=("encoder", "decoder", "cross")),
        AdamW(0.05),
        TASK,
        0,
        2,
    ),
    "prefix_mlp": (PrefixTuningRecipe(2, "normal", hidden=5), AdamW(0.01), TASK, [0, 1], 2),
    "finding": (SubspaceFindingRecipe(FILES, dim=3, width=5), AdamW(1e-3), TASK, 0, 2),
    "subspace": (
        SubspaceTuningRecipe("finding/prompts/subspace-best-0.safetensors"),
        AdamW(0.1, weight_decay=0.0),
        TASK,
        [0, 1],
        2,
    ),
    "fastfood": (FastfoodTuningRecipe(dim=4), AdamW(0.1, weight_decay=0.0), TASK, 0, 2),
    "y_tuning": (YTuningRecipe(heads=2), AdamW(1e-2), TASK, [0, 1], 2),
    "model_tuning": (ModelTuningRecipe(), Adafactor(1e-3), TASK, 0, 2),
}
# Runs that are stored whole, to be gone on with.
WHOLE = ("prompt_tuning", "prefix_mlp", "y_tuning")


STEPS_LATER = 2


def main() -> None:
    """Run every method, and pack what its run directory holds."""
    backbone = store_backbone(Path("backbone"))
    target = Path("written_by_76fbee3")
    expected: dict[str, dict] = {}
    for name, (method, optimizer, task, seeds, steps) in RUNS.items():
        arguments = {
            "model_dir": name,
            "backbone": StoredBackbone(backbone, dropout_rate=0.0),
            "method": method,
            "data": DataSource(task, {"inputs": 24, "targets": 4}, batch_size=8),
            "optimizer": optimizer,
            "seeds": seeds,
            "evaluation": EvaluationPlan(period=1, examples=16),
            "checkpoints": CheckpointPlan(period=1, keep=1),
            "progress": False,
        }
        train(train_steps=steps, **arguments)
        copy(Path(name), target / name, whole=name in WHOLE)
        scores = score(open_tuned(name), split="validation", examples=16, batch_size=8)
        expected[name] = {
            "losses": [each.loss for each in scores],
            "predictions": [each.predictions for each in scores],
        }
        if name in WHOLE:
            train(train_steps=steps + STEPS_LATER, **arguments)
            files = [prompt.file for prompt in open_tuned(name, which="last").prompts]
            expected[name]["later"] = [np.asarray(file.prompt).tolist() for file in files]
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    with tarfile.open(Path(__file__).parent / "written_by_76fbee3.tar.xz", "w:xz") as archive:
        for path in sorted(target.rglob("*")):
            archive.add(path, path.relative_to(target), recursive=False)


def copy(run: Path, target: Path, *, whole: bool) -> None:
    """Copy the files that readers open, and of a whole run those that training goes on from."""
    target.mkdir(parents=True)
    for name in ("run.json", "setup.json", "result.json"):
        shutil.copy(run / name, target)
    if (run / "prompts").exists():
        skip = None if whole else shutil.ignore_patterns("last-*", "*-last-*")
        shutil.copytree(run / "prompts", target / "prompts", ignore=skip)
    if whole:
        shutil.copytree(run / "checkpoints", target / "checkpoints")
        shutil.copy(run / "metrics.jsonl", target)


if __name__ == "__main__":
    main()
