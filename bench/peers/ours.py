"""Our side of a comparison: a T5 of random weights, its training step, its decoding."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.peers.shapes import PROMPT
from spot_jax.methods.base import Task
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.backbone import unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.decoding import greedy
from spot_jax.t5.model import stack_layers
from spot_jax.t5.target import Jitted
from spot_jax.training.optimizers import Adafactor, build
from spot_jax.training.step import State, init_state, train_step


def _leaf(key: jax.Array, shape: tuple[int, ...], dtype: str, path: str) -> jax.Array:
    if path.endswith("scale"):
        return jnp.ones(shape, dtype)
    # An embedding of unit size, as T5's is; matrices that keep their input's size.
    size = 1.0 if path.endswith("embedding") else shape[-2] ** -0.5
    if "/query/" in path:
        size *= 64**-0.5
    return (size * jax.random.normal(key, shape, jnp.float32)).astype(dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def weights(config: T5Config, dtype: str) -> dict[str, Any]:
    """Return random weights of `dtype` made on the device, stacked if `config.scan_layers`."""
    plain = dataclasses.replace(config, scan_layers=False)
    if not config.scan_layers:
        shapes = parameter_shapes(plain)
    else:
        tree = unflatten({n: jax.ShapeDtypeStruct(s, dtype) for n, s in
                          parameter_shapes(plain).items()})  # fmt: skip
        stacked = jax.eval_shape(lambda tree: stack_layers(tree, config), tree)
        paths = jax.tree_util.tree_flatten_with_path(stacked)[0]
        shapes = {"/".join(k.key for k in path): leaf.shape for path, leaf in paths}
    root = jax.random.key(0)
    return unflatten(
        {
            name: _leaf(jax.random.fold_in(root, i), shape, dtype, name)
            for i, (name, shape) in enumerate(sorted(shapes.items()))
        }
    )


def features(config: T5Config, arrays: dict, prompts: int = 1) -> dict[str, np.ndarray]:
    """Return T5X's features: the prompt's ids before the text, rows divided among the prompts."""
    text, targets = arrays["text"], arrays["targets"]
    rows = len(text)
    row_prompt = np.arange(rows, dtype=np.int32) // (rows // prompts)
    ids = config.vocab_size + PROMPT * row_prompt[:, None] + np.arange(PROMPT, dtype=np.int32)
    batch = {
        "encoder_input_tokens": np.concatenate([ids, text], axis=1),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }
    if prompts > 1:
        number = np.arange(rows, dtype=np.int32) % (rows // prompts)
        batch |= {"row_prompt": row_prompt, "row_number": number}
    return {name: np.asarray(x, np.float32 if x.dtype.kind == "f" else np.int32)
            for name, x in batch.items()}  # fmt: skip


def first_state(config: T5Config, prompts: int = 1) -> tuple[Program, State, object]:
    """Return program, state and transformation of prompt tuning with Adafactor at step 0."""
    program = Program(PromptTuning(PROMPT, init="uniform"), config, (Task(),) * prompts)
    tx = build(Adafactor(), prompts)
    shape = (prompts, PROMPT, config.emb_dim)
    prompt = jax.random.uniform(jax.random.key(1), shape, jnp.float32, -0.5, 0.5)
    return (
        program,
        init_state({"prompt": prompt}, tx, jax.random.split(jax.random.key(2), prompts)),
        tx,
    )


def compiled_step(
    config: T5Config, params: Any, batch: dict, prompts: int = 1, plainly: bool = False
) -> tuple[Any, State]:
    """Compile the run's own jitted step, without dropout; return it and its first state.

    `plainly` compiles it with XLA's defaults instead of a run's options.
    """
    program, state, tx = first_state(config, prompts)
    step = train_step(program, tx, dropout=False)
    if plainly:
        step = jax.jit(step.__wrapped__, donate_argnums=0)
    return step.lower(state, params, batch).compile(), state


@functools.partial(Jitted, static_argnums=(1, 4))
def write(
    params: Any, config: T5Config, tokens: jax.Array, prompt: jax.Array, length: int
) -> jax.Array:
    """Decode `length` tokens greedily; no row ends early, as eos is none of their tokens."""
    return greedy(params, config, tokens, max_length=length, table=prompt, eos_id=-1)
