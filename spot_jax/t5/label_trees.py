"""Verbalizers as a tree of their tokens, so that every label of a row is scored in one pass.

A label's log p is the sum of its tokens' log p, each given those before it. Labels that begin alike
share those first tokens, and all share the start: the decoder runs once over the distinct
beginnings, the nodes of a tree, each of which sees its own path alone. Rows of a batch may have
labels of different tasks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spot_jax.t5.config import T5Config
from spot_jax.t5.model import Cache, Params, decode_tree, encode, start_cache

# Bytes of logits that scoring holds at a time.
_LOGITS_BYTES = 2**28


class LabelTrees(NamedTuple):
    """A tree of labels for each row of a batch; a single one serves all rows.

    Attributes:
        tokens: decoder input of each node, 0 at the root, which is node 0, and at padding.
        parents: number of the node before; 0 for the root itself and at padding.
        places: node whose logits score each token of each label.
        targets: tokens of each label with its eos; 0 is padding, a label of padding scores -inf.
    """

    tokens: Int[Array | np.ndarray, "b n"]
    parents: Int[Array | np.ndarray, "b n"]
    places: Int[Array | np.ndarray, "b c u"]
    targets: Int[Array | np.ndarray, "b c u"]


def label_tree(label_tokens: Int[np.ndarray, "c u"]) -> LabelTrees:
    """Return the tree of one task's labels, [1, ...]; `scoring.label_matrix` gives the tokens."""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    tokens, parents = [0], [0]
    places = np.zeros(label_tokens.shape, np.int32)
    for number, label in enumerate(label_tokens):
        path = [int(token) for token in label if token]
        for i in range(len(path)):
            beginning = tuple(path[:i])
            if beginning not in nodes:
                nodes[beginning] = len(tokens)
                parents.append(nodes[beginning[:-1]])
                tokens.append(beginning[-1])
            places[number, i] = nodes[beginning]
    flat = np.array([tokens], np.int32), np.array([parents], np.int32)
    return LabelTrees(*flat, places[None], label_tokens[None].astype(np.int32))


def stack_trees(trees: Sequence[LabelTrees], nodes: int, labels: int, length: int) -> LabelTrees:
    """Return one tree a row, padded to a number of nodes, of labels and of tokens of a label."""

    def padded(array: np.ndarray, *sizes: int) -> np.ndarray:
        widths = [(0, size - old) for size, old in zip(sizes, array.shape[1:], strict=True)]
        return np.pad(array, [(0, 0), *widths])

    sizes = ((nodes,), (nodes,), (labels, length), (labels, length))
    fields = zip(*trees, strict=True)
    return LabelTrees(
        *(
            np.concatenate([padded(np.asarray(array), *size) for array in field])
            for field, size in zip(fields, sizes, strict=True)
        )
    )


def score_labels(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    trees: LabelTrees,
    *,
    table: Float[Array, "r d"] | None = None,
) -> Float[Array, "b c"]:
    """Return log p of every label of each row, float32; -inf for labels of padding.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        trees: labels of each row, or one tree for all.
        table: rows of the virtual tokens.
    """
    encoded = encode(params, config, encoder_tokens, table=table)
    cache = start_cache(params, config, encoded, encoder_tokens, 1)
    rows = encoder_tokens.shape[0]
    trees = LabelTrees(*(jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in trees))
    nodes, length = trees.tokens.shape[1], trees.targets.shape[2]

    def score(trees: LabelTrees, cache: Cache) -> Float[Array, "b c"]:
        # Each node's path to the root, one step a depth; the root is its own parent.
        row = jnp.arange(trees.tokens.shape[0])[:, None]
        here = jnp.broadcast_to(jnp.arange(nodes)[None], trees.tokens.shape)
        seen, depths = here[:, :, None] == jnp.arange(nodes)[None, None], jnp.zeros_like(here)
        for _ in range(length - 1):
            depths += here > 0
            here = trees.parents[row, here]
            seen |= here[:, :, None] == jnp.arange(nodes)[None, None]
        tokens = jnp.asarray(trees.tokens)
        logits = decode_tree(params, config, cache, tokens, depths, seen, length)
        log_z = jax.nn.logsumexp(logits, axis=2)
        flat = row[:, :, None]
        chosen = logits[flat, trees.places, trees.targets] - log_z[flat, trees.places]
        total = jnp.sum(jnp.where(trees.targets > 0, chosen, 0.0), axis=2)
        return jnp.where(trees.targets[:, :, 0] > 0, total, -jnp.inf)

    at_once = max(1, _LOGITS_BYTES // (4 * nodes * config.vocab_size))
    if rows <= at_once or jax.device_count() > 1:
        return score(trees, cache)
    leaves, structure = jax.tree.flatten((trees, cache))
    return jax.lax.map(
        lambda row: score(*jax.tree.unflatten(structure, [x[None] for x in row]))[0],
        leaves,
        batch_size=at_once,
    )
