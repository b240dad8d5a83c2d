"""The vocabulary's pieces that a prompt's rows are nearest to (Lester et al. 2021, section 7)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spot_jax.errors import SpotError, check_range, whole


class Neighbours(NamedTuple):
    """The nearest rows of an embedding table to each row of a prompt, nearest first.

    Attributes:
        ids: ids of the pieces, [P, k].
        cosines: cosines of the rows and the pieces' embeddings, [P, k] float64.
    """

    ids: Int[np.ndarray, "p k"]
    cosines: Float[np.ndarray, "p k"]


def nearest_words(
    rows: Float[np.ndarray, "p d"], table: Float[np.ndarray, "v d"], top_k: int = 5
) -> Neighbours:
    """Return the pieces whose embeddings have the largest cosines with each row.

    Args:
        rows: prompt [P, d]; a row of zeros is near to nothing and has cosines of 0.
        table: embeddings [V, d] of the pieces that are looked among.
        top_k: number k of neighbours, 1 to V.

    Raises:
        SpotError: rows of another width than the table, or k out of range.
    """
    if rows.ndim != 2 or rows.shape[1] != table.shape[1]:
        raise SpotError(
            f"expected rows of width {table.shape[1]}, found {list(rows.shape)}; give a prompt of "
            "this backbone"
        )
    check_range("top_k", top_k, whole(1, len(table)))
    cosines = _units(rows) @ _units(table).T
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :top_k]
    return Neighbours(ids, np.take_along_axis(cosines, ids, axis=1))


def _units(rows: Float[np.ndarray, "p d"]) -> Float[np.ndarray, "p d"]:
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
