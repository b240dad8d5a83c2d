"""Y-Tuning on cached features against Prompt Tuning: examples a second in training.

    taskset -c 0,1 python bench/y_tuning.py [--output bench/results/y_tuning.json]

Both are trained as `spot train` trains them, on the `mini` backbone, with one batch size and one
length of text: rows are taken from the data, batches placed, steps done and their metrics fetched
one step late. Every text has the full length. The two alternate in short blocks within one process
and the ratio is taken block by block, because other work may share the machine; medians over the
blocks. Building the cache is timed apart.

Prompt Tuning's inputs have its virtual tokens besides the text; a prompt of 20 is what the mini
studies use, the paper's are 100. Y-Tuning's step grows with the labels: 3 are vader_movie's, 25
wordnet_supersense's, 77 banking77's.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import record

if TYPE_CHECKING:
    from spot_jax.methods.base import BaseMethod
    from spot_jax.t5.vocabulary import Vocabulary
    from spot_jax.training.optimizers import Optimizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BACKBONE = ROOT / "backbones" / "mini"
WARM = 5


def prepare(
    directory: Path, length: int, labels: int, vocabulary: "Vocabulary"
) -> tuple[str, list[str]]:
    """Write random texts of one length whose answers are the first of clinc150's labels."""
    from spot_jax.data import loading
    from spot_jax.data.examples import Examples

    words = list(loading.labels_of("bundled_clinc150"))[:labels]
    targets = [[*vocabulary.encode(word), 1] for word in words]
    rng = np.random.default_rng(0)
    pairs = [
        ([*rng.integers(100, 8000, length - 1).tolist(), 1], targets[i % labels])
        for i in range(2048)
    ]
    path = directory / f"task-{length}-{labels}.npz"
    Examples.from_lists(pairs).save(path)
    return str(path), words


class Trainer:
    """A run's parts, and blocks of its steps."""

    def __init__(
        self,
        method: "BaseMethod",
        optimizer: "Optimizer",
        task: str,
        length: int,
        batch_size: int,
    ):
        from spot_jax.data.data_source import DataSource
        from spot_jax.training.build import RunParts
        from spot_jax.training.config import StoredBackbone
        from spot_jax.training.sharding import MeshShape, make_mesh
        from spot_jax.training.step import train_step

        data = DataSource(task, {"inputs": length, "targets": 8}, batch_size=batch_size)
        backbone = StoredBackbone(str(BACKBONE), parameter_dtype="float32", dropout_rate=0.1)
        start = time.perf_counter()
        self.parts = RunParts.make(backbone, method, data, optimizer, 0, make_mesh(MeshShape(1, 1)))
        self.build_s = time.perf_counter() - start
        self.state, self.frozen = self.parts.first_state()
        self.step = train_step(self.parts.program, self.parts.tx, dropout=True)
        self.batch_size = batch_size
        self.block(WARM)

    def block(self, steps: int) -> float:
        """Return examples per second over so many steps, done as the loop of a run does them."""
        waiting = None
        start = time.perf_counter()
        for _ in range(steps):
            batch = self.parts.placement(next(self.parts.batches))
            self.state, metrics = self.step(self.state, self.frozen, batch)
            if waiting is not None:
                _fetched(waiting)
            waiting = metrics
        _fetched(waiting)
        return steps * self.batch_size / (time.perf_counter() - start)


def _fetched(metrics: dict[str, Any]) -> None:
    if not all(bool(np.isfinite(np.asarray(metric)).all()) for metric in metrics.values()):
        raise SystemExit("a step was not finite")


def measure(directory: Path, case: dict, repeats: int, block: int) -> dict:
    """Time both methods in alternating blocks, which begin with each of them in turn."""
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.methods.y_tuning import YTuning
    from spot_jax.t5.vocabulary import Vocabulary
    from spot_jax.training.optimizers import Adafactor, AdamW

    length, batch_size = case["text_length"], case["batch_size"]
    vocabulary = Vocabulary(BACKBONE / "vocabulary.model")
    task, words = prepare(directory, length, case["labels"], vocabulary)
    method = YTuning(labels=tuple(words), layers=case["layers"], cache=str(directory / "features"))
    prompt = PromptTuning(length=case["prompt_length"], init="sampled_vocabulary")
    theirs = Trainer(prompt, Adafactor(0.3), task, length, batch_size)
    cold = Trainer(method, AdamW(1e-3), task, length, batch_size)
    ours = Trainer(method, AdamW(1e-3), task, length, batch_size)
    rates: dict[str, list[float]] = {"prompt_tuning": [], "y_tuning": []}
    for repeat in range(repeats):
        for name in sorted(rates, reverse=bool(repeat % 2)):
            # Blocks of about the same time: the faster has ten times the steps.
            if name == "y_tuning":
                rates[name].append(ours.block(10 * block))
            else:
                rates[name].append(theirs.block(block))
    ratios = [y / p for y, p in zip(rates["y_tuning"], rates["prompt_tuning"], strict=True)]
    leaves = {
        name: sum(x.size for x in _leaves(trainer.state.trainable))
        for name, trainer in (("prompt_tuning", theirs), ("y_tuning", ours))
    }
    return {
        **case,
        "prompt_tuning_examples_s": round(statistics.median(rates["prompt_tuning"]), 1),
        "y_tuning_examples_s": round(statistics.median(rates["y_tuning"]), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "trained_numbers": leaves,
        "cache": {
            "examples": 2048,
            "built_in_s": round(cold.build_s - ours.build_s, 2),
            "bytes": sum(p.stat().st_size for p in (directory / "features").rglob("*.bin")),
        },
    }


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


CASES = (
    {"labels": 3, "layers": 1},
    {"labels": 3, "layers": 1, "prompt_length": 100},
    {"labels": 3, "layers": 1, "text_length": 128},
    {"labels": 3, "layers": 2},
    {"labels": 25, "layers": 1},
    {"labels": 77, "layers": 1},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default=str(ROOT / "bench/results/y_tuning.json"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--block", type=int, default=8, help="steps of Prompt Tuning")
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))))
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    results = []
    for number in arguments.cases:
        case = {"batch_size": 32, "text_length": 32, "prompt_length": 20, **CASES[number]}
        with tempfile.TemporaryDirectory() as where:
            results.append(measure(Path(where), case, arguments.repeats, arguments.block))
        print(json.dumps(results[-1]), flush=True)
    record.write(
        arguments.output,
        "training examples a second: Y-Tuning on cached features against Prompt Tuning",
        BACKBONE,
        results,
    )


if __name__ == "__main__":
    main()
