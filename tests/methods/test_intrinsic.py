"""MSF and IST: their losses and gradients beside torch's, and what they leave behind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import backbone_of, begin, from_rows

from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.subspace import SubspaceShape
from spot_jax.methods.subspace_file import SubspaceFile, load_subspace
from spot_jax.methods.subspace_finding import SubspaceFinding, alpha_of_mean
from spot_jax.methods.subspace_tuning import SubspaceTuning
from spot_jax.methods.token_losses import token_losses
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
PARAMS = unflatten(
    {name: 0.5 * normal(i, *s) for i, (name, s) in enumerate(parameter_shapes(CONFIG).items())}
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


TASKS = [from_rows(rows, task=name)[0] for rows, name in zip(PROMPTS, "abc", strict=True)]


def finding(**fields):
    """A program of MSF, and its trees."""
    settings = {"prompts": list("abc"), "dim": 3, "width": 5, "scale": 2.0, **fields}
    return begin(SubspaceFinding(**settings), PARAMS, CONFIG, TASKS, keys())


@pytest.fixture(scope="module")
def subspace(tmp_path_factory):
    """The file of a subspace as MSF begins."""
    path = str(tmp_path_factory.mktemp("subspace") / "subspace.safetensors")
    trainable = jax.tree.map(np.asarray, finding()[1])
    SubspaceFile(SHAPE, trainable["proj"], trainable["proj_b"]).save(path)
    return path


def tuning(subspace, tasks=N, **fields):
    """A program of IST, and its trees."""
    return begin(SubspaceTuning(subspace, **fields), PARAMS, CONFIG, tasks, keys())


def value_and_grad(method, trainable, frozen):
    return jax.jit(jax.value_and_grad(method.loss, has_aux=True))(trainable, frozen, batch(), None)


@functools.cache
def prompts_gradient():
    """Of the language model's summed loss in each prompt, by prompt tuning's own loss."""

    params = jax.tree.map(jnp.asarray, PARAMS)
    program = begin(PromptTuning(P, z_loss=0.0), params, CONFIG, TASKS)[0]

    def loss(prompts):
        return program.loss({"prompt": prompts}, params, batch(), None)[0]

    return jax.jit(jax.value_and_grad(loss))


def in_torch(torch, proj, proj_b):
    """The auto-encoder as torch modules, with the weights of ours."""
    linear = [torch.nn.Linear(*np.shape(layer["kernel"])) for layer in (proj, *proj_b.values())]
    with torch.no_grad():
        for module, layer in zip(linear, (proj, proj_b["hidden"], proj_b["prompt"]), strict=True):
            module.weight.copy_(torch.tensor(np.asarray(layer["kernel"]).T))
            module.bias.copy_(torch.tensor(np.asarray(layer["bias"])))
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
    method, *trees = finding(alpha=200.0, per_token=False)
    return *trees, *value_and_grad(method, *trees)


@pytest.mark.slow
def test_ist_s_gradient_is_torch_s(subspace):
    torch = pytest.importorskip("torch")
    trainable = finding()[1]
    method, vector, frozen = tuning(subspace)
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
    mean = finding(alpha=alpha_of_mean(200.0, N * ROWS, 2), per_token=True)[0]
    (mean_loss, _), slopes = value_and_grad(mean, trainable, frozen)
    many = N * ROWS * 2
    np.testing.assert_allclose(loss, many * mean_loss, rtol=1e-5)
    for of_sum, of_mean in zip(jax.tree.leaves(grad), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(of_sum, many * of_mean, rtol=1e-4, atol=1e-4)


def test_a_run_of_msf_leaves_the_subspace_once_and_it_gives_the_prompts():
    method, trainable, frozen = finding()
    files = [
        method.file(trainable, frozen, i, backbone="ab", step=9, seed=4, task="abc"[i])
        for i in range(N)
    ]
    beside = [method.companions(trainable, frozen, i, file) for i, file in enumerate(files)]
    assert [list(kinds) for kinds in beside] == [["subspace"], [], []]
    subspace = beside[0]["subspace"]
    assert (subspace.tasks, subspace.step, subspace.backbone) == (("a", "b", "c"), 9, "ab")
    for i, file in enumerate(files):
        again = subspace.reconstruct(PROMPTS[i])
        np.testing.assert_allclose(again, file.rows, rtol=1e-5, atol=1e-6)
        inference = method.infer(trainable, frozen, i)
        np.testing.assert_array_equal(inference.table, file.rows)
        assert set(inference.params) == set(PARAMS)


def test_vectors_begin_as_asked_and_ist_stores_their_prompts(subspace):
    vector = normal(1, 3)
    mark = load_subspace(subspace).mark
    # A prompt that was tuned in this very subspace has its own place in it.
    options = {"method": {"subspace": {"mark": mark}}, "tensors": {"vector": vector}}
    tasks = [Task(), *from_rows(PROMPTS[0], **options), *from_rows(PROMPTS[1])]
    method, trainable, frozen = tuning(subspace, tasks, std=0.5)
    first = 0.5 * jax.random.normal(keys()[0], (3,))
    np.testing.assert_array_equal(trainable["vector"][0], first)
    np.testing.assert_array_equal(trainable["vector"][1], vector)
    place = load_subspace(subspace).project(PROMPTS[1])
    np.testing.assert_array_equal(trainable["vector"][2], place)
    file = method.file(trainable, frozen, 1)
    again = SHAPE.expand(frozen["proj_b"], vector)
    np.testing.assert_allclose(file.rows, again, rtol=1e-6)
    np.testing.assert_array_equal(file.tensors["vector"], vector)
    odd = {**options, "tensors": {"vector": vector[:2]}}
    with pytest.raises(SpotError, match=r"has shape \[3\], found \[2\]"):
        tuning(subspace, from_rows(PROMPTS[0], **odd))


def test_what_no_subspace_is_found_from():
    backbone = backbone_of(PARAMS, CONFIG)
    with pytest.raises(SpotError, match="the prompts of at least 2 tasks, found 1"):
        SubspaceFinding(["a"], dim=3).sources(backbone, 1)
    with pytest.raises(SpotError, match="alpha weighs the reconstruction"):
        finding(alpha=-1.0)
    with pytest.raises(SpotError, match=r"of prompts of shape \[4, 6\], found one of \[2, 6\]"):
        SHAPE.check_prompt((2, 6))


def test_smoothing_is_t5xs_in_value_and_gradient():
    logits, targets = normal(0, 1, 3, 7), np.array([[1, 0, 6]])

    def theirs(logits):
        """As T5X writes it: cross entropy with soft targets, less what it is at best."""
        sure, low = 0.9, 0.1 / 6
        soft = jnp.where(jax.nn.one_hot(targets, 7) > 0, sure, low)
        log_z = jax.scipy.special.logsumexp(logits, axis=-1, keepdims=True)
        loss = -jnp.sum(soft * (logits - log_z), axis=-1)
        least = -(sure * np.log(sure) + 6 * low * np.log(low + 1e-20))
        return loss - least + 0.01 * jnp.square(log_z[..., 0])

    def ours(logits):
        return token_losses(logits, jnp.asarray(targets), 0.01, 0.1)[0]

    logits = jnp.asarray(logits)
    np.testing.assert_allclose(ours(logits), theirs(logits), rtol=1e-5)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x)))(logits) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, atol=1e-6)
