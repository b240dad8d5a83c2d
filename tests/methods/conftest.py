"""The golden backbone, by way of the importer."""

import dataclasses

import pytest

from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.importing import convert


@pytest.fixture(scope="session")
def golden_backbone(golden, tmp_path_factory):
    """Configuration without dropout, and parameters."""
    stored = tmp_path_factory.mktemp("golden") / "stored"
    convert(golden / "ckpt_minimal" / "checkpoint_2", stored)
    backbone = load_backbone(stored)
    return dataclasses.replace(backbone.config, dropout_rate=0.0), backbone.params
