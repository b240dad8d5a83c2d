"""Fastfood beside the explicit matrix; the weights it moves, and moves again from a file."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import begin
from scipy.linalg import hadamard as matrix

from spot_jax.errors import SpotError
from spot_jax.methods import fastfood
from spot_jax.methods.fastfood import FastfoodTuning, draw, hadamard, project
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.stored import inference_of, virtual_tokens
from spot_jax.t5.backbone import flatten, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.model import stack_layers, unstack_layers

CONFIG = T5Config(
    vocab_size=9,
    emb_dim=3,
    num_heads=1,
    head_dim=2,
    mlp_dim=4,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.0,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def params():
    return unflatten({n: jnp.asarray(normal(1, *s)) for n, s in parameter_shapes(CONFIG).items()})


@pytest.mark.parametrize("size", [1, 2, 64, 512])
def test_hadamard_is_the_matrix(size):
    x = normal(0, 2, size)
    np.testing.assert_allclose(hadamard(x), x @ matrix(size), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dim", "shape"),
    [(5, (4, 6)), (32, (4, 6)), (3, (16,)), (7, (2, 2))],
    ids=["padded", "all columns", "exact", "fewer numbers than d"],
)
def test_the_projection_is_the_explicit_matrix(dim, shape):
    size = math.prod(shape)
    rows = fastfood.power_of_two(size)
    drawn = draw(np.random.default_rng(0), dim, size)
    columns = min(dim, rows)
    signs = np.diag(drawn["signs"][:columns])
    # Pi's row numbers are known up to a period in which H's first columns repeat.
    product = matrix(rows)[drawn["index"]][:, :columns] @ signs
    whole = (matrix(rows) @ (drawn["gauss"][:, None] * product))[:size]
    vector = normal(1, dim)
    projected = project(vector, drawn, shape)
    np.testing.assert_allclose(projected, (whole @ vector[:columns]).reshape(shape), rtol=1e-4)


def test_draws_are_of_the_published_kind():
    size, dim = 3000, 50
    drawn = draw(np.random.default_rng(0), dim, size)
    assert set(drawn["signs"]) == {-1.0, 1.0} and drawn["signs"].shape == (64,)
    # A permutation of 4,096 by a period of 64.
    assert np.bincount(drawn["index"]).tolist() == [64] * 64
    gauss = drawn["gauss"] * 1.0
    # g / (sqrt(L sum g^2) sqrt(D / L)): the divided numbers' squares add to 1 / D.
    assert np.sum(np.square(gauss)) == pytest.approx(1 / size, rel=1e-4)
    columns = [project(np.eye(dim, dtype=np.float32)[i], drawn, (size,)) for i in (0, 49)]
    # Columns have length 1 or about it, and nearly no part of each other.
    assert np.linalg.norm(columns, axis=1) == pytest.approx(1, abs=0.1)
    assert abs(np.dot(*columns)) < 0.1


def begun(seed=0, config=CONFIG, tree=None):
    return begin(FastfoodTuning(dim=6, seed=seed), tree or params(), config)


@pytest.mark.slow
def test_the_vector_begins_at_the_backbone_and_moves_every_tensor():
    method, trainable, frozen = begun()
    assert jax.tree.map(jnp.shape, trainable) == {"vector": (6,)}
    assert (method.num_trained, method.prompt_length(trainable, frozen)) == (1, 0)
    still = method.infer(trainable, frozen, 0).params
    jax.tree.map(np.testing.assert_array_equal, still, params())
    vector = normal(3, 6)
    moved = dict(flatten(method.infer({"vector": vector}, frozen, 0).params))
    steps = {name: moved[name] - leaf for name, leaf in flatten(params())}
    assert all(np.all(step != 0) for step in steps.values())
    # Tensors of one shape go different ways, and another seed goes another way.
    first, second = (steps[f"encoder/layers_{i}/attention/query/kernel"] for i in (0, 1))
    assert np.abs(first - second).max() > 0.01
    elsewhere = dict(flatten(begun(seed=1)[0].infer({"vector": vector}, begun(1)[2], 0).params))
    assert all(np.any(moved[name] != elsewhere[name]) for name in moved)


@pytest.mark.slow
def test_scanned_layers_move_as_layers_by_themselves():
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    vector = {"vector": jnp.asarray(normal(3, 6))}
    apart, stacked = begun(), begun(config=scanned, tree=stack_layers(params(), CONFIG))
    expected = apart[0].infer(vector, apart[2], 0).params
    actual = unstack_layers(stacked[0].infer(vector, stacked[2], 0).params, CONFIG)
    close = {"rtol": 1e-5, "atol": 1e-6}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), actual, expected)


def test_a_file_gives_the_same_weights_again(tmp_path):
    method, _, frozen = begun(seed=5)
    trainable = {"vector": jnp.asarray(normal(3, 6))}
    method.file(trainable, frozen, 0).save(tmp_path / "vector.safetensors")
    file = load_prompt(tmp_path / "vector.safetensors")
    assert file.prompt is None and file.tensors["vector"].shape == (6,)
    again = inference_of(params(), CONFIG, file)
    expected = method.infer(trainable, frozen, 0).params
    jax.tree.map(np.testing.assert_array_equal, again.params, expected)
    assert again.table is None and virtual_tokens(file)[0] == 0
    other = dataclasses.replace(file, method={**file.method, "seed": 6})
    with pytest.raises(SpotError, match="another random projection than this NumPy draws") as says:
        inference_of(params(), CONFIG, other)
    assert "\n" not in str(says.value)


def test_no_dimension_is_refused():
    with pytest.raises(SpotError, match="at least 1 dimension, found 0"):
        FastfoodTuning(dim=0)


@pytest.mark.slow
def test_the_gradient_is_the_transposed_projection_of_the_weights_own():
    method, trainable, frozen = begun()
    rng = np.random.default_rng(0)
    text, targets = (rng.integers(2, 9, (2, n)).astype(np.int32) for n in (4, 2))
    batch = {
        "encoder_input_tokens": text,
        "decoder_input_tokens": np.pad(targets[:, :1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones((2, 2), np.float32),
    }
    trainable = {"vector": jnp.asarray(0.1 * normal(3, 6))}

    def loss(trainable, frozen):
        return method.loss(trainable, frozen, batch, None)[0]

    grads = jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True))(trainable, frozen)
    # d loss / d theta_0 is that in theta, for they differ by what v adds.
    basis = np.eye(6, dtype=np.float32)
    moves = [method.infer({"vector": basis[i]}, frozen, 0).params for i in range(6)]
    expected = [
        sum(
            np.sum((moved - leaf) * slope)
            for (_, moved), (_, leaf), (_, slope) in zip(
                flatten(move), flatten(params()), flatten(without_draws(grads[1])), strict=True
            )
        )
        for move in moves
    ]
    np.testing.assert_allclose(grads[0]["vector"], expected, rtol=1e-4, atol=1e-5)


def without_draws(tree):
    return {name: leaf for name, leaf in tree.items() if name != fastfood.DRAWS}
