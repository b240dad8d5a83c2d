"""Optimizer parts that take stacked layers one by one, as T5X takes the layers of an unscanned T5.

With `scan_layers` a stack's layers are one leaf with a leading axis. Clipping by a leaf's root mean
square, scaling by a parameter's, factored moments and the choice of what is decayed must not see
that: the update of a layer is what it would be with the layers apart.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import traverse_util

Tree = Any


def is_stacked(tree: Tree) -> bool:
    """Return whether some of a tree's leaves are layers in one, under the name "layers"."""
    return any(map(_has_layers, _paths(tree)))


def ranks(tree: Tree) -> Tree:
    """Return the number of axes of every leaf, without that of stacked layers."""
    return jax.tree.map_with_path(lambda path, x: x.ndim - _has_layers(names_of(path)), tree)


def by_layer(part: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return a part of an optimizer, whose leaves do not see each other, for layers one by one.

    Its state is `part`'s own where nothing is stacked; otherwise a tuple of it for the leaves that
    are not, and for the stacked ones by their number of layers, with a leading axis.
    """

    def init(params: Tree) -> Any:
        if not is_stacked(params):
            return part.init(params)
        return tuple(_mapped(layers, part.init)(tree) for layers, tree in _groups(params).items())

    def update(grads: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
        if not is_stacked(grads):
            return part.update(grads, state, params)
        groups = _groups(grads)
        of_params = [None] * len(groups) if params is None else _groups(params).values()
        updates: dict[tuple[str, ...], Any] = {}
        states = []
        for (layers, tree), old, group_params in zip(groups.items(), state, of_params, strict=True):
            new, new_state = _mapped(layers, part.update)(tree, old, group_params)
            updates |= traverse_util.flatten_dict(new)
            states.append(new_state)
        return traverse_util.unflatten_dict(updates), tuple(states)

    return optax.GradientTransformation(init, update)


def _groups(tree: Tree) -> dict[int, Tree]:
    """The leaves by their number of layers, 0 for those that are not stacked."""
    groups: dict[int, dict[tuple[str, ...], Any]] = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        groups.setdefault(leaf.shape[0] if _has_layers(path) else 0, {})[path] = leaf
    return {n: traverse_util.unflatten_dict(groups[n]) for n in sorted(groups)}


def _mapped(layers: int, function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.vmap(function) if layers else function


def _paths(tree: Tree) -> list[tuple[str, ...]]:
    return [names_of(path) for path, _ in jax.tree.leaves_with_path(tree)]


def names_of(path: Any) -> tuple[str, ...]:
    """Return the keys of a leaf's path in nested dicts."""
    return tuple(str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey))


def _has_layers(path: tuple[str, ...]) -> bool:
    return "layers" in path
