"""The state of a run and the step that moves it: what is trained, and nothing else.

`State` is exactly what a checkpoint holds. The step takes the frozen weights as an argument,
returns none of them, and donates only the state.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, Key

from spot_jax.methods.program import Program

Tree = Any


@struct.dataclass
class State:
    """Exactly what a checkpoint holds.

    Attributes:
        step: updates done, int32.
        trainable: float32 leaves; kilobytes for a prompt.
        opt_state: state of the optimizer, over `trainable` only.
        keys: one root key a prompt; step t of prompt i draws from fold_in(keys[i], t).
    """

    step: Int[Array, ""]
    trainable: Tree
    opt_state: Tree
    keys: Key[Array, " n"]


StepFunction = Callable[[State, Tree, dict[str, Any]], tuple[State, dict[str, Array]]]


def init_state(trainable: Tree, tx: optax.GradientTransformation, keys: Key[Array, " n"]) -> State:
    """Return the state at step 0."""
    # A copy, because the step donates the state and the caller's arrays must outlive it.
    trainable = jax.tree.map(lambda x: jnp.array(x, jnp.float32), trainable)
    return State(jnp.zeros((), jnp.int32), trainable, tx.init(trainable), keys)


def train_step(program: Program, tx: optax.GradientTransformation, dropout: bool) -> StepFunction:
    """Return the jitted step (state, frozen, batch) -> (state, metrics), compiled for each shape.

    `finite` in the metrics says whether loss, gradient and result were; the loop looks at it
    before it saves anything.

    Args:
        program: method at work, which gives the loss.
        tx: optimizer of `trainable`.
        dropout: whether the loss gets keys.
    """

    def step(state: State, frozen: Tree, batch: dict) -> tuple[State, dict[str, Array]]:
        keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.step)
        grad = jax.value_and_grad(program.loss, has_aux=True)
        (loss, metrics), grads = grad(state.trainable, frozen, batch, keys if dropout else None)
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        norm = optax.tree.norm(grads)
        # The new state too: a step that is saved must be one to go on from.
        whole = jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), trainable)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jax.tree.reduce(jnp.logical_and, whole)
        new = State(state.step + 1, trainable, opt_state, state.keys)
        return new, {**metrics, "grad_norm": norm, "finite": finite}

    return jax.jit(step, donate_argnums=0)
