"""Attention by `jax.nn`: the reference for every other form."""

import jax
from jaxtyping import Array, Bool, Float


@jax.checkpoint
def attend(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    bias: Float[Array, "#b h t s"] | None,
    mask: Bool[Array, "b 1 t s"],
) -> Float[Array, "b t h k"]:
    """Attend where `mask` is True.

    The backward pass recomputes the [b, h, t, s] weights of one layer at a time
    from query and key, instead of holding them in float32 for every layer at once
    (bench/attention_memory.py has the figures).
    """
    return jax.nn.dot_product_attention(query, key, value, bias=bias, mask=mask, scale=1.0)
