"""What jaxtyping's import hook checks functions with: their arrays' shapes and dtypes, by beartype.

Other hints are mypy's to check; tests pass stand-ins for many of them.
"""

import functools
import inspect
import operator
import os
import types
import typing
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import AbstractArray

ARE_CHECKED = bool(os.environ.get("CHECK_SHAPES"))
# For a test of what we say of a shape that the signature rules out.
wrong_shapes = pytest.mark.skipif(ARE_CHECKED, reason="the checker refuses the shape before us")


def arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that beartype checks the hints of arrays of, and no others."""
    hints = getattr(function, "__annotations__", {})
    chosen = {name: _with_numpy(hint) for name, hint in hints.items() if _is_of_arrays(hint)}
    if not chosen:
        return function
    function.__annotations__ = chosen
    signature = inspect.signature(function)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            p.replace(annotation=chosen.get(name, inspect.Parameter.empty))
            for name, p in signature.parameters.items()
        ],
        return_annotation=chosen.get("return", inspect.Signature.empty),
    )
    checked = beartype(function)
    if not function.__qualname__.endswith(".__init__"):
        return checked

    @functools.wraps(function)
    def begin(self: Any, *args: Any, **options: Any) -> Any:
        # JAX makes its trees anew, with shardings, shapes or stacks where the arrays were.
        is_tree = getattr(type(self), "_flax_dataclass", False)
        return (function if is_tree else checked)(self, *args, **options)

    return begin


def _is_of_arrays(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(_is_of_arrays(part) for part in typing.get_args(hint))


def _with_numpy(hint: Any) -> Any:
    """A hint that takes NumPy's arrays, and shapes, wherever it takes JAX's, as JAX does."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        if hint.array_type is jax.Array:
            return hint.dtype[jax.Array | np.ndarray | jax.ShapeDtypeStruct, hint.dim_str]
        return hint
    parts = tuple(_with_numpy(part) for part in typing.get_args(hint))
    if not parts:
        return hint
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return functools.reduce(operator.or_, parts)
    return origin[parts]
