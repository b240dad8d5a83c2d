"""The devices that a program being traced is for, which decide the form of its arithmetic.

Without a word they are this process's own. `spot plan` compiles for others, and the step of
training says which mesh divides it, so that the residual stream of the encoder can be divided too.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices that a program is for.

    Attributes:
        platform: platform of the devices, as JAX names it: "cpu", "gpu", "tpu".
        devices: number of devices.
        mesh: mesh over whose `model` axis activations are divided; None leaves them as they are.
    """

    platform: str
    devices: int
    mesh: Mesh | None = None

    @property
    def ways(self) -> int:
        """Number of devices that divide a weight; 1 where activations stay as they are."""
        return 1 if self.mesh is None else self.mesh.shape["model"]


# No fused kernels of matrix products for CPUs (XLA's YNNPACK): they are slower (docs/speed.md).
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}

_TARGET: ContextVar[Target | None] = ContextVar("target", default=None)


def target() -> Target:
    """Return the devices that the program being traced is for."""
    return _TARGET.get() or Target(jax.default_backend(), jax.device_count())


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """Return XLA's options for a platform's programs; None for its own defaults.

    Whoever has said in XLA_FLAGS what they want keeps it, and a JAX that does not know an option
    goes without.
    """
    said = os.environ.get("XLA_FLAGS", "")
    if platform != "cpu" or any(option in said for option in _CPU_OPTIONS):
        return None
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return _CPU_OPTIONS


class Jitted:
    """A pure function and `jax.jit`'s program of it, compiled with the platform's options.

    They are asked for at the first call, as a platform is not chosen yet when modules are imported.
    Call it from outside of other programs: JAX takes options for whole programs alone.
    """

    def __init__(self, function: Callable[..., Any], **settings: Any):
        """Take a function and arguments of `jax.jit`."""
        functools.update_wrapper(self, function)
        self._function, self._settings = function, settings

    @functools.cached_property
    def jitted(self) -> Any:
        """`jax.jit` of the function."""
        options = compiler_options(jax.default_backend())
        return jax.jit(self._function, compiler_options=options, **self._settings)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function's program."""
        return self.jitted(*arguments, **named)


@contextlib.contextmanager
def tracing_for(mesh: Mesh, *, divided: bool, platform: str | None = None) -> Iterator[None]:
    """Trace for the devices of a mesh, which need not be this process's.

    Args:
        mesh: mesh of the devices.
        divided: whether activations are divided over `model`; never so on CPUs.
        platform: platform to trace for, where it is not that of the mesh's devices.
    """
    platform = platform or mesh.devices.flat[0].platform
    devices = jax.device_count() if platform == jax.default_backend() else mesh.size
    divides = divided and platform != "cpu" and mesh.shape["model"] > 1
    token = _TARGET.set(Target(platform, devices, mesh if divides else None))
    try:
        yield
    finally:
        _TARGET.reset(token)


def divide(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """Divide the positions of a residual stream over `model`, forwards and backwards."""
    return _constrained(x, *_layouts(x)[:1])


def gather(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """Give every device all positions, as products with divided weights need; undone backwards."""
    divided, whole = _layouts(x)
    return _between(x, whole, divided)


def scatter(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """Divide a product's sum over `model` by positions; undone backwards."""
    return _between(x, *_layouts(x))


def copies(x: Float[Array, "b s d"]) -> Float[Array, "m b s d"] | None:
    """Return a copy for each device of `model`, held by that device; None where there is one.

    What several layers compute from such copies leaves the gradients of the copies apart, and one
    sum over devices is left where the copies are made, in place of one in every layer.
    """
    mesh, ways = target().mesh, target().ways
    if mesh is None:
        return None
    spec = PartitionSpec("model", PartitionSpec.UNCONSTRAINED, None, None)
    repeated = jax.numpy.broadcast_to(x[None], (ways, *x.shape))
    return jax.lax.with_sharding_constraint(repeated, NamedSharding(mesh, spec))


_Layout = NamedSharding | None


def _layouts(x: Array) -> tuple[_Layout, _Layout]:
    """Where positions are divided, and where each device has all; None changes nothing."""
    mesh, ways = target().mesh, target().ways
    if mesh is None or x.shape[1] % ways:
        return None, None
    rows: Any = PartitionSpec.UNCONSTRAINED
    divided, whole = PartitionSpec(rows, "model", None), PartitionSpec(rows, None, None)
    return NamedSharding(mesh, divided), NamedSharding(mesh, whole)


def _constrained(x: Array, layout: _Layout) -> Array:
    return x if layout is None else jax.lax.with_sharding_constraint(x, layout)


def _between(x: Array, forwards: _Layout, backwards: _Layout) -> Array:
    """Lay an array out in one way, and its gradient in another."""
    if forwards is None:
        return x

    @jax.custom_vjp
    def move(x: Array) -> Array:
        return _constrained(x, forwards)

    move.defvjp(lambda x: (move(x), None), lambda _, g: (_constrained(g, backwards),))
    return move(x)
