"""A tiny stored backbone over the small vocabulary, and runs of two steps on what ships."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from spot_jax.methods.prompt_file import PromptFile, load_prompt
from spot_jax.t5.backbone import Backbone, save_backbone, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.stored import read_description
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.optimizers import Adafactor
from spot_jax.training.recipes import (
    DataSource,
    EvaluationPlan,
    PromptTuningRecipe,
    StoredBackbone,
)
from spot_jax.training.run import train
from spot_jax.training.run_setup import read_setup, task_facts

VOCABULARY = Path(__file__).parents[2] / "tasks" / "mini_spiece.model"
CONFIG = T5Config(
    vocab_size=8192,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
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


def _store(directory: Path, seed: int) -> str:
    # Drawn by numpy: JAX would compile a program for every shape.
    rng = np.random.default_rng(seed)
    leaves = {
        name: np.float32(1.0 if name.endswith("scale") else 0.3)
        * (np.ones if name.endswith("scale") else rng.standard_normal)(shape).astype(np.float32)
        for name, shape in parameter_shapes(CONFIG).items()
    }
    save_backbone(directory, Backbone(CONFIG, unflatten(leaves), "", epath.Path(VOCABULARY)))
    return str(directory)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    directory = tmp_path_factory.mktemp("world")
    backbone, other = (_store(directory / f"backbone-{seed}", seed) for seed in (0, 1))
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
        method=PromptTuningRecipe(length=LENGTH, init="uniform"),
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
