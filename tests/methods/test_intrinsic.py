"""MSF and IST: their losses and gradients beside torch's, and what they leave behind."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.methods.base import token_losses
from spot_jax.methods.intrinsic_ist import SubspaceTuning
from spot_jax.methods.intrinsic_msf import SubspaceFinding, alpha_of_mean
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_tuning import ArrayInit, PromptTuning
from spot_jax.methods.subspace import SubspaceShape
from spot_jax.t5.backbone import unflatten
from spot_jax.t5.config import T5Config, parameter_shapes

CONFIG = T5Config(
    vocab_size=20,
    emb_dim=6,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
N, P, ROWS = 3, 4, 2
SHAPE = SubspaceShape(dim=3, length=P, emb_dim=6, width=5, scale=2.0)


@functools.cache
def keys():
    return jax.random.split(jax.random.key(0), N)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PROMPTS = normal(9, N, P, 6)
BACKBONE = types.SimpleNamespace(
    params=unflatten(
        {name: 0.5 * normal(i, *s) for i, (name, s) in enumerate(parameter_shapes(CONFIG).items())}
    )
)


@functools.cache
def batch():
    """Rows of every prompt, all of two target tokens."""
    rng = np.random.default_rng(0)
    rows = N * ROWS
    prompt = np.repeat(np.arange(N, dtype=np.int32), ROWS)
    ids = CONFIG.vocab_size + prompt[:, None] * P + np.arange(P, dtype=np.int32)
    text = rng.integers(2, 20, (rows, 3)).astype(np.int32)
    targets = rng.integers(2, 20, (rows, 2)).astype(np.int32)
    return {
        "encoder_input_tokens": np.concatenate([ids, text], axis=1),
        "decoder_input_tokens": np.pad(targets[:, :1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones((rows, 2), np.float32),
        "row_prompt": prompt,
        "row_number": np.tile(np.arange(ROWS, dtype=np.int32), N),
    }


def found(**fields):
    return SubspaceFinding(CONFIG, PROMPTS, **{"shape": SHAPE, **fields})


def tuned(proj_b, **fields):
    return SubspaceTuning(CONFIG, SHAPE, proj_b, **{"starts": (None,) * N, **fields})


def value_and_grad(method, trainable, frozen):
    return jax.jit(jax.value_and_grad(method.loss, has_aux=True))(trainable, frozen, batch(), None)


@functools.cache
def prompts_gradient():
    """Of the language model's summed loss in each prompt, by prompt tuning's own loss."""

    params = jax.tree.map(jnp.asarray, BACKBONE.params)

    def loss(prompts):
        method = PromptTuning(CONFIG, P, (ArrayInit(PROMPTS[0]),) * N, z_loss=0.0)
        return method.loss({"prompt": prompts}, params, batch(), None)[0]

    return jax.jit(jax.value_and_grad(loss))


def in_torch(torch, proj, proj_b):
    """The auto-encoder as torch modules, with the weights of ours."""
    linear = [torch.nn.Linear(*np.shape(one["kernel"])) for one in (proj, *proj_b.values())]
    with torch.no_grad():
        for module, one in zip(linear, (proj, proj_b["hidden"], proj_b["prompt"]), strict=True):
            module.weight.copy_(torch.tensor(np.asarray(one["kernel"]).T))
            module.bias.copy_(torch.tensor(np.asarray(one["bias"])))
    return linear[0], torch.nn.Sequential(linear[1], torch.nn.Tanh(), linear[2])


@pytest.mark.slow
def test_msf_s_gradient_is_torch_s():
    """As the released code has it: summed, and 200 times the mean square of the difference."""
    torch = pytest.importorskip("torch")
    trainable, frozen, (loss, metrics), grad = released()
    proj, proj_b = in_torch(torch, **trainable)
    stored = torch.tensor(PROMPTS)
    again = 2.0 * proj_b(proj(stored.flatten(1) / 2.0)).reshape(N, P, 6)
    lm, slope = prompts_gradient()(jnp.asarray(again.detach().numpy()))
    error = torch.mean(((again - stored) / 2.0) ** 2)
    assert loss == pytest.approx(float(lm) + 200.0 * float(error.detach()), rel=1e-5)
    assert np.mean(metrics["reconstruction"]) == pytest.approx(float(error.detach()), rel=1e-5)

    # What flows back through P* is the language model's slope there.
    total = torch.sum(again * torch.tensor(np.asarray(slope))) + 200.0 * error
    total.backward()
    for ours, module in (
        (grad["proj"], proj),
        (grad["proj_b"]["hidden"], proj_b[0]),
        (grad["proj_b"]["prompt"], proj_b[2]),
    ):
        np.testing.assert_allclose(ours["kernel"], module.weight.grad.T, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours["bias"], module.bias.grad, rtol=1e-4, atol=1e-5)
    assert set(grad) == {"proj", "proj_b"}


@functools.cache
def released():
    method = found(alpha=200.0, per_token=False)
    trees = method.init(keys(), BACKBONE)
    return *trees, *value_and_grad(method, *trees)


@pytest.mark.slow
def test_ist_s_gradient_is_torch_s():
    torch = pytest.importorskip("torch")
    trainable, _ = found().init(keys(), BACKBONE)
    method = tuned(trainable["proj_b"])
    vector, frozen = method.init(keys(), BACKBONE)
    assert vector["vector"].shape == (N, 3)
    _, grad = value_and_grad(method, vector, frozen)

    _, proj_b = in_torch(torch, **trainable)
    leaf = torch.tensor(np.asarray(vector["vector"]), requires_grad=True)
    prompts = 2.0 * proj_b(leaf).reshape(N, P, 6)
    _, slope = prompts_gradient()(jnp.asarray(prompts.detach().numpy()))
    torch.sum(prompts * torch.tensor(np.asarray(slope))).backward()
    np.testing.assert_allclose(grad["vector"], leaf.grad, rtol=1e-4, atol=1e-6)
    assert set(grad) == {"vector"}


@pytest.mark.slow
def test_the_released_balance_beside_a_sum_is_ours_beside_a_mean():
    trainable, frozen, (loss, _), grad = released()
    # All targets have two tokens, so the mean over them is the sum by their number.
    mean = found(alpha=alpha_of_mean(200.0, N * ROWS, 2), per_token=True)
    (own, _), slopes = value_and_grad(mean, trainable, frozen)
    many = N * ROWS * 2
    np.testing.assert_allclose(loss, many * own, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(grad), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(one, many * other, rtol=1e-4, atol=1e-4)


def test_a_run_of_msf_leaves_the_subspace_once_and_it_gives_the_prompts():
    origins = tuple({"task": name, "step": 5, "file": f"{name}.safetensors"} for name in "abc")
    method = found(files=origins)
    trainable, frozen = method.init(keys(), BACKBONE)
    file = PromptFile(PROMPTS[0], backbone="ab", step=9, seed=4, method=method.describe())
    beside = [method.beside(trainable, frozen, i, file) for i in range(N)]
    assert [list(one) for one in beside] == [["subspace"], [], []]
    subspace = beside[0]["subspace"]
    assert (subspace.tasks, subspace.step, subspace.backbone) == (("a", "b", "c"), 9, "ab")
    for i in range(N):
        again = method.export(trainable, frozen, i)
        np.testing.assert_allclose(subspace.reconstruct(PROMPTS[i]), again, rtol=1e-5, atol=1e-6)
        table = method.inference(trainable, frozen, i)
        np.testing.assert_array_equal(table.table, again)
        assert set(table.params) == set(BACKBONE.params)


def test_vectors_begin_as_told_and_ist_exports_their_prompts():
    trainable, _ = found().init(keys(), BACKBONE)
    given = normal(1, 3)
    method = tuned(trainable["proj_b"], starts=(None, given, None), std=0.5)
    vector, frozen = method.init(keys(), BACKBONE)
    np.testing.assert_array_equal(vector["vector"][1], given)
    drawn = [0.5 * jax.random.normal(keys()[i], (3,)) for i in (0, 2)]
    np.testing.assert_array_equal(vector["vector"][np.array([0, 2])], np.stack(drawn))
    again = SHAPE.expand(trainable["proj_b"], given)
    np.testing.assert_allclose(method.export(vector, frozen, 1), again, rtol=1e-6)
    np.testing.assert_array_equal(method.tensors(vector, frozen, 1)["vector"], given)
    with pytest.raises(SpotError, match=r"has shape \[3\], found \[2\]"):
        tuned(trainable["proj_b"], starts=(normal(0, 2),))


@pytest.mark.parametrize(
    ("prompts", "fields", "match"),
    [
        (PROMPTS[:1], {}, "the prompts of at least 2 tasks, found 1"),
        (PROMPTS, {"alpha": -1.0}, "alpha weighs the reconstruction"),
        (PROMPTS[:, :2], {}, r"of prompts of shape \[4, 6\], found one of \[2, 6\]"),
    ],
)
def test_what_no_subspace_is_found_from(prompts, fields, match):
    with pytest.raises(SpotError, match=match) as caught:
        dataclasses.replace(found(), prompts=prompts, **fields)
    assert "\n" not in str(caught.value)


def test_smoothing_gives_every_id_its_share():
    logits, targets = normal(0, 1, 3, 7), np.array([[1, 0, 6]])
    ours, _ = token_losses(jnp.asarray(logits), jnp.asarray(targets), 0.0, 0.1)
    weights = 0.9 * np.eye(7)[targets] + 0.1 / 7
    log_p = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    np.testing.assert_allclose(ours, -np.sum(weights * log_p, axis=-1), rtol=1e-5)
