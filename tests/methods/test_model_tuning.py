"""Model tuning: its gradient, what is trained, and what the optimizer keeps of it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from method_cases import begin

from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.stored import read_description
from spot_jax.training.optimizers import Adafactor, build
from spot_jax.training.step import init_state

CONFIG = T5Config(
    vocab_size=160,
    emb_dim=128,
    num_heads=2,
    head_dim=8,
    mlp_dim=130,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)


@pytest.fixture(scope="module")
def params():
    rng, flat = np.random.default_rng(0), {}
    for name, shape in parameter_shapes(CONFIG).items():
        scale = 1.0 if len(shape) == 1 else shape[0] ** -0.5
        flat[name] = jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(3, 160, (3, 7)), rng.integers(3, 160, (3, 4))
    tokens[0, 5:] = 0
    weights = np.ones((3, 4), np.float32)
    weights[1, 2:] = 0
    shifted = np.concatenate([np.zeros((3, 1), int), targets[:, :-1]], axis=1)
    return {
        "encoder_input_tokens": tokens.astype(np.int32),
        "decoder_input_tokens": shifted.astype(np.int32),
        "decoder_target_tokens": targets.astype(np.int32),
        "decoder_loss_weights": weights,
    }


@pytest.fixture(scope="module")
def begun(params):
    keys = jax.random.split(jax.random.key(0), 1)
    program, trainable, frozen = begin(ModelTuning(), params, CONFIG, 1, keys)
    return program, keys, trainable, frozen


@pytest.fixture(scope="module")
def at(begun, batch):
    method, _, _, frozen = begun
    jitted = jax.jit(jax.value_and_grad(lambda tree: method.loss(tree, frozen, batch, None)[0]))
    return lambda tree: jitted(tree)


@pytest.mark.parametrize(
    "name",
    [
        "token_embedder/embedding",
        "encoder/layers_0/attention/query/kernel",
        "encoder/relpos_bias/rel_embedding",
        "decoder/layers_0/encoder_decoder_attention/value/kernel",
        "decoder/decoder_norm/scale",
    ],
)
def test_the_gradient_is_that_of_finite_differences(begun, at, name):
    trainable = begun[2]
    flat = traverse_util.flatten_dict(trainable, sep="/")
    gradient = traverse_util.flatten_dict(at(trainable)[1], sep="/")[name]
    length = float(jnp.linalg.norm(gradient))

    def slope(step):
        """Along the gradient itself: elsewhere float32 loses what little the loss changes."""
        ends = []
        for by in (step, -step):
            moved = {**flat, name: flat[name] + by * gradient / length}
            ends.append(float(at(traverse_util.unflatten_dict(moved, sep="/"))[0]))
        return (ends[0] - ends[1]) / (2 * step)

    # Three differences, so that the third and the fifth derivative fall out.
    narrow, wide, widest = (slope(0.02 / length * factor) for factor in (1, 2, 4))
    without_third = (4 * narrow - wide) / 3, (4 * wide - widest) / 3
    extrapolated = (16 * without_third[0] - without_third[1]) / 15
    assert extrapolated == pytest.approx(length, rel=1e-4)


def test_every_weight_has_a_gradient(begun, at):
    gradient = traverse_util.flatten_dict(at(begun[2])[1], sep="/")
    assert [name for name, leaf in gradient.items() if not np.asarray(leaf).any()] == []


def test_everything_is_trained_and_nothing_frozen(begun):
    method, _, trainable, frozen = begun
    assert frozen == {}
    flat = traverse_util.flatten_dict(trainable, sep="/")
    assert {name: leaf.shape for name, leaf in flat.items()} == parameter_shapes(CONFIG)
    assert (method.num_trained, method.prompt_length(trainable, frozen)) == (1, 0)
    assert method.method.tunes_backbone
    assert method.file(trainable, frozen, 0) is None


def test_the_second_moment_of_large_matrices_is_two_vectors(begun):
    method, keys, trainable, frozen = begun
    tx = build(Adafactor(0.001, weight_decay=0.0, factored=True, parameter_scale=True), 1)
    kept = init_state(trainable, tx, keys).opt_state[0]
    rows, columns, whole = (
        traverse_util.flatten_dict(tree, sep="/") for tree in (kept.v_row, kept.v_col, kept.v)
    )
    factored = set()
    for name, shape in parameter_shapes(CONFIG).items():
        if len(shape) == 2 and min(shape) >= 128:
            factored.add(name)
            # Of either axis the mean over the other one, and nothing of the matrix's own size.
            assert {rows[name].size, columns[name].size} == set(shape), name
            assert whole[name].size == 1, name
        else:
            assert whole[name].shape == shape, name
    assert "token_embedder/embedding" in factored and len(factored) > 4
    numbers = sum(leaf.size for leaf in jax.tree.leaves(kept))
    assert numbers < 0.3 * sum(leaf.size for leaf in jax.tree.leaves(trainable))


def test_what_is_trained_of_mini_is_all_of_it():
    mini = read_description(Path(__file__).parents[2] / "backbones" / "mini").config
    sizes = {name: int(np.prod(shape)) for name, shape in parameter_shapes(mini).items()}
    # Two tables of the vocabulary; each layer its attentions, gated MLP and norms; two biases.
    d, joined, mlp = mini.emb_dim, mini.num_heads * mini.head_dim, mini.mlp_dim
    attention, feed = 4 * d * joined, 3 * d * mlp
    encoder = mini.num_encoder_layers * (attention + feed + 2 * d)
    decoder = mini.num_decoder_layers * (2 * attention + feed + 3 * d)
    biases = 2 * mini.relative_attention_num_buckets * mini.num_heads
    assert sum(sizes.values()) == 2 * mini.vocab_size * d + encoder + decoder + 2 * d + biases
