"""The state of a run and the step that moves it: what is trained, and nothing else.

`State` is exactly what a checkpoint holds. The step takes the frozen weights as an argument,
returns none of them, and donates only the state.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import BaseMethod, Method
from spot_jax.methods.program import Program
from spot_jax.t5.target import compiler_options, tracing_for

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


def check_divisible_loss(method: BaseMethod, microbatches: int) -> None:
    """Raise `SpotError` for parts of a batch, and a method whose loss is no sum over rows."""
    if microbatches > 1 and type(method).batch_loss is not Method.batch_loss:
        raise SpotError(
            f"train.num_microbatches is {microbatches}, but the loss of {type(method).__name__} is "
            "of a whole batch; set it to 1, and BATCH_SIZE lower"
        )


GradientFunction = Callable[
    [Tree, Tree, dict[str, Array], Key[Array, " n"] | None], tuple[Array, dict[str, Array], Tree]
]


def gradient_function(program: Program, microbatches: int = 1) -> GradientFunction:
    """Return (trainable, frozen, batch, dropout keys) -> (loss, metrics, gradients).

    Args:
        program: method at work, which gives the loss.
        microbatches: number of parts that each prompt's rows are taken in; the gradients of the
            parts add up to that of the whole batch but for the order of float32 sums.

    Raises:
        SpotError: parts for a method whose loss is no sum over rows.
    """
    check_divisible_loss(program.method, microbatches)

    def gradients(
        trainable: Tree, frozen: Tree, batch: dict[str, Array], keys: Key[Array, " n"] | None
    ) -> tuple[Array, dict[str, Array], Tree]:
        grad = jax.value_and_grad(program.loss, has_aux=True)
        if microbatches == 1:
            (loss, metrics), grads = grad(trainable, frozen, batch, keys)
            return loss, metrics, grads
        parts = _parts(batch, program.num_prompts, microbatches)
        prompts = program.num_prompts
        rows = batch["encoder_input_tokens"].shape[0] // prompts
        whole = {
            "whole_tokens": _tokens(batch, prompts),
            "whole_rows": jnp.full(prompts, rows, jnp.float32),
        }

        def of_part(part: dict[str, Array]) -> tuple[Array, dict[str, Array], Tree]:
            (loss, metrics), grads = grad(trainable, frozen, {**part, **whole}, keys)
            return loss, metrics, grads

        shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total: Any, part: dict[str, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_part(part)), None

        return jax.lax.scan(add, zeros, parts)[0]

    return gradients


def train_step(
    program: Program,
    tx: optax.GradientTransformation,
    dropout: bool,
    microbatches: int = 1,
    mesh: Mesh | None = None,
) -> StepFunction:
    """Return the jitted step (state, frozen, batch) -> (state, metrics), one program a batch shape.

    `finite` in the metrics says whether loss, gradient and result were; the loop looks at it
    before it saves anything.

    Args:
        program: method at work, which gives the loss.
        tx: optimizer of `trainable`.
        dropout: whether the loss gets keys.
        microbatches: number of parts that each prompt's rows are taken in, one after the other.
            Their gradients are added up to that of the whole batch, and the memory of activations
            is one part's.
        mesh: mesh that the step runs on; None for this process's devices.

    Raises:
        SpotError: parts for a method whose loss is no sum over rows.
    """
    gradients = gradient_function(program, microbatches)

    def step(state: State, frozen: Tree, batch: dict) -> tuple[State, dict[str, Array]]:
        keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.step)
        place = contextlib.nullcontext() if mesh is None else tracing_for(mesh, divided=True)
        with place:
            loss, metrics, grads = gradients(
                state.trainable, frozen, batch, keys if dropout else None
            )
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        norm = optax.tree.norm(grads)
        # The new state too: a step that is saved must be one to go on from.
        whole = jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), trainable)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jax.tree.reduce(jnp.logical_and, whole)
        new = State(state.step + 1, trainable, opt_state, state.keys)
        return new, {**metrics, "grad_norm": norm, "finite": finite}

    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options(platform))


def _parts(batch: dict[str, Array], prompts: int, count: int) -> dict[str, Array]:
    """A batch with an axis of parts in front, each with as many rows of every prompt.

    A part takes every `count`-th row, so that a batch whose rows lie on several devices stays so.
    """
    rows = batch["encoder_input_tokens"].shape[0] // prompts
    if rows % count:
        raise SpotError(
            f"a batch of {rows} rows a prompt cannot be taken in {count} parts; let "
            "num_microbatches divide BATCH_SIZE"
        )
    # The number of a row is what its dropout is drawn by: the same alone and in parts.
    numbers = jnp.tile(jnp.arange(rows, dtype=jnp.int32), prompts)
    batch = {"row_number": numbers, **batch}

    def parted(x: Array) -> Array:
        x = x.reshape(prompts, rows // count, count, *x.shape[1:])
        return jnp.moveaxis(x, 2, 0).reshape(count, -1, *x.shape[3:])

    return {name: parted(x) for name, x in batch.items()}


def _tokens(batch: dict[str, Array], prompts: int) -> Float[Array, " n"]:
    """Each prompt's number of target tokens in a batch."""
    of_rows = jnp.sum(batch["decoder_loss_weights"], axis=1, dtype=jnp.float32)
    return jnp.sum(of_rows.reshape(prompts, -1), axis=1)
