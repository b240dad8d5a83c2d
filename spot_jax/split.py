"""The one idea: split the parameters in two trees, and differentiate only the first.

    trainable, frozen = split(params, [("prompt", "train"), (".*", "freeze")])
    loss, metrics = method.loss(trainable, frozen, batch, key)   # grad of the FIRST argument only

`trainable` is what is tuned: a prompt of a few thousand numbers. It alone is differentiated, has
optimizer state, is donated to the jitted step and is written to checkpoints. `frozen` is the T5:
an argument of the same step, never closed over, never donated, never differentiated, never saved.

Why not a mask over the whole tree, the usual way? XLA removes the dead gradients of a mask, so it
costs no more, until the first innocent line touches all of them: a gradient norm in the log
computes every frozen gradient; a clip before the mask scales the prompt's step by gradients of
weights that do not move; an int8 leaf cannot be differentiated at all. With a split none of that
can be written by mistake, and "did we touch the base?" is answered by construction: nothing in
the program has the frozen weights as an output.

One ordered list of rules says which leaf goes where. The first match wins; a leaf that no rule
matches and a rule that matches no leaf are errors, because both mean that the list and the tree
disagree. Model tuning is the same code with `[(".*", "train")]`: `frozen` is empty.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flax import traverse_util

from spot_jax.errors import SpotError

Rule = tuple[str, Literal["train", "freeze"]]


def split(params: Mapping[str, Any], rules: Sequence[Rule]) -> tuple[dict, dict]:
    """Part a nested dict into (trainable, frozen); `merge` is the inverse.

    Args:
        params: nested dict of leaves; a leaf's path is its keys joined by "/".
        rules: ordered pairs `(regex, "train" | "freeze")`; a regex must match the whole path.

    Returns:
        Two nested dicts with disjoint paths; leaves are the very objects of `params`.

    Raises:
        SpotError: a leaf that no rule matches, or a rule that no leaf is decided by.
    """
    sides: dict[str, dict[str, Any]] = {"train": {}, "freeze": {}}
    used = set()
    for path, leaf in traverse_util.flatten_dict(dict(params), sep="/").items():
        for i, (pattern, side) in enumerate(rules):
            if re.fullmatch(pattern, path):
                sides[side][path] = leaf
                used.add(i)
                break
        else:
            raise SpotError(
                f"no train/freeze rule matches the parameter {path!r}; add one, "
                "for example ('.*', 'freeze') at the end of the list"
            )
    for i, (pattern, side) in enumerate(rules):
        if i not in used:
            raise SpotError(
                f"the rule ({pattern!r}, {side!r}) decides no parameter: none matches it that an "
                "earlier rule did not take; mend the pattern or remove the rule"
            )
    trainable, frozen = (traverse_util.unflatten_dict(sides[s], sep="/") for s in sides)
    return trainable, frozen


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict:
    """Join two nested dicts with disjoint paths into one; the inverse of `split`.

    Raises:
        ValueError: a path is in both.
    """
    merged = dict(frozen)
    for name, value in trainable.items():
        if name not in merged:
            merged[name] = value
        elif isinstance(value, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = merge(value, merged[name])
        else:
            raise ValueError(f"{name!r} is in both trees")
    return merged
