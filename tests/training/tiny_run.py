"""A tiny stored backbone, tiny arrays, and runs of them."""

import dataclasses
from pathlib import Path

import numpy as np

from spot_jax.data.data_source import DataSource
from spot_jax.data.examples import Examples
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.backbone import Backbone, fingerprint, save_backbone, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import Adafactor
from spot_jax.training.run import TrainResult, train

VOCABULARY = Path(__file__).parents[2] / "tasks" / "mini_spiece.model"

# Like `small`: 6 heads, which 8 devices do not divide, while joined_kv (48), mlp and vocab do.
CONFIG = T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=6,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)


def store(directory: Path, config: T5Config, seed: int = 0, vocabulary=None) -> str:
    """A stored backbone of random weights, without compiling the model's own initialisers."""
    rng, flat = np.random.default_rng(seed), {}
    for name, shape in parameter_shapes(config).items():
        array = rng.normal(size=shape)
        if name.endswith("scale"):
            array = 1.0 + 0.1 * array
        elif name.endswith("kernel"):
            # As T5 begins: queries are small because its attention is not scaled.
            array *= (shape[0] * (config.head_dim if "query" in name else 1)) ** -0.5
        flat[name] = array.astype(np.float32)
    params = unflatten(flat)
    save_backbone(directory, Backbone(config, params, fingerprint(config, params), vocabulary))
    return str(directory)


def arrays(path: Path, seed: int, vocab_size: int = 64, count: int = 40) -> str:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        text = rng.integers(3, vocab_size, rng.integers(3, 9)).tolist()
        # Something to learn: the target is the first word, or the last one for odd seeds.
        pairs.append(([*text, 1], [text[-(seed % 2)], 1]))
    return str(Examples.from_lists(pairs).save(path))


@dataclasses.dataclass
class Tiny:
    """Paths of a tiny backbone and of two tasks, and how a run of them is called."""

    backbone: str
    tasks: tuple[str, str]

    def train(self, directory: Path, steps: int, **options) -> TrainResult:
        """A run; options replace what stands here."""
        defaults = {
            "backbone": StoredBackbone(self.backbone, dropout_rate=0.0),
            "method": PromptTuning(length=4, init="sampled_vocabulary"),
            "data": self.data(),
            "optimizer": Adafactor(0.3),
            "evaluation": EvaluationPlan(period=0),
            "checkpoints": CheckpointPlan(period=1000),
            "progress": False,
        }
        return train(model_dir=str(directory), train_steps=steps, **{**defaults, **options})

    def data(self, names=None, **options) -> DataSource:
        """The first task in batches of 8."""
        names = self.tasks[0] if names is None else names
        return DataSource(names, {"inputs": 9, "targets": 2}, **{"batch_size": 8, **options})
