"""The loss of each target from the decoder's last states, in the form that suits the machine.

`target_losses` is the only entry point. On accelerators, and wherever the head is tuned, adapted or
shared with the embedding, logits of all positions are computed. On one CPU they are computed for a
block of targets at a time, with the gradient of the states, and forgotten: no logits at padding,
which is most of a batch of short answers, and none kept for the way back.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from spot_jax.t5 import model
from spot_jax.t5.config import T5Config
from spot_jax.t5.products import apart
from spot_jax.t5.target import target

Tree = Mapping[str, Any]
# Each target's loss, the part of it that is the z-loss, and 1 where its id has the best logit.
Measures = tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]
# Targets of a block: enough to use every row of the head's matrix more than once while it is near.
_BLOCK = 64


def token_losses(
    logits: Float[Array, "*n v"],
    targets: Int[Array, "*n"],
    z_loss: float,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """Compute each target's cross entropy with T5X's z-loss: -log p(target) + z_loss * log(Z)^2.

    Args:
        logits: scores of all ids, float32.
        targets: ids.
        z_loss: weight of the squared log normaliser, which keeps logits from drifting.
        label_smoothing: share of the target's weight that all other ids have alike. As in T5X
            the loss of a prediction that is right by that measure is taken off, so that 0 is best.

    Returns:
        The loss of each position, and the part of it that is the z-loss.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    least = 0.0
    if label_smoothing:
        sure, others = 1.0 - label_smoothing, logits.shape[-1] - 1
        share = label_smoothing / others
        chosen = (sure - share) * chosen + share * jnp.sum(logits, axis=-1)
        least = -(sure * math.log(sure or 1.0) + label_smoothing * math.log(share))
    penalty = z_loss * jnp.square(log_z)
    return log_z - chosen - least + penalty, penalty


def target_losses(
    params: Tree,
    config: T5Config,
    states: Float[Array, "b u d"],
    targets: Int[Array, "b u"],
    weights: Float[Array, "b u"],
    z_loss: float,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "b u"], Float[Array, "b u"], Float[Array, "b u"]]:
    """Compute the loss of each target that has a weight.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        states: the decoder's last states, as `model.decode_states` returns them.
        targets: ids.
        weights: weight of each target's loss; where it is 0 the results are without meaning.
        z_loss: see `token_losses`.
        label_smoothing: see `token_losses`.

    Returns:
        The loss of each position, the part of it that is the z-loss, and 1 where the target has
        the best logit, else 0.
    """
    measure = functools.partial(_measures, z_loss=z_loss, label_smoothing=label_smoothing)
    kernel = _kernel(params, config)
    if kernel is None:
        return measure(model.head(params, config, states), targets)
    flat = states.reshape(-1, states.shape[-1]).astype(jnp.float32)
    real = weights.reshape(-1) > 0
    measures = _in_blocks(measure, flat, kernel, targets.reshape(-1), real)
    loss, penalty, right = (x.reshape(targets.shape) for x in measures)
    return loss, penalty, right


def _measures(
    logits: Float[Array, "*n v"], targets: Int[Array, "*n"], z_loss: float, label_smoothing: float
) -> Any:
    losses, penalties = token_losses(logits, targets, z_loss, label_smoothing)
    right = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return losses, penalties, right


def _kernel(params: Tree, config: T5Config) -> Float[Array, "d v"] | None:
    """Return the head's matrix where its products may be made in blocks."""
    place = target()
    if config.logits_via_embedding or place.platform != "cpu" or place.devices > 1:
        return None
    head = params["decoder"]["logits_dense"]
    # Other leaves change the product: scales of integers, and what a method adds.
    return head["kernel"] if set(head) == {"kernel"} else None


def _in_blocks(
    measure: Any,
    states: Float[Array, "n d"],
    kernel: Float[Array, "d v"],
    targets: Int[Array, " n"],
    real: Any,
) -> Measures:
    """Return the measures of real targets, and 0 of others."""
    order = jnp.argsort(~real, stable=True)
    place = jnp.argsort(order)

    @jax.custom_vjp
    def measures(states: Any, kernel: Any) -> Measures:
        return walk(states, kernel, False)[:3]

    def forward(states: Any, kernel: Any) -> Any:
        # With `symbolic_zeros` every argument says whether it is differentiated.
        if kernel.perturbed:
            return jax.vjp(lambda *both: whole(*both), states.value, kernel.value)
        *results, gradient = walk(states.value, kernel.value, True)
        return tuple(results), gradient

    def backward(residual: Any, cotangents: Any) -> Any:
        if callable(residual):
            return residual(tuple(map(_dense, cotangents)))
        return _dense(cotangents[0])[:, None] * residual, None

    measures.defvjp(forward, backward, symbolic_zeros=True)

    def whole(states: Any, kernel: Any) -> Measures:
        loss, penalty, right = measure(states @ kernel, targets)
        return loss, jax.lax.stop_gradient(penalty), right

    def walk(states: Any, kernel: Any, with_gradient: bool) -> Any:
        blocks = tuple(_blocks(x[order]) for x in (states, targets, real))
        spread = apart(kernel, 1)

        def of_block(states: Any, targets: Any) -> Any:
            logits = (states @ spread)[:, : kernel.shape[1]]
            if not with_gradient:
                return measure(logits, targets)
            loss, pull, (penalty, right) = jax.vjp(
                lambda logits: _loss_first(measure(logits, targets)), logits, has_aux=True
            )
            (gradient,) = pull(jnp.ones_like(loss))
            return (
                loss,
                penalty,
                right,
                jax.lax.dot_general(apart(gradient, 1), spread, (((1,), (1,)), ((), ()))),
            )

        def next_block(_: None, block: Any) -> Any:
            states, targets, real = block
            shapes = jax.eval_shape(of_block, states, targets)
            empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            return None, jax.lax.cond(jnp.any(real), of_block, lambda *_: empty, states, targets)

        _, results = jax.lax.scan(next_block, None, blocks)
        return tuple(x.reshape(-1, *x.shape[2:])[place] for x in results)

    return measures(states, kernel)


def _loss_first(measures: Measures) -> Any:
    return measures[0], measures[1:]


def _blocks(x: Array) -> Array:
    """Divide the first axis into blocks, the last one filled up with zeros."""
    count = -(-len(x) // _BLOCK)
    filled = jnp.pad(x, ((0, count * _BLOCK - len(x)), *((0, 0) for _ in x.shape[1:])))
    return filled.reshape(count, _BLOCK, *x.shape[1:])


def _dense(cotangent: Any) -> Array:
    """Return a cotangent as an array; a symbolic zero has none."""
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros(cotangent.shape, cotangent.dtype)
    return cotangent
