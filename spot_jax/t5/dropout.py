"""Dropout by rows, and the masks of all of a stack's layers, drawn before the layers run.

A mask is the same at every position of a row (T5X's `broadcast_dims=(-2,)`), so the masks of all
layers are a few megabytes: they are drawn once, outside of a scan over layers, and neither drawn
again nor held for each position in the backward pass.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from spot_jax.t5.target import target

Masks = list[Bool[Array, "b 1 ..."]]
# Where a layer drops: the site within a module, and the number of features that are drawn.
Place = tuple[int, int]


def fold_in_rows(keys: Key[Array, " b"] | None, data: Any) -> Key[Array, " b"] | None:
    """Fold one number into every row's key; None (no dropout) stays None."""
    if keys is None:
        return None
    folded = jax.vmap(jax.random.fold_in, (0, None))(keys, data)
    if target().platform == "cpu":
        return folded
    # Else accelerators' compilers fold anew wherever the key is used, in programs twice as long.
    numbers = jax.lax.optimization_barrier(jax.random.key_data(folded))
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(folded))


def recomputed(function: Callable[..., Array]) -> Callable[..., Array]:
    """Hold an elementwise function's inputs for the backward pass, none of its steps between.

    On the CPU such steps are cheap to hold and the compiled program's arithmetic is left alone.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Array:
        cheap = target().platform != "cpu"
        return (jax.checkpoint(function) if cheap else function)(*arguments)

    return call


def dropout(
    x: Float[Array, "b t ..."], keys: Key[Array, " b"] | None, rate: float, site: int
) -> Float[Array, "b t ..."]:
    """Drop features, the same ones at every position of a row (T5X's `broadcast_dims=(-2,)`).

    Each row has its own key, so that a row's mask depends neither on the rows beside it nor
    on how the batch is sharded: N prompts tuned together see the masks they would see alone.

    Args:
        x: activations; the mask is broadcast over the second axis.
        keys: one key per row, or None for no dropout.
        rate: probability of dropping, 0 to 1.
        site: number that distinguishes this use from others of the same keys.
    """
    rows = fold_in_rows(keys, site)
    if rows is None or rate == 0.0:
        return x
    shape = (1, *x.shape[2:])
    mask = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(rows)
    return drop(x, mask, rate)


def drop(
    x: Float[Array, "b t ..."], mask: Bool[Array, "b 1 ..."] | None, rate: float
) -> Float[Array, "b t ..."]:
    """Return activations where the mask is True, scaled up, and 0 elsewhere; without one all."""

    @recomputed
    def dropped(x: Array, mask: Array) -> Array:
        # Recomputed, the mask is held once for a row; else for each of its positions.
        return jnp.where(mask, x / (1.0 - rate), jnp.zeros_like(x))

    return x if mask is None else dropped(x, mask)


def layer_masks(
    keys: Key[Array, " b"] | None, layer: Int[Array, ""] | int, places: Sequence[Place], rate: float
) -> Masks | None:
    """Return the mask of each place of a layer, True where a feature stays; None for no dropout.

    Place number i of a layer draws from the row's key with the layer, i and its site folded in.

    Args:
        keys: one key per row, or None for no dropout.
        layer: number of the layer.
        places: places of the layer, in order.
        rate: probability of dropping, 0 to 1.
    """
    rows = fold_in_rows(keys, layer)
    if rows is None or rate == 0.0:
        return None
    numbers = jnp.arange(len(places)), jnp.asarray([site for site, _ in places])

    def of_place(number: Array, site: Array) -> Any:
        return fold_in_rows(fold_in_rows(rows, number), site)

    # All keys at once, and masks of one width at once: less of a program to compile.
    by_place = jax.vmap(of_place)(*numbers)
    masks: dict[int, Array] = {}
    for width in dict.fromkeys(width for _, width in places):
        which = [i for i, place in enumerate(places) if place[1] == width]

        def draw(key: Array, width: int = width) -> Array:
            return jax.random.bernoulli(key, 1.0 - rate, (1, width))

        drawn = jax.vmap(jax.vmap(draw))(by_place[jnp.asarray(which)])
        masks.update(zip(which, drawn, strict=True))
    return [masks[i] for i in range(len(places))]
