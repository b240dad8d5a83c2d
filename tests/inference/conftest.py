"""A tiny stored backbone over the small vocabulary, and runs of two steps on what ships."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from tiny_text import CONFIG, store_backbone

from spot_jax.data.data_source import DataSource
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.stored import read_description
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import Adafactor
from spot_jax.training.run import train
from spot_jax.training.run_info import read_setup, task_facts

TASK = "bundled_vader_tweets"
LENGTHS = {"inputs": 24, "targets": 4}
LENGTH = 3


@dataclasses.dataclass
class World:
    """Paths of everything that tests need."""

    directory: Path
    backbone: str
    other: str
    run: str
    prompts: list[str]

    def written(self, name: str, tasks: list[str], prompt_length: int = LENGTH) -> Path:
        """A run directory of other tasks, as a run without evaluation leaves it."""
        directory = self.directory / name
        setup = dataclasses.replace(
            read_setup(self.run),
            tasks=task_facts(tasks),
            prompt_length=prompt_length,
            tunes_backbone=not prompt_length,
        )
        (directory / "prompts").mkdir(parents=True)
        setup.save(directory)
        for i, (task, prompt) in enumerate(zip(tasks, self.prompts, strict=False)):
            if prompt_length:
                file = dataclasses.replace(load_prompt(prompt), task=task)
                file.save(directory / "prompts" / f"last-{i}.safetensors")
        return directory


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    directory = tmp_path_factory.mktemp("world")
    backbone, other = (store_backbone(directory / f"backbone-{seed}", seed) for seed in (0, 1))
    mark = read_description(epath.Path(backbone)).fingerprint
    rng = np.random.default_rng(0)
    prompts = []
    for i in range(3):
        # Large ones, so that the three answer differently.
        prompt = 8 * rng.normal(size=(LENGTH, CONFIG.emb_dim)).astype(np.float32)
        path = directory / f"prompt-{i}.safetensors"
        PromptFile(prompt, backbone=mark, task=TASK).save(path)
        prompts.append(str(path))
    run = str(directory / "run")
    train(
        model_dir=run,
        backbone=StoredBackbone(backbone, dropout_rate=0.0),
        method=PromptTuning(length=LENGTH, init="uniform"),
        data=DataSource(TASK, LENGTHS, batch_size=64),
        optimizer=Adafactor(0.3),
        train_steps=2,
        seeds=[0, 1],
        evaluation=EvaluationPlan(period=1),
        checkpoints=CheckpointPlan(period=10),
        progress=False,
    )
    return World(directory, backbone, other, run, prompts)


@pytest.fixture(scope="session")
def two_tasks(world) -> str:
    """A run of two prompts on two tasks, never evaluated."""
    return str(world.written("two_tasks", [TASK, "bundled_gap_coref"]))


@pytest.fixture(scope="session")
def tuned_weights(world) -> str:
    """A run that tuned the weights."""
    directory = world.written("weights", [TASK], 0)
    shutil.copytree(world.other, directory / "backbone")
    return str(directory)
