"""A tiny backbone of random weights, tiny tasks in arrays, and studies of them."""

import dataclasses
from pathlib import Path

import numpy as np
from tiny_text import store_backbone

from spot_jax.data.examples import Examples
from spot_jax.studies.engine.plan import Stage
from spot_jax.studies.transfer.jobs import TransferJob, TransferPrompt, TransferResult
from spot_jax.studies.transfer.plan import TransferPlan
from spot_jax.training.config import StoredBackbone

PLAN = {
    "source": Stage(3, batch_size=4, period=2),
    "target": Stage(2, batch_size=4, period=1),
    "embedding_step": 1,
    "lengths": {"inputs": 8, "targets": 2},
    "seeds": (0, 1),
    "prompt_length": 3,
    "decoding": "greedy",
    "test_split": "test",
    "checkpoint_period": 1,
}


def write_task(directory: Path, name: str, seed: int) -> str:
    """A task of arrays with three splits; its name."""
    for number, split in enumerate(("train", "validation", "test")):
        rng = np.random.default_rng([seed, number])
        pairs = []
        for _ in range(12):
            text = rng.integers(100, 110, 6).tolist()
            pairs.append(([*text, 1], [text[seed % 3], 1]))
        Examples.from_lists(pairs).save(directory / f"{name}-{split}.npz")
    return str(directory / f"{name}-{{split}}.npz")


@dataclasses.dataclass(frozen=True)
class World:
    """A backbone and four tasks."""

    backbone: str
    tasks: tuple[str, ...]

    def plan(self, directory: Path, **options) -> TransferPlan:
        """Two sources and one target, if nothing else is said."""
        settings = {
            "directory": str(directory),
            "backbone": StoredBackbone(self.backbone, dropout_rate=0.0),
            "sources": self.tasks[:2],
            "targets": self.tasks[2:3],
            **PLAN,
            **options,
        }
        return TransferPlan(**settings)


def make_world(directory: Path, *, new: bool = True) -> World:
    """Write a world, or return one that is there."""
    if new:
        store_backbone(directory / "backbone")
        for number, name in enumerate("abcd"):
            write_task(directory, name, number)
    tasks = tuple(str(directory / f"{name}-{{split}}.npz") for name in "abcd")
    return World(str(directory / "backbone"), tasks)


def pretend(job: TransferJob) -> TransferResult:
    """Stands for a job that was done: a result without any training."""
    prompts = [TransferPrompt(50.0, seed=p.seed, source=p.source, k=p.k) for p in job.parts]
    return TransferResult(job.name, tuple(prompts), seconds=1.0)
