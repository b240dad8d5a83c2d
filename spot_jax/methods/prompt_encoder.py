"""P-Tuning's prompt encoder: embeddings of P virtual tokens to the P rows that the model reads.

The paper tries an LSTM, an MLP and the embeddings as they are (Liu et al. 2021, section 2.3).
Sizes, biases and initialisation are those of the authors' code, where they are PyTorch's defaults.
An encoder never sees a text, so its output is a table that can be computed once.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError

Tree = Any
KINDS = ("lstm", "lstm_wide", "mlp", "identity")
LAYERS = 2


@dataclass(frozen=True)
class PromptEncoder:
    """The shape of an encoder, and its functions.

    Attributes:
        kind: "lstm", a bidirectional LSTM of two layers with half the width each way and an MLP
            with one hidden layer of ReLU, as for LAMA; "lstm_wide", with the whole width each way,
            as for SuperGLUE; "mlp", without an LSTM; "identity", the embeddings alone.
        length: number P of virtual tokens.
        width: width d of the embeddings and of the rows.
    """

    kind: str
    length: int
    width: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpotError(f"expected a prompt encoder {', '.join(KINDS)}, found {self.kind!r}")
        if self.length < 1:
            raise SpotError(f"a prompt has at least 1 virtual token, not {self.length}")
        if self.kind == "lstm" and self.width % 2:
            raise SpotError(
                f"the encoder 'lstm' has half of the width each way, but {self.width} is odd; take "
                "'lstm_wide'"
            )

    @property
    def hidden(self) -> int:
        """Width of the LSTM each way."""
        return self.width // 2 if self.kind == "lstm" else self.width

    def init(self, key: Key[Array, ""], embedding: Float[Array, "p d"]) -> Tree:
        """Return float32 leaves: `tokens` [p, d], and an LSTM's and an MLP's random weights."""
        tree: Tree = {"tokens": embedding}
        lstm, mlp = jax.random.split(key)
        read = self.width
        if self.kind.startswith("lstm"):
            tree["lstm"] = {}
            for i, layer in enumerate(jax.random.split(lstm, LAYERS)):
                keys = dict(zip(("forward", "backward"), jax.random.split(layer), strict=True))
                cells = {way: _cell(cell, read, self.hidden) for way, cell in keys.items()}
                tree["lstm"][f"layers_{i}"] = cells
                read = 2 * self.hidden
        if self.kind != "identity":
            first, second = jax.random.split(mlp)
            tree["mlp"] = {
                "first": _linear(first, read, self.width),
                "second": _linear(second, self.width, self.width),
            }
        return tree

    def spread(self, tree: Tree, size: float | Array) -> Tree:
        """Return the tree with its last layer moved so that the rows are apart and of a size.

        With PyTorch's defaults the rows of an LSTM are nearly alike, since the biases that they
        share outweigh what tells them apart, and small beside embeddings. Moved, their mean over
        positions is 0 and their root mean square is `size`; "identity" is left alone.
        """
        if "mlp" not in tree:
            return tree
        rows = self(tree)
        mean = jnp.mean(rows, axis=0, keepdims=True)
        factor = size / jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(rows - mean))), 1e-12)
        second = tree["mlp"]["second"]
        moved = {"kernel": factor * second["kernel"], "bias": factor * (second["bias"] - mean)}
        return {**tree, "mlp": {**tree["mlp"], "second": moved}}

    def __call__(self, tree: Tree) -> Float[Array, "p d"]:
        """Return the rows that one prompt's tree comes to."""
        rows = tree["tokens"]
        for name in sorted(tree.get("lstm", {})):
            rows = bidirectional(tree["lstm"][name], rows)
        if "mlp" in tree:
            rows = jax.nn.relu(_affine(tree["mlp"]["first"], rows))
            rows = _affine(tree["mlp"]["second"], rows)
        return rows

    def checked(self, leaves: dict[str, Any]) -> Tree:
        """Return the tree of stored leaves, by paths as "mlp/first/bias".

        Raises:
            SpotError: other leaves or shapes than this encoder has.
        """
        embedding = jnp.zeros((self.length, self.width))
        expected = jax.eval_shape(self.init, jax.random.key(0), embedding)
        shapes = {k: v.shape for k, v in traverse_util.flatten_dict(expected, sep="/").items()}
        stored = {k: v.shape for k, v in leaves.items()}
        if shapes != stored:
            odd = sorted(k for k in {*shapes, *stored} if shapes.get(k) != stored.get(k))[0]
            raise SpotError(
                f"expected an encoder {self.kind!r} of {self.length} rows of {self.width}, found "
                f"{odd} of shape {list(stored.get(odd, ()))} where {list(shapes.get(odd, ()))} "
                "belongs; take a file that this encoder wrote"
            )
        tree = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in leaves.items()}
        return traverse_util.unflatten_dict(tree, sep="/")


def _cell(key: Key[Array, ""], read: int, hidden: int) -> dict[str, Array]:
    # Uniform within 1 / sqrt(hidden), and two biases that are added: PyTorch's LSTM.
    bound, keys = hidden**-0.5, jax.random.split(key, 4)
    shapes = {
        "input": (read, 4 * hidden),
        "hidden": (hidden, 4 * hidden),
        # Of two axes, so that an optimizer that tells matrices from vectors by their number treats
        # them alike however many prompts are tuned in one program.
        "input_bias": (1, 4 * hidden),
        "hidden_bias": (1, 4 * hidden),
    }
    return {
        name: jax.random.uniform(matrix_key, shape, jnp.float32, -bound, bound)
        for matrix_key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _linear(key: Key[Array, ""], read: int, width: int) -> dict[str, Array]:
    # Uniform within 1 / sqrt(inputs): PyTorch's linear layer.
    bound, keys = read**-0.5, jax.random.split(key)
    return {
        "kernel": jax.random.uniform(keys[0], (read, width), jnp.float32, -bound, bound),
        "bias": jax.random.uniform(keys[1], (1, width), jnp.float32, -bound, bound),
    }


def _affine(weights: Tree, rows: Float[Array, "p r"]) -> Float[Array, "p w"]:
    return rows @ weights["kernel"] + weights["bias"]


def bidirectional(cells: Tree, rows: Float[Array, "p r"]) -> Float[Array, "p h2"]:
    """Run a layer of an LSTM forwards and backwards, and put the two outputs side by side.

    Args:
        cells: {"forward": cell, "backward": cell}; a cell has `input` [r, 4h], `hidden` [h, 4h] and
            their biases [1, 4h], with the gates in PyTorch's order: input, forget, cell, output.
        rows: inputs of P steps.
    """

    def run(cell: Tree, rows: Float[Array, "p r"]) -> Float[Array, "p h"]:
        def step(
            state: tuple[Array, Array], row: Float[Array, " g"]
        ) -> tuple[tuple[Array, Array], Array]:
            output, memory = state
            into, forget, new, out = jnp.split(row + output @ cell["hidden"], 4)
            memory = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(into) * jnp.tanh(new)
            output = jax.nn.sigmoid(out) * jnp.tanh(memory)
            return (output, memory), output

        read = rows @ cell["input"] + cell["input_bias"] + cell["hidden_bias"]
        start = jnp.zeros(cell["hidden"].shape[0], rows.dtype)
        return jax.lax.scan(step, (start, start), read)[1]

    # Both ways in one loop: loops are what takes long to compile here.
    both = jax.tree.map(lambda *ways: jnp.stack(ways), cells["forward"], cells["backward"])
    forward, backward = jax.vmap(run)(both, jnp.stack([rows, rows[::-1]]))
    return jnp.concatenate([forward, backward[::-1]], axis=1)
