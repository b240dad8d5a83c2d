"""Word vectors from co-occurrence counts, for a backbone's embeddings to begin with.

Counting which pieces stand near which, and factorising the table, takes under a minute on two
cores; a small T5 needs many minutes of training to find as much. The table holds the
positive pointwise mutual information of pieces, its contexts smoothed by the power 0.75; the
vectors are its left singular vectors times the roots of the singular values (Levy, Goldberg &
Dagan 2015, "Improving Distributional Similarity").
"""

import os

import numpy as np
from jaxtyping import Float

from spot_jax.data.text_tokens import Tokens
from spot_jax.errors import SpotError
from spot_jax.files import as_path, fault_text
from spot_jax.files.arrays import read_array
from spot_jax.t5.vocabulary import EOS

WINDOW = 8
SMOOTHING = 0.75
AT_ONCE = 4_000_000


def word_vectors(
    tokens: Tokens, rows: int, width: int, *, least: int = 20, seed: int = 0
) -> Float[np.ndarray, "rows width"]:
    """Return one vector a piece, float32, its root mean square 1 as T5's embeddings begin.

    Args:
        tokens: ids of text, an end (1) after each paragraph; pairs across it are not counted.
        rows: number of rows of the embedding table.
        width: width of the vectors.
        least: rows of pieces that occur less often are NaN, for the caller to fill.
        seed: seed of the factorisation and of the rotation that spreads the leading directions
            evenly over the coordinates.

    Raises:
        SpotError: an id outside the table, or too little text for so wide a vector.
    """
    # Here, because reading vectors must not cost the import of scikit-learn.
    from sklearn.utils.extmath import randomized_svd

    counts = np.bincount(tokens, minlength=rows)
    if len(counts) > rows:
        raise SpotError(f"token {len(counts) - 1} is outside an embedding of {rows} rows")
    seen = counts >= least
    if seen.sum() <= width:
        raise SpotError(
            f"{seen.sum()} pieces occur {least} times or more, too few for vectors of width "
            f"{width}; give more text"
        )
    information = _information(_pairs(tokens, rows))
    left, values, _ = randomized_svd(information, width, n_iter=3, random_state=seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    vectors = (left * np.sqrt(values)) @ turn
    scale = np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    vectors = vectors / np.maximum(scale, 1e-9)
    vectors[~seen] = np.nan
    return vectors.astype(np.float32)


def _pairs(tokens: Tokens, rows: int) -> Float[np.ndarray, "rows rows"]:
    """Count how often two pieces stand within `WINDOW`, each pair weighted by 1 / distance."""
    table = np.zeros(rows * rows, np.float32)
    for start in range(0, len(tokens), AT_ONCE):
        part = np.asarray(tokens[start : start + AT_ONCE], np.int64)
        paragraph = np.cumsum(part == EOS)
        for distance in range(1, min(WINDOW, len(part) - 1) + 1):
            same = paragraph[:-distance] == paragraph[distance:]
            pair = (part[:-distance] * rows + part[distance:])[same]
            table += (np.bincount(pair, minlength=rows * rows) / distance).astype(np.float32)
    square = table.reshape(rows, rows)
    return square + square.T


def _information(pairs: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    each = pairs.sum(axis=1)
    context = each**SMOOTHING
    context /= context.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(pairs / (each[:, None] * context[None, :]))
    return np.where(np.isfinite(value), np.maximum(value, 0), 0).astype(np.float32)


def load_word_vectors(
    path: str | os.PathLike[str], rows: int, width: int
) -> Float[np.ndarray, "rows width"]:
    """Return stored vectors; `SpotError` unless they are float32 [rows, width]."""
    try:
        vectors = read_array(as_path(path).read_bytes())
    except Exception as error:  # numpy's readers raise many kinds
        raise SpotError(
            f"expected word vectors at {path}, found {fault_text(error)}; "
            "write them with `python -m tasks.pretraining_text`"
        ) from error
    if vectors.shape != (rows, width) or vectors.dtype != np.float32:
        raise SpotError(
            f"expected float32 word vectors of shape {[rows, width]} in {path}, found "
            f"{vectors.dtype} of {list(vectors.shape)}; make them for this vocabulary and width"
        )
    return vectors
