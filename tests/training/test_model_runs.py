"""Runs that move all weights, each by itself or in a random subspace: stopped and gone on."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_run import CONFIG, store

import spot_jax.training.run as run_module
from spot_jax.methods.fastfood import FastfoodTuning
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.t5.backbone import load_backbone
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import Adafactor, AdamW, WarmupDecay

# T5X's: of matrices with both sides 128 or more it keeps two vectors.
ADAFACTOR = Adafactor(
    0.01, WarmupDecay(2, 6), weight_decay=0.0, factored=True, parameter_scale=True
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A backbone with matrices that are large enough for that."""
    config = dataclasses.replace(CONFIG, emb_dim=128, mlp_dim=128)
    return store(tmp_path_factory.mktemp("wide") / "backbone", config)


@pytest.fixture
def ways(tiny, wide, tmp_path):
    """A run of five steps as one and in two parts, with dropout and packing."""

    def both(method, optimizer):
        options = {
            "method": method,
            "optimizer": optimizer,
            "backbone": StoredBackbone(wide, dropout_rate=0.1),
            "checkpoints": CheckpointPlan(period=3),
            "data": tiny.data(pack=True, packed_lengths={"inputs": 20, "targets": 6}),
        }
        whole = tiny.train(tmp_path / "whole", 5, **options)
        tiny.train(tmp_path / "parts", 4, **options)
        parts = tiny.train(tmp_path / "parts", 5, **options)
        logs = [[line["train/loss"] for line in read_metrics(r.directory)] for r in (whole, parts)]
        assert logs[0] == logs[1]
        assert len(set(logs[0])) == 5
        return whole, parts

    return both


@pytest.mark.slow
def test_model_tuning_goes_on_as_if_it_had_not_stopped(wide, ways):
    begun = load_backbone(wide)
    whole, parts = (load_backbone(r.directory / "backbone") for r in ways(ModelTuning(), ADAFACTOR))
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    assert whole.fingerprint == parts.fingerprint != begun.fingerprint
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), whole.params, begun.params)
    assert all(jax.tree.leaves(moved))
    # What it began from is another file, and is what it was.
    assert load_backbone(wide).fingerprint == begun.fingerprint


@pytest.mark.slow
def test_a_target_is_tuned_from_what_a_mixture_has_left(tiny, tmp_path):
    options = {"method": ModelTuning(), "optimizer": ADAFACTOR}
    mixture = tiny.train(tmp_path / "mixture", 3, **options).directory / "backbone"
    still = {**options, "optimizer": Adafactor(1e-30, weight_decay=0.0)}
    target = tiny.train(
        tmp_path / "target",
        1,
        data=tiny.data(tiny.tasks[1]),
        **still,
        backbone=StoredBackbone(str(mixture), dropout_rate=0.0),
    )
    left = load_backbone(target.directory / "backbone")
    assert left.fingerprint == load_backbone(mixture).fingerprint


@pytest.mark.slow
def test_fastfood_goes_on_and_its_model_stays(ways, monkeypatch):
    seen, fit = [], run_module.fit

    def watching(state, frozen, *rest):
        seen.append((frozen, jax.tree.map(lambda x: np.array(x, copy=True), frozen)))
        return fit(state, frozen, *rest)

    monkeypatch.setattr(run_module, "fit", watching)
    whole, parts = ways(FastfoodTuning(dim=4), AdamW(0.05, weight_decay=0.0))
    assert whole.trainable == 4
    in_one, in_parts = (
        load_prompt(r.directory / "prompts" / "last-0.safetensors") for r in (whole, parts)
    )
    jax.tree.map(np.testing.assert_array_equal, in_one.tensors, in_parts.tensors)
    assert len(seen) == 3
    for live, before in seen:
        jax.tree.map(np.testing.assert_array_equal, live, before)
