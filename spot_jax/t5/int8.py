"""int8 weights of a frozen T5: kernels alone, symmetric, with a scale for each output.

A kernel W [d, f] becomes int8 integers Q in [-127, 127] and a leaf `kernel_scale` s [f] beside it,

    W = Q * s,    s_j = max_i |W_ij| / 127,

and `spot_jax.t5.layers.Dense` computes (x Q) * s, so that no copy of W in floating point is held.
Scales are rounded to bfloat16 before Q is, and so are exact in every dtype of activations.
Embeddings, norms and position biases keep their dtype: they are a few hundredths of the weights.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from spot_jax.errors import SpotError

INT8 = "int8"
_KERNEL, _SCALE = "/kernel", "/kernel_scale"
_GREATEST = 127.0


def scale_name(name: str) -> str | None:
    """Return the path of the scale of a parameter, by its path; None for what is no kernel."""
    return name.removesuffix(_KERNEL) + _SCALE if name.endswith(_KERNEL) else None


def kernel_name(name: str) -> str | None:
    """Return the path of the kernel that a scale is of, by its path; None for what is no scale."""
    return name.removesuffix(_SCALE) + _KERNEL if name.endswith(_SCALE) else None


def scale_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return path and shape of the scales of all kernels among parameters."""
    named = ((scale_name(name), shape) for name, shape in shapes.items())
    return {name: (*shape[:-2], shape[-1]) for name, shape in named if name is not None}


def quantise(kernel: Float[Array, "*n d f"]) -> tuple[Int8[Array, "*n d f"], Float[Array, "*n f"]]:
    """Return the integers of a kernel, or of stacked ones, and its float32 scales."""
    wide = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=-2)
    scale = jnp.where(largest > 0, largest / _GREATEST, 1.0)
    scale = jax.lax.reduce_precision(scale, exponent_bits=8, mantissa_bits=7)
    integers = jnp.round(wide / scale[..., None, :])
    return jnp.clip(integers, -_GREATEST, _GREATEST).astype(jnp.int8), scale


def dequantise(kernel: Int8[Array, "*n d f"], scale: Float[Array, "*n f"], dtype: str) -> Array:
    """Return the kernel that integers and scales stand for, in `dtype`."""
    return (kernel.astype(jnp.float32) * scale[..., None, :]).astype(dtype)


@functools.cache
def quantiser(*shardings: Any) -> Callable[[Array], tuple[Array, Array]]:
    """Return `quantise` compiled, with its results where the two shardings say, if any."""
    return jax.jit(quantise, out_shardings=shardings if any(shardings) else None)


def has_int8(params: Mapping[str, Any]) -> bool:
    """Return whether a tree of parameters has int8 kernels."""
    return any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(params))


def weights_dtype(params: Mapping[str, Any]) -> str:
    """Return the name of the dtype of a tree's weights: int8 where its kernels are."""
    return INT8 if has_int8(params) else str(jax.tree.leaves(params)[0].dtype.name)


def check_kernels_stay(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> None:
    """Raise `SpotError` if int8 kernels of one tree are not those of another, changed from it.

    Args:
        before: tree of the frozen T5.
        after: tree with the same paths, and perhaps more.
        what: name of what changed it, for the error.
    """
    for name, leaf in before.items():
        if isinstance(leaf, Mapping):
            check_kernels_stay(leaf, after[name], what)
        elif leaf.dtype == jnp.int8 and after[name] is not leaf:
            raise SpotError(refusal(what))


def refusal(what: str) -> str:
    """Return why something that changes kernels does not run on int8 ones."""
    return (
        f"{what} changes the T5's kernels, which are int8 here; set "
        "StoredBackbone.parameter_dtype = 'float32', on the backbone as it was before it was "
        "converted to int8"
    )
