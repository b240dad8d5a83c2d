"""Proj and Proj_b: their sizes, their formula, and the file they are kept in."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from spot_jax.errors import SpotError
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.subspace import SubspaceShape
from spot_jax.methods.subspace_file import SubspaceFile, load_subspace

KEY = jax.random.key(0)
SHAPE = SubspaceShape(dim=3, length=4, emb_dim=5, width=6)
PER_TOKEN = dataclasses.replace(SHAPE, variant="per_token")


def sizes(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def weights(shape):
    proj_key, proj_b_key = jax.random.split(KEY)
    return shape.init_proj(proj_key), shape.init_proj_b(proj_b_key)


@pytest.mark.parametrize(
    ("emb_dim", "dim", "proj", "proj_b"),
    [
        # D = 76,800 as in the paper, and T5 small and large.
        (768, 5, 384_005, 59_063_808),
        (768, 250, 76_801 * 250, 59_059_968 + 768 * 250),
        (512, 3, 51_201 * 3, 769 * 51_200 + 768 * 4),
        (1024, 1000, 102_401 * 1000, 769 * 102_400 + 768 * 1001),
    ],
)
def test_the_paper_s_sizes(emb_dim, dim, proj, proj_b):
    shape = SubspaceShape(dim, 100, emb_dim)
    shapes = jax.eval_shape(lambda: weights(shape))
    assert (sizes(shapes[0]), sizes(shapes[1])) == (proj, proj_b)
    named = shape.tensor_shapes()
    assert sum(math.prod(dims) for dims in named.values()) == proj + proj_b


def test_by_the_token_every_row_has_the_same_layers():
    shape = SubspaceShape(5, 100, 768, variant="per_token")
    shapes = jax.eval_shape(lambda: weights(shape))
    assert sizes(shapes[0]) == 768 * 5 + 5
    assert sizes(shapes[1]) == 5 * 768 + 768 + 768 * 768 + 768
    proj, proj_b = weights(PER_TOKEN)
    prompts = normal(1, 2, 4, 5)
    codes = PER_TOKEN.project(proj, prompts)
    assert codes.shape == (2, 4, 3)
    swapped = PER_TOKEN.expand(proj_b, PER_TOKEN.project(proj, prompts[:, ::-1]))
    np.testing.assert_allclose(swapped[:, ::-1], PER_TOKEN.expand(proj_b, codes), rtol=1e-5)


def test_fresh_weights_are_uniform_within_one_over_the_root_of_the_inputs():
    shape = SubspaceShape(10, 20, 30, 40)
    proj, proj_b = weights(shape)
    layers = {600: proj, 10: proj_b["hidden"], 40: proj_b["prompt"]}
    for inputs, layer in layers.items():
        for leaf in layer.values():
            assert np.abs(leaf).max() <= inputs**-0.5
        assert np.abs(layer["kernel"]).max() > 0.95 * inputs**-0.5
        assert np.std(layer["kernel"]) == pytest.approx((3 * inputs) ** -0.5, rel=0.15)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_formula_with_a_scale_around_it(scale):
    shape = dataclasses.replace(SHAPE, scale=scale)
    proj, proj_b = jax.tree.map(np.asarray, weights(shape))
    prompt = normal(1, 4, 5)
    code = prompt.reshape(20) / scale @ proj["kernel"] + proj["bias"]
    hidden = np.tanh(code @ proj_b["hidden"]["kernel"] + proj_b["hidden"]["bias"])
    expected = scale * (hidden @ proj_b["prompt"]["kernel"] + proj_b["prompt"]["bias"])
    np.testing.assert_allclose(shape.project(proj, prompt), code, rtol=1e-4, atol=1e-6)
    actual = shape.expand(proj_b, shape.project(proj, prompt))
    np.testing.assert_allclose(actual, expected.reshape(4, 5), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_reconstruction_falls_to_nothing_where_d_is_enough():
    # Six prompts of three directions.
    prompts = jnp.asarray(normal(0, 6, 3) @ normal(1, 3, 20)).reshape(6, 4, 5)
    shape = dataclasses.replace(SHAPE, width=64)
    tx = optax.adam(optax.linear_schedule(0.02, 0.0, 800))

    def error(params):
        again = shape.expand(params[1], shape.project(params[0], prompts))
        return jnp.mean(jnp.square(again - prompts))

    def step(carry, _):
        before, grads = jax.value_and_grad(error)(carry[0])
        updates, state = tx.update(grads, carry[1])
        return (optax.apply_updates(carry[0], updates), state), before

    params = weights(shape)
    errors = jax.jit(lambda x: jax.lax.scan(step, x, length=800)[1])((params, tx.init(params)))
    assert errors[-1] < 1e-4 * errors[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dim": 21}, "of 21 dimensions was asked for, but a prompt has 20 numbers"),
        ({"dim": 0}, "choose a dimension from 1 to 20"),
        ({"dim": 6, "variant": "per_token"}, "a prompt's row has 5 numbers"),
        ({"variant": "bert"}, "unknown variant 'bert' of the subspace; expected paper or per_tok"),
        ({"width": 0}, "hidden width is at least 1"),
        ({"scale": 0.0}, "the scale above 0"),
    ],
)
def test_a_subspace_that_cannot_be_is_one_line(change, match):
    with pytest.raises(SpotError, match=match) as caught:
        dataclasses.replace(SHAPE, **change)
    assert "\n" not in str(caught.value)


def stored(shape=SHAPE, **fields):
    proj, proj_b = jax.tree.map(np.asarray, weights(shape))
    return SubspaceFile(shape, proj, proj_b, backbone="ab" * 32, tasks=("a", "b"), **fields)


def test_a_subspace_comes_back_whole(tmp_path):
    path, origins = tmp_path / "deep" / "subspace.safetensors", ({"task": "a", "file": "x"},)
    subspace = stored(step=7, seed=3, ancestry=origins)
    subspace.save(path)
    loaded = load_subspace(path, backbone="ab" * 32, emb_dim=5, length=4, dim=3)
    assert loaded.shape == subspace.shape
    assert (loaded.step, loaded.seed, loaded.tasks, loaded.ancestry) == (7, 3, ("a", "b"), origins)
    jax.tree.map(np.testing.assert_array_equal, loaded.proj, subspace.proj)
    jax.tree.map(np.testing.assert_array_equal, loaded.proj_b, subspace.proj_b)
    assert loaded.mark == subspace.mark
    np.testing.assert_array_equal(
        loaded.reconstruct(normal(1, 4, 5)), subspace.reconstruct(normal(1, 4, 5))
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_another_proj_b_or_shape_has_another_mark():
    subspace = stored()
    bent = jax.tree.map(np.array, subspace.proj_b)
    bent["prompt"]["bias"][0] += 1e-3
    marks = {
        subspace.mark,
        dataclasses.replace(subspace, proj_b=bent).mark,
        dataclasses.replace(subspace, shape=dataclasses.replace(SHAPE, scale=2.0)).mark,
    }
    assert len(marks) == 3
    other = jax.tree.map(lambda x: x + 1, subspace.proj)
    assert dataclasses.replace(subspace, proj=other).mark == subspace.mark


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"length": 9}, "Proj_b of length 4 where length 9 is expected"),
        ({"emb_dim": 768}, "Proj_b of emb_dim 5 where emb_dim 768 is expected"),
        ({"dim": 5}, "Proj_b of dim 3 where dim 5 is expected"),
        ({"backbone": "cd" * 32}, "found on another backbone .fingerprint abababababab"),
    ],
)
def test_a_proj_b_of_another_shape_is_refused(asked, match, tmp_path):
    stored().save(tmp_path / "s")
    with pytest.raises(SpotError, match=match) as caught:
        load_subspace(tmp_path / "s", **asked)
    assert "\n" not in str(caught.value)


def test_what_is_no_subspace_is_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(SpotError, match="no subspace file at"):
        load_subspace(path)
    PromptFile(normal(0, 2, 3)).save(path)
    with pytest.raises(SpotError, match="not a subspace file but a prompt's"):
        load_subspace(path)
    stored().save(path)
    with pytest.raises(SpotError, match="not a prompt file but a subspace"):
        load_prompt(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(SpotError, match="not a subspace file of spot-jax, or truncated"):
        load_subspace(path)
    bent = stored().proj_b | {"prompt": {"kernel": normal(0, 6, 19), "bias": normal(0, 20)}}
    dataclasses.replace(stored(), proj_b=bent).save(path)
    with pytest.raises(SpotError, match=r"proj_b/prompt/kernel should be \[6, 20\], found \[6, 19"):
        load_subspace(path)
    nan = stored().proj | {"bias": np.full(3, np.nan, np.float32)}
    dataclasses.replace(stored(), proj=nan).save(path)
    with pytest.raises(SpotError, match="holds NaN or infinity"):
        load_subspace(path)


def test_a_prompt_of_another_shape_has_no_place_in_it():
    with pytest.raises(SpotError, match=r"of prompts of shape \[4, 5\], found one of \[5, 5\]"):
        stored().reconstruct(normal(0, 5, 5))


@pytest.mark.parametrize("shape", [SHAPE, PER_TOKEN], ids=["paper", "per_token"])
def test_files_hold_every_array_under_its_path(shape, tmp_path):
    stored(shape).save(tmp_path / "s")
    arrays = safetensors.numpy.load_file(tmp_path / "s")
    assert {name: array.shape for name, array in arrays.items()} == shape.tensor_shapes()
