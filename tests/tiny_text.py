"""A tiny T5 of random weights that reads text: it has the vocabulary of `mini`."""

from pathlib import Path

import numpy as np
from etils import epath

from spot_jax.t5.backbone import Backbone, save_backbone, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes

VOCABULARY = Path(__file__).parents[1] / "tasks" / "mini_spiece.model"
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


def store_backbone(directory: Path, seed: int = 0) -> str:
    """Stores it; drawn by numpy, since JAX would compile a program for every shape."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for name, shape in parameter_shapes(CONFIG).items():
        array = 1.0 if name.endswith("scale") else 0.3 * rng.standard_normal(shape)
        leaves[name] = np.broadcast_to(array, shape).astype(np.float32)
    save_backbone(directory, Backbone(CONFIG, unflatten(leaves), "", epath.Path(VOCABULARY)))
    return str(directory)
