"""Losses of `mini`'s three stages, its optimizer and its update."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from spot_jax.t5 import model
from spot_jax.t5.config import T5Config
from tools.mini import rows
from tools.mini.batches import Batch, Frozen

Trainable = dict[str, Any]
"""`t5`, the model; `teacher`, a matrix to the teacher's vectors; `prompts` of the tasks."""
Metrics = dict[str, Float[Array, ""]]
Z_LOSS = 1e-4


def target_loss(
    params: Mapping[str, Any], config: T5Config, encoded: Float[Array, "b t d"],
    inputs: Int[Array, "b t"], targets: Int[Array, "b a"], weight: Float[Array, " b"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:  # fmt: skip
    """Return the mean loss over target pieces, and the share of rows whose first piece is right."""
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    logits = model.decode(params, config, encoded, inputs, shifted, targets)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    mask = (targets > 0) * weight[:, None]
    loss = jnp.sum((log_z - chosen + Z_LOSS * log_z**2) * mask) / jnp.maximum(jnp.sum(mask), 1)
    right = (jnp.argmax(logits[:, 0], -1) == targets[:, 0]) * weight
    return loss, jnp.sum(right) / jnp.maximum(jnp.sum(weight), 1)


def teacher_distance(
    trainable: Trainable, config: T5Config, encoded: Float[Array, "b t d"],
    inputs: Int[Array, "b t"], vectors: Float[Array, "b w"], weight: Float[Array, " b"],
) -> Float[Array, ""]:  # fmt: skip
    """Return how far the mean of the encoder's outputs is from the teacher's vector, 1 - cosine."""
    mask = (inputs > 0) & (inputs < config.vocab_size)
    mean = jnp.sum(encoded * mask[..., None], 1) / jnp.maximum(jnp.sum(mask, 1), 1)[:, None]
    guess = mean.astype(jnp.float32) @ trainable["teacher"]
    guess /= jnp.maximum(jnp.linalg.norm(guess, axis=-1, keepdims=True), 1e-6)
    cosine = jnp.sum(guess * vectors.astype(jnp.float32), -1)
    return jnp.sum((1 - cosine) * weight) / jnp.maximum(jnp.sum(weight), 1)


def language_loss(
    trainable: Trainable, config: T5Config, batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the language model's loss, and the distance to the teacher.

    Where only part of a text is read its vector is known less well, and counts less.
    """
    t5, inputs = trainable["t5"], batch["inputs"]
    encoded = model.encode(t5, config, inputs)
    loss, _ = target_loss(t5, config, encoded, inputs, batch["targets"], jnp.ones(len(inputs)))
    weight = 0.3 + 0.7 * batch["whole"]
    return loss, teacher_distance(trainable, config, encoded, inputs, batch["vectors"], weight)


def reading_loss(
    trainable: Trainable, frozen: Frozen, batch: Batch, *, config: T5Config
) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of span corruption and of the language model, weighed by `batch`."""
    t5, inputs = trainable["t5"], batch["span"]["inputs"]
    encoded = model.encode(t5, config, inputs)
    ones = jnp.ones(len(inputs))
    span, _ = target_loss(t5, config, encoded, inputs, batch["span"]["targets"], ones)
    near = teacher_distance(trainable, config, encoded, inputs, batch["span"]["vectors"], ones)
    lm, near_lm = language_loss(trainable, config, batch["lm"])
    total = batch["weights"][0] * (span + 3 * near) + batch["weights"][1] * (lm + 3 * near_lm)
    return total, {"span": span, "lm": lm, "distance": near}


def prompted_loss(
    trainable: Trainable, frozen: Frozen, batch: Batch, key: Key[Array, ""], config: T5Config
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return `target_loss` of rows with prompts: those that list labels, then trained ones."""
    t5 = trainable["t5"]
    embedding = t5["token_embedder"]["embedding"]
    vectors = rows.slot_vectors(key, embedding, frozen["corpus"], batch["slots"])
    if "which" in batch:
        vectors = jnp.concatenate([vectors, trainable["prompts"][batch["which"]]])
    table = vectors.reshape(-1, vectors.shape[-1])
    encoded = model.encode(t5, config, batch["inputs"], table=table)
    return target_loss(t5, config, encoded, batch["inputs"], batch["targets"], batch["weight"])


def asking_loss(
    trainable: Trainable, frozen: Frozen, batch: Batch, *, config: T5Config
) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of rows with prompts, short, long and wide, and the language model's."""
    keys = jax.random.split(batch["key"], 3)
    metrics: Metrics = {}
    total = jnp.float32(0)
    weights = (("short", 1.0), ("long", 0.6), ("many", 0.2))
    for key, (name, weight) in zip(keys, weights, strict=True):
        loss, right = prompted_loss(trainable, frozen, batch[name], key, config)
        metrics |= {name: loss, f"{name}_right": right}
        total += weight * loss
    lm, near = language_loss(trainable, config, batch["lm"])
    return total + 0.15 * lm + near, metrics | {"lm": lm, "distance": near}


def optimizer(scale: float) -> optax.GradientTransformation:
    """Return Adam whose step is a share of each parameter's root mean square.

    `scale` is that share; of prompts it is three times as large.
    """

    def adam(factor: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(b1=0.9, b2=0.99),
            optax.scale_by_param_block_rms(1e-3),
            optax.scale(-factor),
        )

    def labels(tree: Trainable) -> dict[str, str]:
        return {name: name for name in tree}

    return optax.multi_transform(
        {"t5": adam(scale), "teacher": adam(scale), "prompts": adam(3 * scale)}, labels
    )


def updater(loss: Callable, transformation: optax.GradientTransformation) -> Any:
    """Return the jitted update of a loss.

    It takes (trainable, moments, frozen, batch, rate), donates the first two, and returns them anew
    with the loss's metrics; `rate` is a factor of the update.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(
        trainable: Any, moments: Any, frozen: Any, batch: Any, rate: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(trainable, frozen, batch)
        step, moments = transformation.update(gradient, moments, trainable)
        step = jax.tree.map(lambda x: rate * x, step)
        return optax.apply_updates(trainable, step), moments, metrics

    return update
