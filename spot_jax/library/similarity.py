"""How alike two tasks are: the cosine similarities of their prompts (Vu et al. 2022, section 3.2).

A task's embedding is its prompt at an early, fixed step. The paper compares two of them in two
ways, `average_tokens`, cos(mean_i a_i, mean_j b_j), and `per_token`, the mean of cos(a_i, b_j) over
all pairs of tokens. Both are a dot product of one vector a prompt, its *signature*: of the second,

    1/(PQ) sum_ij <a_i/|a_i|, b_j/|b_j|>  =  <mean_i a_i/|a_i|, mean_j b_j/|b_j|>,

so that no pair of tokens is ever looked at, and ranking a library is one matrix-vector product.
The prompts' lengths may differ, their widths may not.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from spot_jax.errors import SpotError

Metric = Literal["per_token", "average_tokens"]
METRICS: tuple[Metric, ...] = get_args(Metric)


def average_tokens(a: Float[np.ndarray, "p d"], b: Float[np.ndarray, "q d"]) -> float:
    """Return the cosine of the prompts' mean tokens, the paper's first metric; -1 to 1.

    Raises:
        SpotError: other shapes than [tokens, width] of one width, or tokens that average to zero.
    """
    return _similarity(a, b, "average_tokens")


def per_token(a: Float[np.ndarray, "p d"], b: Float[np.ndarray, "q d"]) -> float:
    """Return the mean cosine over all pairs of tokens, the paper's second metric; -1 to 1.

    A prompt's similarity to itself is 1 only if its tokens all point one way.

    Raises:
        SpotError: other shapes than [tokens, width] of one width, or a token that is zero.
    """
    return _similarity(a, b, "per_token")


def signature(
    prompt: Float[np.ndarray, "p d"], metric: Metric = "per_token", *, name: str = "the prompt"
) -> Float[np.ndarray, "d"]:
    """Return the vector [d], float64, whose dot products are the prompt's similarities.

    Args:
        prompt: tokens [P, d] of any float type; reckoned in float64.
        metric: metric of similarity; per_token: the mean of the tokens scaled to length one;
            average_tokens: the mean token scaled to length one.
        name: name of the prompt in errors.

    Raises:
        SpotError: no [tokens, width], NaN or infinity, an unknown metric, or no direction to
            compare: a zero token under per_token, a zero mean under average_tokens.
    """
    check_metric(metric)
    tokens = np.asarray(prompt, np.float64)
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise SpotError(f"{name}: expected [tokens, width], found shape {list(tokens.shape)}")
    if not np.all(np.isfinite(tokens)):
        raise SpotError(
            f"{name} holds NaN or infinity and cannot be compared; take an earlier step"
        )
    if metric == "average_tokens":
        return _unit(tokens.mean(axis=0)[None], f"{name}: its average token")[0]
    return _unit(tokens, name).mean(axis=0)


def matrix(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Return similarities [n, m] of every prompt of one list with every prompt of another.

    Args:
        a: signatures of one metric.
        b: signatures of the same metric.

    Raises:
        SpotError: other shapes than [prompts, width] of one width.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise SpotError(
            f"expected signatures [n, width] and [m, width] of one width, found {list(a.shape)} "
            f"and {list(b.shape)}; prompts compare on one backbone only"
        )
    return a @ b.T


def check_metric(metric: str) -> None:
    """Raise SpotError if there is no such metric."""
    if metric not in METRICS:
        raise SpotError(f"no metric {metric!r}; choose one of {', '.join(METRICS)}")


def _similarity(a: np.ndarray, b: np.ndarray, metric: Metric) -> float:
    first = signature(a, metric, name="the first prompt")
    second = signature(b, metric, name="the second prompt")
    # Rounding may step over the ends of the cosine's range; arccos would not forgive it.
    return float(np.clip(matrix(first[None], second[None])[0, 0], -1, 1))


def _unit(vectors: np.ndarray, name: str) -> np.ndarray:
    # Scaled by the largest entry first: the square of a tiny one would vanish.
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    zero = np.flatnonzero(largest[:, 0] == 0)
    if zero.size == len(vectors):
        raise SpotError(f"{name} is all zero and has no direction to compare; tune it first")
    if zero.size:
        raise SpotError(
            f"{name}: token {zero[0]} is all zero and has no direction to compare; tune the "
            "prompt first, or rank by average_tokens"
        )
    vectors = vectors / largest
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
