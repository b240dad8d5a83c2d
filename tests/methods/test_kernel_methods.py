"""LoRA and IA3: where they begin, what they compute, N at once, scanned, stored and read."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from method_cases import begin

from spot_jax.errors import SpotError
from spot_jax.methods.base import StoredPrompt, Task
from spot_jax.methods.ia3 import IA3Tuning
from spot_jax.methods.lora import LoRATuning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.stored import inference_of
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.kernels import kernel_shapes
from spot_jax.t5.model import decode, encode, stack_layers

# Heads x head_dim (12) is not the width (10); the stacks differ in depth.
CONFIG = T5Config(
    vocab_size=40,
    emb_dim=10,
    num_heads=3,
    head_dim=4,
    mlp_dim=14,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
EVERY = ("query", "key", "value", "out", "wi_0", "wi_1", "wo")
LORA = LoRATuning(3, 6.0, ("query", "out", "wi_0", "wo"))
EVERY_KERNEL = LoRATuning(3, 6.0, EVERY)
METHODS = [
    LORA,
    IA3Tuning(),
    pytest.param(EVERY_KERNEL, marks=pytest.mark.slow),
    pytest.param(IA3Tuning(("query", "wo"), ("out", "wi_0")), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(CONFIG).items()
    flat = {n: jnp.asarray(rng.normal(size=s) * 0.3, jnp.float32) for n, s in shapes}
    return traverse_util.unflatten_dict(flat, sep="/")


def batch_of(prompts, rows=2, seed=0):
    rng = np.random.default_rng(seed)
    inputs, targets = (rng.integers(3, 40, (prompts * rows, size)) for size in (5, 4))
    return {
        "encoder_input_tokens": jnp.asarray(inputs, jnp.int32),
        "decoder_input_tokens": jnp.asarray(np.pad(targets[:, :-1], ((0, 0), (1, 0)))),
        "decoder_target_tokens": jnp.asarray(targets),
        "decoder_loss_weights": jnp.ones(targets.shape, jnp.float32),
        "row_prompt": jnp.repeat(jnp.arange(prompts), rows),
        "row_number": jnp.tile(jnp.arange(rows), prompts),
    }


@functools.partial(jax.jit, static_argnums=2)
def logits_of(params, batch, config=CONFIG):
    tokens = batch["encoder_input_tokens"]
    encoded = encode(params, config, tokens)
    targets = batch["decoder_input_tokens"], batch["decoder_target_tokens"]
    return decode(params, config, encoded, tokens, *targets)


def drawn(tree, seed=1):
    """Numbers that are neither LoRA's zeros nor IA3's ones."""
    leaves, kind = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [x + 0.5 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(kind, leaves)


def by_hand(method, tree, params):
    """The T5 with every kernel computed anew, layer by layer, in NumPy."""
    flat = {n: np.asarray(x, np.float64) for n, x in _flat(params).items()}
    for name, leaf in _flat(tree).items():
        path, kind = name.rsplit("/", 1)
        for i in range(len(leaf)):
            kernel = f"{path.replace('layers', f'layers_{i}')}/kernel"
            if kind == "b":
                a = np.asarray(_flat(tree)[f"{path}/a"][i], np.float64)
                flat[kernel] = flat[kernel] + method.alpha / method.rank * a @ np.asarray(leaf[i])
            elif kind == "scale" and path.rsplit("/", 1)[1] in method.inputs:
                flat[kernel] = flat[kernel] * np.asarray(leaf[i])[:, None]
            elif kind == "scale":
                flat[kernel] = flat[kernel] * np.asarray(leaf[i])[None]
    tree = {n: jnp.asarray(x, jnp.float32) for n, x in flat.items()}
    return traverse_util.unflatten_dict(tree, sep="/")


def _flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize("method", METHODS)
def test_training_begins_at_the_frozen_model_and_goes_where_the_formula_says(method, params):
    program, trainable, frozen = begin(method, params, CONFIG)
    batch = batch_of(1)
    plain = logits_of(params, batch)
    at_first = logits_of(program.infer(trainable, frozen, 0).params, batch)
    np.testing.assert_allclose(at_first, plain, atol=1e-5)
    trainable = drawn(trainable)
    adapted = logits_of(program.infer(trainable, frozen, 0).params, batch)
    expected = logits_of(by_hand(method, jax.tree.map(lambda x: x[0], trainable), params), batch)
    np.testing.assert_allclose(adapted, expected, atol=2e-4)
    assert np.abs(adapted - plain).max() > 0.1


@pytest.mark.parametrize(
    ("method", "scan"),
    [
        (LORA, False),
        pytest.param(LORA, True, marks=pytest.mark.slow),
        pytest.param(IA3Tuning(), True, marks=pytest.mark.slow),
    ],
)
def test_prompts_in_one_program_are_as_alone(method, scan, params):
    config = dataclasses.replace(CONFIG, scan_layers=scan, remat=scan)
    tree = stack_layers(params, config) if scan else params
    program, trainable, frozen = begin(method, tree, config, 3)
    trainable, batch = drawn(trainable), batch_of(3)
    alone, _, _ = begin(method, tree, config)

    def value_and_grad(program):
        return jax.jit(jax.value_and_grad(lambda t, b: program.loss(t, frozen, b, None)[0]))

    loss, grads = value_and_grad(program)(trainable, batch)
    loss_alone, total = value_and_grad(alone), 0.0
    for i in range(3):
        part = jax.tree.map(lambda x, i=i: x[i : i + 1], trainable)
        rows = {n: x[2 * i : 2 * i + 2] for n, x in batch.items() if not n.startswith("row_")}
        of_part, expected = loss_alone(part, rows)
        total += of_part
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[i], b[0], atol=2e-5, rtol=2e-4)
    np.testing.assert_allclose(loss, total, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_stored_file_predicts_as_training_did_and_begins_another_run(method, params, tmp_path):
    program, trainable, frozen = begin(method, params, CONFIG, 2)
    trainable, batch = drawn(trainable), batch_of(1)
    program.file(trainable, frozen, 1).save(tmp_path / "p.safetensors")
    file = load_prompt(tmp_path / "p.safetensors")
    expected = logits_of(program.infer(trainable, frozen, 1).params, batch)
    for scan in (False, True):
        config = dataclasses.replace(CONFIG, scan_layers=scan)
        tree = stack_layers(params, config) if scan else params
        logits = logits_of(inference_of(tree, config, file).params, batch, config)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    again = dataclasses.replace(method, init="prompt", prompt="p")
    if isinstance(method, LoRATuning):
        again = dataclasses.replace(again, alpha=1.5)
    program, trainable, _ = begin(again, params, CONFIG, [Task(source=StoredPrompt("p", file))])
    logits = logits_of(program.infer(trainable, params, 0).params, batch)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_what_is_trained_is_small_and_no_gradient_is_a_kernels_size(params):
    program, trainable, frozen = begin(LoRATuning(2), params, CONFIG, 2)
    shapes = kernel_shapes(CONFIG, ("query", "value"))
    assert len(shapes) == 6
    assert sum(x.size for x in jax.tree.leaves(trainable)) == 2 * sum(
        layers * 2 * (inputs + outputs) for layers, inputs, outputs in shapes.values()
    )
    batch = batch_of(2)
    jaxpr = jax.make_jaxpr(jax.grad(lambda t: program.loss(t, frozen, batch, None)[0]))(trainable)
    results = {v.aval.shape for eqn in jaxpr.jaxpr.eqns for v in eqn.outvars}
    kernels = {(10, 12), (2, 10, 12), (3, 10, 12), (1, 10, 12)}
    assert not kernels & results


def test_impossible_settings_are_refused(params):
    for make, message in (
        (lambda: LoRATuning(0), "LoRATuning.rank is 0"),
        (lambda: LoRATuning(init="zeros"), "'random' or 'prompt', not 'zeros'"),
        (lambda: IA3Tuning(("key",), ("key",)), "found both for key"),
        (lambda: begin(LoRATuning(targets=("q",)), params, CONFIG), "found kernels called 'q'"),
        (lambda: begin(LoRATuning(targets=()), params, CONFIG), "found no kernel"),
    ):
        with pytest.raises(SpotError, match=message):
            make()
    program, trainable, frozen = begin(LoRATuning(2), params, CONFIG)
    file = program.file(trainable, frozen, 0)
    tasks = [Task(source=StoredPrompt("old", file))]
    for method in (LoRATuning(4, init="prompt"), IA3Tuning(init="prompt")):
        with pytest.raises(SpotError, match=r"old: expected .*found LoRATuning"):
            begin(method, params, CONFIG, tasks)
    other = dataclasses.replace(CONFIG, num_decoder_layers=2)
    with pytest.raises(SpotError, match="do not go with this backbone"):
        inference_of(params, other, file)
