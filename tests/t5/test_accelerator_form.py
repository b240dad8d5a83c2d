"""What a T5 does on accelerators alone, traced for them here: the same gradients, less memory."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.t5.config import T5Config
from spot_jax.t5.model import decode, encode, init_params, stack_layers
from spot_jax.t5.target import tracing_for
from spot_jax.training.sharding import MeshShape, make_mesh, place, tree_shardings

CONFIG = T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=8,
    head_dim=4,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
# More queries than a block of attention has, and no whole number of blocks.
ROWS, INPUTS, TARGETS, PROMPT = 4, 136, 4, 5


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    tokens = random.integers(1, CONFIG.vocab_size, (ROWS, INPUTS)).astype(np.int32)
    tokens[:, :PROMPT] = CONFIG.vocab_size + np.arange(PROMPT)
    tokens[1, -9:] = 0
    targets = random.integers(1, CONFIG.vocab_size, (ROWS, TARGETS)).astype(np.int32)
    table = random.normal(size=(PROMPT, CONFIG.emb_dim)).astype(np.float32)
    params = stack_layers(init_params(jax.random.key(0), CONFIG), CONFIG)
    return params, tokens, targets, jnp.asarray(table)


def loss_of(config, tokens, targets):
    keys = jax.random.split(jax.random.key(1), ROWS)

    def loss(table, params):
        encoded = encode(params, config, tokens, table=table, dropout_keys=keys)
        inputs = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        logits = decode(params, config, encoded, tokens, inputs, targets, dropout_keys=keys)
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], 2)
        return -jnp.mean(scores)

    return loss


def gradient(problem, mesh=None, **settings):
    """Return loss, gradient and compiled program, as here or as on a mesh of accelerators."""
    params, tokens, targets, table = problem
    config = dataclasses.replace(CONFIG, scan_layers=True, **settings)
    where = contextlib.nullcontext()
    if mesh is not None:
        params = place(params, tree_shardings(mesh, params))
        where = tracing_for(mesh, divided=True, platform="tpu")
    with where:
        step = jax.jit(jax.value_and_grad(loss_of(config, tokens, targets)))
        compiled = step.lower(table, params).compile()
    return *compiled(table, params), compiled


@pytest.fixture(scope="module")
def expected(problem):
    return gradient(problem)


@pytest.mark.parametrize("mesh", [(1, 1), (1, 8), (2, 4)])
def test_a_step_for_accelerators_has_the_gradient_of_a_plain_one(mesh, problem, expected):
    loss, actual, compiled = gradient(problem, make_mesh(MeshShape(*mesh)), remat="light")
    assert float(loss) == pytest.approx(float(expected[0]), rel=1e-6)
    largest = np.abs(expected[1]).max()
    np.testing.assert_allclose(actual, expected[1], rtol=0, atol=1e-5 * largest)
    whole = f"f32[{ROWS},{CONFIG.num_heads},{INPUTS},{INPUTS}]"
    assert whole not in compiled.as_text()


def held(problem, **settings):
    """Return what the backward pass of stacked layers is handed for each position of the inputs."""
    params, tokens, targets, table = problem
    config = dataclasses.replace(CONFIG, scan_layers=True, **settings)
    loss = loss_of(config, tokens, targets)
    with tracing_for(make_mesh(MeshShape(1, 1)), divided=True, platform="tpu"):
        back = jax.eval_shape(lambda table: jax.vjp(loss, table, params)[1], table)
    layers = CONFIG.num_encoder_layers
    return [
        x for x in jax.tree.leaves(back) if x.shape[:2] == (layers, ROWS) and INPUTS in x.shape[2:]
    ]


def test_a_mask_of_dropout_is_not_held_at_every_position(problem):
    arrays = held(problem)
    assert any(x.dtype == jnp.float32 for x in arrays)
    assert not any(x.dtype == bool for x in arrays)


def test_what_a_light_layer_holds(problem):
    joined = CONFIG.num_heads * CONFIG.head_dim
    # Its input and what attention leaves, query, key and value, and one branch of the gate.
    widths = 2 * CONFIG.emb_dim + 3 * joined + CONFIG.mlp_dim
    positions = CONFIG.num_encoder_layers * ROWS * INPUTS
    assert sum(x.size for x in held(problem, remat="light")) == positions * widths
    assert sum(x.size for x in held(problem, remat=True)) == positions * CONFIG.emb_dim
