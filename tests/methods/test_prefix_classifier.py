"""A prefix with a classification head: its loss by hand, and its file in use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.prefix_classifier import PrefixClassifier
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.stored import inference_of
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import encode, init_params
from spot_jax.t5.prefix import with_prefix

CONFIG = T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
METHOD = PrefixClassifier(2, "normal")
RNG = np.random.default_rng(0)
LABELS = ("5", "6 7", "8")
GOLD = np.array([1, 0, 2, 1])
TARGETS = np.array([[6, 7, 1], [5, 1, 0], [8, 1, 0], [6, 7, 1]], np.int32)


class Words:
    def encode(self, text):
        return [int(word) for word in text.split()]


def batch(seed=1):
    tokens = np.random.default_rng(seed).integers(2, 32, (4, 6)).astype(np.int32)
    tokens[1, 4:] = 0
    return {"encoder_input_tokens": tokens, "decoder_target_tokens": TARGETS}


@pytest.fixture(scope="module")
def begun():
    backbone = Backbone(CONFIG, init_params(jax.random.key(0), CONFIG), "mark", None)

    def program(count):
        tasks = [Task("a", LABELS, Words()) for _ in range(count)]
        started = Program.of(METHOD, backbone, tasks)
        return started, *started.init(jax.random.split(jax.random.key(1), 2)[:count], backbone)

    return program


@pytest.mark.slow
def test_the_loss_is_the_cross_entropy_of_the_mean_outputs_through_the_head(begun):
    program, tree, frozen = begun(1)
    tree = jax.tree.map(lambda x: x + 0.3, tree)
    examples = batch()
    params = with_prefix(frozen, CONFIG, tree["prefix"], ("encoder",))
    encoded = np.asarray(encode(params, CONFIG, examples["encoder_input_tokens"]), np.float64)
    expected = []
    for row, gold in enumerate(GOLD):
        real = examples["encoder_input_tokens"][row] > 0
        scores = encoded[row][real].mean(axis=0) @ np.asarray(tree["head"]["kernel"][0])
        scores = scores + np.asarray(tree["head"]["bias"][0, 0])
        expected.append(np.log(np.exp(scores).sum()) - scores[gold])
    loss, metrics = program.loss(tree, frozen, examples, None)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(metrics["loss"][0]) == pytest.approx(np.mean(expected), rel=1e-5)
    gradients = jax.grad(lambda t: program.loss(t, frozen, examples, None)[0])(tree)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_several_in_one_program_are_as_alone(begun):
    together, tree, frozen = begun(2)
    parts = [batch(1), batch(2)]
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    joined["row_prompt"] = np.repeat(np.arange(2, dtype=np.int32), 4)
    joined["row_number"] = np.tile(np.arange(4, dtype=np.int32), 2)
    _, metrics = together.loss(tree, frozen, joined, None)
    alone, _, _ = begun(1)
    for i, part in enumerate(parts):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], tree)
        value, _ = alone.loss(mine, frozen, part, None)
        assert float(metrics["loss"][i]) == pytest.approx(float(value), rel=1e-5)


def test_a_file_scores_as_training_did(begun, tmp_path):
    program, tree, frozen = begun(1)
    tree = jax.tree.map(lambda x: x + 0.3, tree)
    program.file(tree, frozen, 0, backbone="mark", task="a", step=1).save(tmp_path / "f")
    file = load_prompt(tmp_path / "f")
    tokens = {"encoder_input_tokens": jnp.asarray(batch()["encoder_input_tokens"])}
    inferences = [program.infer(tree, frozen, 0), inference_of(frozen, CONFIG, file)]
    scores = [i.scorer(i.params, CONFIG, tokens) for i in inferences]
    np.testing.assert_allclose(*scores, rtol=1e-6)
    assert inferences[1].scorer.labels == LABELS


@pytest.mark.parametrize(
    ("change", "tasks", "says"),
    [
        ({"places": ("encoder", "decoder")}, [Task("a", LABELS, Words())], "reads the encoder's"),
        ({}, [Task("a")], "one of the tasks has none"),
        ({}, [Task("a", LABELS, Words()), Task("b", LABELS[:2], Words())], r"found \[2, 3\]"),
    ],
)
def test_what_no_head_can_choose_among_is_one_line(change, tasks, says):
    backbone = Backbone(CONFIG, {}, "mark", None)
    with pytest.raises(SpotError, match=says):
        dataclasses.replace(METHOD, **change).resolve(backbone, tasks)
