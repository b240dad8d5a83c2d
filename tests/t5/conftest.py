"""The golden backbone, for tests of the model's functions."""

from pathlib import Path

import jax.numpy as jnp
import pytest
import tensorstore
from flax import traverse_util

from spot_jax.t5.config import T5Config, parameter_shapes


@pytest.fixture(scope="session")
def golden_backbone(golden: Path):
    """Return configuration and parameters of `ckpt_minimal`, read without the importer."""
    config = T5Config(
        vocab_size=128,
        emb_dim=32,
        num_heads=4,
        head_dim=6,
        mlp_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
        dropout_rate=0.0,
    )
    folder = next(golden.rglob("ckpt_minimal/checkpoint_2"))
    flat = {}
    for name in parameter_shapes(config):
        path = str(folder / f"target.{name.replace('/', '.')}")
        store = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
        flat[name] = jnp.asarray(tensorstore.open(store).result().read().result())
    return config, traverse_util.unflatten_dict(flat, sep="/")
