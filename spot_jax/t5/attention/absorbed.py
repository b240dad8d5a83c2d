"""Attention to the encoder's output without its keys and values: their matrices go to the queries.

With the encoder's output e, a head's logits are q (e Wk)^T = (q Wk^T) e^T, and what it reads is
w (e Wv) = (w e) Wv. So few queries spare two products of every position of the text with a [d, h k]
matrix, in every layer, forward and backward. DeepSeek-V2 (2024, section 2.1.2) calls it absorbing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend(
    query: Float[Array, "b t h k"],
    encoded: Float[Array, "b s d"],
    key_kernel: Float[Array, "d f"],
    value_kernel: Float[Array, "d f"],
    mask: Bool[Array, "b 1 t s"],
    scales: Float[Array, "b #s #h"] | None = None,
) -> Float[Array, "b t h k"]:
    """Return what `plain.attend` does with the keys and values of `encoded`.

    Args:
        query: query of every position.
        encoded: output of the encoder.
        key_kernel: matrix of the keys, f = h k.
        value_kernel: matrix of the values.
        mask: True where a query sees a position; where it sees none the result has no meaning.
        scales: factor of each position's value in a head; None for 1.
    """
    b, t, h, k = query.shape
    key_kernel, value_kernel = (x.reshape(-1, h, k) for x in (key_kernel, value_kernel))
    queries = jnp.einsum("bthk,dhk->bhtd", query, key_kernel).reshape(b, h * t, -1)
    logits = jnp.einsum("bnd,bsd->bns", queries, encoded, preferred_element_type=jnp.float32)
    unseen = jnp.finfo(jnp.float32).min / 2
    logits = jnp.where(mask, logits.reshape(b, h, t, -1), unseen)
    weights = jax.nn.softmax(logits, axis=-1).astype(encoded.dtype)
    if scales is not None:
        weights = weights * jnp.moveaxis(scales, 1, 2)[:, :, None]
    read = jnp.einsum("bns,bsd->bnd", weights.reshape(b, h * t, -1), encoded)
    return jnp.einsum("bhtd,dhk->bthk", read.reshape(b, h, t, -1), value_kernel)
