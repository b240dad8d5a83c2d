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
        parents: number of the node before; its own for a root, 0 at padding.
        places: node whose logits score each token of each label.
        targets: tokens of each label with its eos; 0 is padding, a label of padding scores -inf.
        segments: number of the text that a node is for, from 1, where a row holds several packed
            texts, each with a tree of its own; 0 at padding.
    """

    tokens: Int[Array | np.ndarray, "b n"]
    parents: Int[Array | np.ndarray, "b n"]
    places: Int[Array | np.ndarray, "b c u"]
    targets: Int[Array | np.ndarray, "b c u"]
    segments: Int[Array | np.ndarray, "b n"]


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
    segments = np.ones_like(flat[0])
    return LabelTrees(*flat, places[None], label_tokens[None].astype(np.int32), segments)


def stack_trees(trees: Sequence[LabelTrees], nodes: int, labels: int, length: int) -> LabelTrees:
    """Return one tree a row, padded to a number of nodes, of labels and of tokens of a label."""
    return pack_trees([[tree] for tree in trees], nodes, labels, length)


def pack_trees(
    rows: Sequence[Sequence[LabelTrees]], nodes: int, labels: int, length: int
) -> LabelTrees:
    """Return the trees of packed rows: those of a row's texts, one after the other.

    Args:
        rows: trees of each row's texts in the order of their segments; no text at all is padding.
        nodes: number of nodes that a row is padded to.
        labels: number of labels that a row is padded to.
        length: number of tokens that a label is padded to.
    """
    shapes = (nodes,), (nodes,), (labels, length), (labels, length), (nodes,)
    packed = LabelTrees(*(np.zeros((len(rows), *shape), np.int32) for shape in shapes))
    for row, trees in enumerate(rows):
        node = label = 0
        for segment, tree in enumerate(trees, start=1):
            _, count, tokens = tree.targets.shape
            here = slice(node, node + tree.tokens.shape[1])
            scored = slice(label, label + count), slice(tokens)
            packed.tokens[row, here] = tree.tokens[0]
            packed.parents[row, here] = tree.parents[0] + node
            packed.segments[row, here] = segment
            packed.places[row][scored] = tree.places[0] + node
            packed.targets[row][scored] = tree.targets[0]
            node, label = here.stop, label + count
    return packed


def score_labels(
    params: Params,
    config: T5Config,
    encoder_tokens: Int[Array, "b t"],
    trees: LabelTrees,
    *,
    table: Float[Array, "r d"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
) -> Float[Array, "b c"]:
    """Return log p of every label of each row, float32; -inf for labels of padding.

    Args:
        params: parameter tree of the model.
        config: shape of the model.
        encoder_tokens: ids; 0 is padding, `config.vocab_size` and above are virtual tokens.
        trees: labels of each row, or one tree for all.
        table: rows of the virtual tokens.
        segment_ids: number of each position's text in rows of several packed texts, from 1.
    """
    encoded = encode(params, config, encoder_tokens, table=table, segment_ids=segment_ids)
    cache = start_cache(params, config, encoded, encoder_tokens, 1, segment_ids=segment_ids)
    rows = encoder_tokens.shape[0]
    trees = LabelTrees(*(jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in trees))
    nodes, length = trees.tokens.shape[1], trees.targets.shape[2]

    def score(trees: LabelTrees, cache: Cache) -> Float[Array, "b c"]:
        # Each node's path to the root, one step a depth; the root is its own parent.
        row = jnp.arange(trees.tokens.shape[0])[:, None]
        here = jnp.broadcast_to(jnp.arange(nodes)[None], trees.tokens.shape)
        seen, depths = here[:, :, None] == jnp.arange(nodes)[None, None], jnp.zeros_like(here)
        for _ in range(length - 1):
            parents = trees.parents[row, here]
            depths += parents != here
            here = parents
            seen |= here[:, :, None] == jnp.arange(nodes)[None, None]
        tokens = jnp.asarray(trees.tokens)
        segments = None if segment_ids is None else jnp.asarray(trees.segments)
        logits = decode_tree(params, config, cache, tokens, depths, seen, length, segments)
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
