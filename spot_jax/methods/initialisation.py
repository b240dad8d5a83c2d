"""How rows of a prompt begin (Lester et al. 2021, section 3.2): float32 [p, d] from a key.

`embedding` is the backbone's table [v, d]; `length` is P. Rows that words leave over are sampled
from the vocabulary.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import StoredPrompt

Rows = Float[Array, "p d"]
Embedding = Float[Array, "v d"]

POPULATION = 5000


def uniform(key: Key[Array, ""], embedding: Embedding, length: int) -> Rows:
    """Draw every number from [-0.5, 0.5], the paper's range.

    The open-source code draws from [0, 0.5) instead, Flax's `uniform` being one-sided.
    """
    return jax.random.uniform(key, (length, embedding.shape[1]), jnp.float32, -0.5, 0.5)


def normal(key: Key[Array, ""], embedding: Embedding, length: int) -> Rows:
    """Draw every number with standard deviation 1, PyTorch's default of an embedding."""
    return jax.random.normal(key, (length, embedding.shape[1]), jnp.float32)


def sampled_vocabulary(key: Key[Array, ""], embedding: Embedding, length: int) -> Rows:
    """Draw embeddings of the 5,000 most common tokens, which are the first ids.

    Without replacement, as the open-source code does; with it only if more are needed than there
    are.
    """
    population = min(POPULATION, embedding.shape[0])
    ids = jax.random.choice(key, population, (length,), replace=length > population)
    return embedding[ids].astype(jnp.float32)


def class_labels(
    key: Key[Array, ""], embedding: Embedding, length: int, labels: Sequence[Sequence[int]]
) -> Rows:
    """Take the mean of each label's pieces as one row; labels beyond `length` are left out.

    Args:
        key: random key of the rows that are left over.
        embedding: table of the backbone.
        length: number of rows, P.
        labels: piece ids of each label, without end-of-sequence.

    Raises:
        SpotError: a label without pieces.
    """
    for row, ids in enumerate(labels[:length]):
        if not ids:
            raise SpotError(f"class label {row} has no pieces: it is empty text; give it words")
    rows = np.array(sampled_vocabulary(key, embedding, length))
    # Means on the host, with JAX's rounding: a program for each number of pieces would take seconds
    # to compile.
    every = [number for ids in labels[:length] for number in ids]
    pieces = np.asarray(embedding[np.array(every, np.int32)].astype(jnp.float32))
    start = 0
    for row, ids in enumerate(labels[:length]):
        total = pieces[start : (start := start + len(ids))].sum(axis=0)
        rows[row] = total * np.float32(1 / len(ids))
    return jnp.asarray(rows)


def text(key: Key[Array, ""], embedding: Embedding, length: int, ids: Sequence[int]) -> Rows:
    """Take the embeddings of a text's pieces in order, cut at `length`."""
    if not ids:
        raise SpotError("the text that should initialise the prompt is empty; give it words")
    rows = sampled_vocabulary(key, embedding, length)
    pieces = np.asarray(ids[:length])
    return rows.at[: len(pieces)].set(embedding[pieces].astype(jnp.float32))


def stored(source: StoredPrompt, embedding: Embedding, length: int) -> Rows:
    """Take a stored prompt's rows, for example a source task's: SPoT's transfer (Vu 2022, §2).

    Raises:
        SpotError: rows of another number or width.
    """
    rows, expected = source.file.rows, (length, embedding.shape[1])
    if rows.shape != expected:
        raise SpotError(
            f"the prompt to start from has shape {list(rows.shape)} where "
            f"{list(expected)} (prompt length, backbone width) is expected; set the prompt "
            "length to it, or take a prompt of this backbone"
        )
    return jnp.asarray(rows, jnp.float32)
