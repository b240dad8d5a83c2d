"""Losses and gradients: against Google's, packed against unpacked, several prompts against one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from method_cases import begin, from_rows
from tiny_text import CONFIG as TEXT

from spot_jax.data.batches import Batches, BatchShape
from spot_jax.data.examples import Examples
from spot_jax.data.sources import Shuffled
from spot_jax.data.virtual_tokens import VirtualTokens
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.token_losses import token_losses
from spot_jax.t5.config import parameter_shapes
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.optimizers import Adafactor, build
from spot_jax.training.step import init_state, train_step
from tasks.bundled import reading
from tasks.bundled.sets import HERE


@pytest.fixture(scope="module")
def z(golden):
    return np.load(golden / "golden.npz")


@functools.lru_cache
def value_and_grad(method):
    return jax.jit(jax.value_and_grad(method.loss, has_aux=True))


def close(actual, expected, relative=1e-5):
    """Equal, relative to the largest number of the expected array."""
    difference = np.abs(np.asarray(actual) - np.asarray(expected)).max()
    assert difference <= relative * np.abs(np.asarray(expected)).max()


def golden_batch(z, length=0):
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    ids = np.tile(128 + np.arange(length, dtype=np.int32), (3, 1))
    tokens = np.concatenate([ids, z["encoder_input_tokens"].astype(np.int32)], axis=1)
    return {"encoder_input_tokens": tokens, **{name: z[name] for name in names}}


def prompt_tuning(golden_backbone, z):
    config, params = golden_backbone
    keys = jax.random.split(jax.random.key(0), 1)
    program, trainable, frozen = begin(
        PromptTuning(7), params, config, from_rows(z["prompt"]), keys
    )
    return program, keys, trainable, frozen


def test_prompt_loss_and_gradient_are_googles(golden_backbone, z):
    method, _, trainable, frozen = prompt_tuning(golden_backbone, z)
    (loss, metrics), grad = value_and_grad(method)(trainable, frozen, golden_batch(z, 7), None)
    close(loss, z["prompt/loss_sum_with_z"])
    close(grad["prompt"][0], z["prompt/grad"])
    close(metrics["z_loss"] * metrics["tokens"], z["prompt/z_loss"])
    assert metrics["tokens"] == z["decoder_loss_weights"].sum()
    assert list(grad) == ["prompt"]


@pytest.mark.slow
def test_the_prompt_is_dropped_out_as_the_text_that_it_is_joined_to(golden_backbone, z):
    """A feature that is dropped from the embedded input has no gradient in any of its rows."""
    config, params = golden_backbone
    config = dataclasses.replace(config, dropout_rate=0.5)
    keys = jax.random.split(jax.random.key(0), 1)
    program, trainable, frozen = begin(
        PromptTuning(7), params, config, from_rows(z["prompt"]), keys
    )
    one_row = {name: value[:1] for name, value in golden_batch(z, 7).items()}
    dropped = []
    for key in (keys, None):
        _, grad = value_and_grad(program)(trainable, frozen, one_row, key)
        zero = np.asarray(grad["prompt"][0]) == 0
        np.testing.assert_array_equal(zero, zero[:1].repeat(7, axis=0))
        dropped.append(zero[0].mean())
    assert 0.2 < dropped[0] < 0.8 and dropped[1] == 0


def test_five_adafactor_steps_are_googles(golden_backbone, z):
    method, keys, trainable, frozen = prompt_tuning(golden_backbone, z)
    tx = build(Adafactor(0.3), 1)
    state, step = init_state(trainable, tx, keys), train_step(method, tx, dropout=False)
    for i in range(5):
        state, metrics = step(state, frozen, golden_batch(z, 7))
        close(state.trainable["prompt"][0], z["prompt/adafactor_lr0.3_prompts"][i])
        loss = (metrics["loss"] + metrics["z_loss"]) * metrics["tokens"]
        close(loss, z["prompt/adafactor_lr0.3_losses_before_step"][i])
    close(state.opt_state[0].v["prompt"][0], z["prompt/adafactor_state_after5:v"])
    assert state.step == 5
    assert step._cache_size() == 1


def test_model_gradients_are_googles(golden_backbone, z):
    config, params = golden_backbone
    method, trainable, frozen = begin(ModelTuning(per_token=False), params, config)
    assert frozen == {}
    (loss, _), grad = value_and_grad(method)(trainable, frozen, golden_batch(z), None)
    close(loss, z["minimal/loss_sum_with_z"])
    flat = traverse_util.flatten_dict(grad, sep="/")
    names = [name for name in z if name.startswith("minimal/grad:")]
    assert len(names) == 8
    for name in names:
        close(flat[name.removeprefix("minimal/grad:")], z[name])


def random_params(config, seed=0):
    rng, flat = np.random.default_rng(seed), {}
    for name, shape in parameter_shapes(config).items():
        scale = shape[0] ** -0.5 if len(shape) > 1 else 1.0
        flat[name] = (rng.normal(size=shape) * scale).astype(np.float32)
    flat["token_embedder/embedding"] *= config.vocab_size**0.5
    return traverse_util.unflatten_dict(flat, sep="/")


def test_packed_equals_unpacked_on_real_text():
    vocabulary = Vocabulary(HERE.parent / "mini_spiece.model")
    examples = reading.examples("sms_spam", "train", vocabulary).first(300)
    length, (_, longest) = 5, examples.longest()
    write = VirtualTokens(TEXT.vocab_size, length)
    shape = BatchShape(4, 40, longest, True, 200, 40)
    packed = Batches(Shuffled(examples, seed=3), shape, write=write)
    batch = next(packed)
    segments = batch["encoder_segment_ids"].max(axis=1)
    assert segments.min() >= 4
    alone = Batches(Shuffled(examples, 3), BatchShape(packed.examples, 40, longest), write=write)
    rows = next(alone)
    assert rows["decoder_loss_weights"].sum() == batch["decoder_loss_weights"].sum()

    prompt = np.random.default_rng(1).normal(size=(length, 16)).astype(np.float32)
    params = random_params(TEXT)
    method, trainable, frozen = begin(PromptTuning(length), params, TEXT, from_rows(prompt))
    (loss, metrics), grad = value_and_grad(method)(trainable, frozen, batch, None)
    (expected, same), gradient = value_and_grad(method)(trainable, frozen, rows, None)
    close(loss, expected)
    close(grad["prompt"], gradient["prompt"])
    for name in ("loss", "z_loss", "accuracy", "tokens"):
        close(metrics[name], same[name])


@pytest.mark.slow
def test_a_prompts_gradient_is_that_of_its_own_rows():
    n, length = 3, 2
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(n, length, 16)).astype(np.float32)
    params = random_params(TEXT)
    # Of very different numbers of target tokens: one normaliser for all would show.
    counts = (1, 2, 5)

    def batch(i, shift):
        pairs = [(rng.integers(3, 99, 4), rng.integers(3, 99, counts[i])) for _ in range(2)]
        source = Shuffled(Examples.from_lists(pairs), seed=i)
        shape = BatchShape(2, 4, 5)
        return source, shape, VirtualTokens(TEXT.vocab_size, length, shift)

    streams = [batch(i, i) for i in range(n)]
    rows = [next(Batches(source, shape, write=write)) for source, shape, write in streams]
    together = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    together["row_prompt"] = np.repeat(np.arange(n, dtype=np.int32), 2)
    together["row_number"] = np.tile(np.arange(2, dtype=np.int32), n)
    settings = PromptTuning(length, per_token=True)
    method, trainable, frozen = begin(settings, params, TEXT, from_rows(*prompts))
    (_, metrics), grad = value_and_grad(method)(trainable, frozen, together, None)
    single = begin(settings, params, TEXT, from_rows(prompts[0]))[0]
    for i in range(n):
        part = dict(rows[i])
        ids = part["encoder_input_tokens"]
        part["encoder_input_tokens"] = np.where(ids >= TEXT.vocab_size, ids - i * length, ids)
        alone = {"prompt": trainable["prompt"][i : i + 1]}
        (_, part_metrics), expected = value_and_grad(single)(alone, frozen, part, None)
        close(grad["prompt"][i], expected["prompt"][0])
        close(metrics["loss"][i], part_metrics["loss"][0])
    assert metrics["tokens"].tolist() == [2 * count for count in counts]


def test_z_loss_is_the_squared_log_normaliser():
    logits = jnp.log(jnp.array([[[1.0, 2.0, 5.0]]]))
    loss, penalty = token_losses(logits, jnp.array([[1]]), z_loss=0.1)
    np.testing.assert_allclose(penalty, 0.1 * np.log(8.0) ** 2, rtol=1e-6)
    np.testing.assert_allclose(loss - penalty, -np.log(2.0 / 8.0), rtol=1e-6)
