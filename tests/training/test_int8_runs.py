"""Runs of every kind of method on int8 kernels: they learn, and leave the kernels alone."""

import numpy as np
import pytest

from spot_jax.methods.ia3 import IA3Tuning
from spot_jax.methods.lora import LoRATuning
from spot_jax.methods.prefix_tuning import PrefixTuning
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.training.config import StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import AdamW

METHODS = {
    "prompt": PromptTuning(length=4, init="sampled_vocabulary"),
    "prefix": PrefixTuning(length=3),
    "LoRA": LoRATuning(rank=2),
    "IA3": IA3Tuning(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_methods_with_frozen_kernels_run_on_int8_ones(name, tiny, tmp_path):
    losses = {}
    for dtype in ("float32", "int8"):
        backbone = StoredBackbone(tiny.backbone, dropout_rate=0.0, parameter_dtype=dtype)
        # Steps so small that rounding is not amplified from one to the next.
        options = {"method": METHODS[name], "backbone": backbone, "optimizer": AdamW(1e-3)}
        tiny.train(tmp_path / dtype, 4, **options)
        losses[dtype] = [line["train/loss"] for line in read_metrics(tmp_path / dtype)]
    assert losses["int8"] != losses["float32"] and len(set(losses["int8"])) == 4
    np.testing.assert_allclose(losses["int8"], losses["float32"], rtol=0.01)
