"""Prompt files in use: what predictions run with, by the method that a file names."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from spot_jax.errors import SpotError
from spot_jax.methods.base import (
    BaseMethod,
    Inference,
    methods,
    virtual_token_inference,
)
from spot_jax.methods.losses import Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.config import T5Config

# What files of virtual tokens call themselves that no method of ours has tuned: T5X's prompts say
# nothing, averages are made of others.
_NOT_TUNED = ("", "WeightedAverage")


def method_of(file: PromptFile) -> type[BaseMethod] | None:
    """Return the class of a file's method; None for rows of virtual tokens of unnamed origin.

    Raises:
        SpotError: a method that nothing imported defines.
    """
    name = str(file.method.get("name", ""))
    if name in _NOT_TUNED:
        return None
    by_name = methods()
    if name not in by_name:
        raise SpotError(
            f"tuned by the method {name}, which is none of {', '.join(sorted(by_name))}; import "
            "the module that defines it, from the command line with --module MODULE"
        )
    return by_name[name]


def inference_of(params: Tree, config: T5Config, file: PromptFile) -> Inference:
    """Return what predictions with a prompt run with.

    Args:
        params: tree of the frozen T5.
        config: shape of the T5.
        file: prompt.

    Raises:
        SpotError: a prompt that does not fit the backbone, or of an unknown method.
    """
    method = method_of(file)
    if method is None:
        return virtual_token_inference(file, params, config)
    return method.read(file, params, config)


def ensemble_of(
    params: Tree, config: T5Config, files: Sequence[PromptFile], examples: int
) -> Inference:
    """Return what predictions of several prompts run with, every row of a batch once for each.

    Args:
        params: tree of the frozen T5.
        config: shape of the T5.
        files: prompts, one a repetition of a row; the table stacks them.
        examples: rows of a batch before they are repeated.

    Raises:
        SpotError: prompts of different methods or lengths, or of a method that has no ensembles.
    """
    kinds = {method_of(file) for file in files if not has_virtual_tokens(file)}
    virtual = [file for file in files if has_virtual_tokens(file)]
    if len(kinds) == 1 and not virtual:
        (kind,) = kinds
        several = None if kind is None else kind.read_several(files, params, config, examples)
        if several is not None:
            return several
    if kinds:
        names = sorted({str(file.method.get("name", "")) for file in files} - {""})
        raise SpotError(
            "an ensemble is of virtual tokens alone or of prefixes alone, found "
            f"{' and '.join(names)}; leave some out, or score each alone"
        )
    lengths, placements = (sorted(set(x)) for x in zip(*map(virtual_tokens, files), strict=True))
    for what, values in (("length", lengths), ("placement", placements)):
        if len(values) > 1:
            raise SpotError(
                f"an ensemble needs prompts of one {what}, found {values}; leave some out"
            )
    tables = [inference_of(params, config, file).table for file in files]
    return Inference(params, jnp.concatenate([table for table in tables if table is not None]))


def has_virtual_tokens(file: PromptFile) -> bool:
    """Return whether a prompt is rows of virtual tokens and nothing else."""
    method = method_of(file)
    if method is None:
        return True
    return file.prompt is not None and method.rows_are == BaseMethod.rows_are


def virtual_tokens(file: PromptFile) -> tuple[int, str]:
    """Return how many virtual tokens an input holds, and where they stand (`placement`)."""
    placement = str(file.method.get("placement", "before"))
    if has_virtual_tokens(file):
        return len(file.rows), placement
    return int(file.method.get("virtual_tokens", 0)), placement


def use_of(file: PromptFile) -> dict[str, Any]:
    """Return what says how a file's rows are used; prompts mix only where this is equal."""
    if has_virtual_tokens(file):
        return {"placement": virtual_tokens(file)[1]}
    return dict(file.method)


def check_virtual(path: str, file: PromptFile) -> None:
    """Raise `SpotError` for a prompt that is not rows of virtual tokens but a prefix, say."""
    if not has_virtual_tokens(file):
        raise SpotError(
            f"{path}: expected rows of virtual tokens, found a prompt of "
            f"{file.method.get('name')}, which is none; give one of Prompt Tuning"
        )
