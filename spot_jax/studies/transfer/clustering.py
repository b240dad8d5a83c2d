"""Hierarchical clustering of task embeddings and of transfer profiles, for heat maps.

The paper shows clustered heat maps and does not name its linkage (its figure 4 looks like a
seaborn clustermap). Ours: average linkage over 1 - cosine, leaves in the optimal order of
Bar-Joseph et al. (2001).
"""

import dataclasses

import numpy as np
import scipy.cluster.hierarchy as hierarchy
from jaxtyping import Float
from scipy.spatial.distance import squareform


@dataclasses.dataclass(frozen=True)
class Tree:
    """A clustering of n things.

    Attributes:
        order: leaves as drawn, indices into the things.
        branches: branch of each join, as four points (position, height): up from one branch,
            across, down to the other. Leaf i of `order` stands at position i.
    """

    order: tuple[int, ...]
    branches: tuple[tuple[tuple[float, float], ...], ...]


def cluster_by_similarity(similarity: Float[np.ndarray, "n n"]) -> Tree:
    """Cluster by 1 - cosine, average linkage; the diagonal is not looked at."""
    similarity = np.asarray(similarity, np.float64)
    distance = np.clip(1 - (similarity + similarity.T) / 2, 0, None)
    distance = np.where(np.isfinite(distance), distance, 1.0)
    np.fill_diagonal(distance, 0)
    return _tree(squareform(distance, checks=False), len(similarity))


def cluster_by_profile(rows: Float[np.ndarray, "n m"], clip: float) -> Tree:
    """Cluster rows by Euclidean distance, values clipped, unknown values taken as 0."""
    rows = np.clip(np.nan_to_num(np.asarray(rows, np.float64), nan=0.0), -clip, clip)
    distance = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))
    return _tree(squareform(distance, checks=False), len(rows))


def _tree(distance: np.ndarray, size: int) -> Tree:
    if size < 2:
        return Tree(tuple(range(size)), ())
    linkage = hierarchy.linkage(distance, method="average", optimal_ordering=True)
    drawn = hierarchy.dendrogram(linkage, no_plot=True)
    # scipy puts leaf i at 5 + 10 i.
    branches = [
        tuple(((x - 5) / 10, y) for x, y in zip(xs, ys, strict=True))
        for xs, ys in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    return Tree(tuple(int(i) for i in drawn["leaves"]), tuple(branches))
