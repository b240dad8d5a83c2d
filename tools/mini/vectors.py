"""Vectors of the teacher's: centred, compared, and turned into first embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spot_jax.errors import SpotError


def centred(
    vectors: Float[np.ndarray, "n w"], mean: Float[np.ndarray, " w"]
) -> Float[np.ndarray, "n w"]:
    """Return the vectors less `mean`, of length 1, float32."""
    vectors = vectors.astype(np.float32) - mean
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def nearest(
    queries: Float[Array, "q w"], keys: Float[Array, "n w"], count: int, block: int
) -> Int[np.ndarray, "q k"]:
    """Return `count` near keys of each query, the nearest first: the best of each block of keys.

    The keys stand in a random order, so nearly all of the nearest are alone in their blocks. With a
    block of 1 they are the nearest exactly. Where there are fewer blocks than `count`, the keys of
    a query repeat.
    """
    order = np.random.default_rng(0).permutation(len(keys))
    blocks = len(keys) // block
    order = order[: blocks * block]
    shuffled = keys[order].reshape(blocks, block, -1)

    @jax.jit
    def best(queries: Array, shuffled: Array) -> Array:
        scores = jnp.einsum("qw,nbw->qnb", queries, shuffled, preferred_element_type=jnp.float32)
        top, place = jnp.max(scores, -1), jnp.argmax(scores, -1)
        chosen = jax.lax.top_k(top, min(count, blocks))[1]
        return jnp.take_along_axis(place, chosen, 1) + chosen * block

    rows = max(1, min(len(queries), 2**28 // len(keys)))
    places = []
    for start in range(0, len(queries), rows):
        batch = queries[start : start + rows]
        short = rows - len(batch)
        batch = jnp.pad(batch, ((0, short), (0, 0))) if short else batch
        places.append((best(batch, shuffled), rows - short))
    result = order[np.concatenate([np.asarray(place)[:size] for place, size in places])]
    if result.shape[1] < count:
        result = np.pad(result, ((0, 0), (0, count - result.shape[1])), mode="wrap")
    return result.astype(np.int32)


def word_vectors(
    vectors: Float[np.ndarray, "n w"], pieces: int, rows: int, width: int
) -> Float[np.ndarray, "v d"]:
    """Return first embeddings, float32: principal components of the pieces' vectors, RMS 1 a row.

    Rows that no piece has (special ones, sentinels, spare ones) are random. Raises `SpotError`
    where the vectors are too few, or too narrow, for the embeddings.

    Args:
        vectors: The teacher's vectors of the vocabulary's pieces, in their order.
        pieces: Number of pieces.
        rows: Number of rows of the embedding table, at least `pieces`.
        width: Width of the embedding table, at most that of the vectors.
    """
    if len(vectors) != pieces or pieces > rows:
        raise SpotError(
            f"expected word vectors of {pieces} pieces for a table of {rows} rows, "
            f"found {len(vectors)}; make them with the vocabulary of the model"
        )
    if width > vectors.shape[1]:
        raise SpotError(
            f"expected word vectors at least as wide as the embeddings, {width}, "
            f"found {vectors.shape[1]}; take a wider teacher or a narrower model"
        )
    random = np.random.default_rng(0)
    usual = vectors[3:pieces].astype(np.float64)
    usual -= usual.mean(0)
    _, _, right = np.linalg.svd(usual, full_matrices=False)
    turn, _ = np.linalg.qr(random.normal(size=(width, width)))
    table = random.normal(size=(rows, width))
    projected = usual @ right[:width].T @ turn
    table[3:pieces] = projected / np.sqrt(np.mean(projected**2, 1, keepdims=True) + 1e-12)
    return table.astype(np.float32)
