"""Matrix products in the form that suits the machine: on one CPU, what its caches hold well.

Where rows of a result are a multiple of 2 KiB apart, those that are written at once share a few
places of a cache: a tenth of a step of T5 base (bench/results/peers.json, case `forms`).
T5's widths are such multiples: 512, 1,024, 2,048. A few columns of zeros more move the rows apart.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spot_jax.t5.target import target

# Rows that a CPU multiplies one by one, and those from which on a copy of the kernel costs little.
_FEW_ROWS = 4
_MANY_ROWS = 256
# Numbers of a row whose multiples are held badly, and how many more make them held well.
FAR = 512
_COLUMNS = 16


def product(x: Float[Array, "*b d"], kernel: Float[Array, "d f"]) -> Float[Array, "*b f"]:
    """Multiply the last axis of `x` by a matrix."""
    place, rows = target(), math.prod(x.shape[:-1])
    if place.platform != "cpu" or rows == 1:
        return jnp.matmul(x, kernel)
    if rows <= _FEW_ROWS:
        # A CPU's product of a vector reads the kernel as it lies; that of a matrix copies it first.
        vectors = [jnp.matmul(row, kernel) for row in x.reshape(rows, -1)]
        return jnp.stack(vectors).reshape(*x.shape[:-1], -1)
    if place.devices > 1 or rows < _MANY_ROWS or all(width % FAR for width in kernel.shape):
        return jnp.matmul(x, kernel)
    return _many_rows(x.reshape(rows, -1), kernel).reshape(*x.shape[:-1], -1)


def apart(x: Array, axis: int) -> Array:
    """Return a matrix with columns of zeros more on an axis, where that is an axis held badly."""
    more = 0 if x.shape[axis] % FAR else _COLUMNS
    return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])


@jax.custom_vjp
def _many_rows(x: Float[Array, "n d"], kernel: Float[Array, "d f"]) -> Float[Array, "n f"]:
    return jnp.matmul(x, apart(kernel, 1))[:, : kernel.shape[1]]


def _backward(
    factors: tuple[Array, Array], gradient: Float[Array, "n f"]
) -> tuple[Float[Array, "n d"], Float[Array, "d f"]]:
    x, kernel = factors
    back = jax.lax.dot_general(gradient, apart(kernel, 0), (((1,), (1,)), ((), ())))
    return back[:, : len(kernel)], jnp.matmul(x.T, gradient)


_many_rows.defvjp(lambda x, kernel: (_many_rows(x, kernel), (x, kernel)), _backward)
