"""A prompt's file back to what predictions run with, by the method that its metadata names."""

import importlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from spot_jax.errors import SpotError
from spot_jax.methods.base import Inference, Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.config import T5Config

# A method's name, and the function (params, config, file) -> Inference that reads its files.
# Methods whose prompt is rows of virtual tokens need none.
_OTHERS: dict[str, str] = {
    "PrefixTuning": "spot_jax.methods.prefix_tuning:restored_prefix",
    "FastfoodTuning": "spot_jax.methods.fastfood:restore",
    "YTuning": "spot_jax.methods.y_tuning:restore",
}


def restored(params: Tree, config: T5Config, file: PromptFile) -> Inference:
    """What predictions with a prompt run with.

    Args:
        params: the frozen T5's tree.
        config: its shape.
        file: the prompt's.

    Raises:
        SpotError: a prompt of another width than the backbone's.
    """
    name = str(file.method.get("name", ""))
    if name in _OTHERS:
        module, _, function = _OTHERS[name].partition(":")
        return getattr(importlib.import_module(module), function)(params, config, file)
    if file.prompt.shape[1] != config.emb_dim:
        raise SpotError(
            f"a prompt of width {file.prompt.shape[1]} cannot go with this backbone of width "
            f"{config.emb_dim}; load the backbone it was tuned on"
        )
    return Inference(params, jnp.asarray(file.prompt))


def restored_ensemble(
    params: Tree, config: T5Config, files: Sequence[PromptFile], examples: int
) -> Inference:
    """What predictions of several prompts run with, every row of a batch repeated for each.

    Args:
        params: the frozen T5's tree.
        config: its shape.
        files: the prompts', one a repetition of a row; the table stacks them.
        examples: rows of a batch before they are repeated.

    Raises:
        SpotError: prompts of different methods or lengths, or of a method that has no ensembles.
    """
    names = {str(file.method.get("name", "")) for file in files}
    others = sorted(names & set(_OTHERS))
    if others == ["PrefixTuning"] and len(names) == 1:
        from spot_jax.methods.prefix_tuning import prefix_ensemble

        return prefix_ensemble(params, config, files, examples)
    if others:
        raise SpotError(
            f"an ensemble is of virtual tokens alone or of prefixes alone, found "
            f"{' and '.join(sorted(filter(None, names)))}; leave some out, or score each alone"
        )
    lengths, placements = (
        sorted(set(one)) for one in zip(*map(virtual_tokens, files), strict=True)
    )
    for what, found in (("length", lengths), ("placement", placements)):
        if len(found) > 1:
            raise SpotError(
                f"an ensemble needs prompts of one {what}, found {found}; leave some out"
            )
    tables = [restored(params, config, file).table for file in files]
    return Inference(params, jnp.concatenate([one for one in tables if one is not None]))


def virtual_tokens(file: PromptFile) -> tuple[int, str]:
    """How many virtual tokens an input holds, and where they stand (`Method.placement`)."""
    length = 0 if file.method.get("name") in _OTHERS else len(file.prompt)
    return length, str(file.method.get("placement", "before"))


def use_of(file: PromptFile) -> dict[str, Any]:
    """What of a file's method says how its rows are used; prompts mix only where this is equal."""
    if file.method.get("name") in _OTHERS:
        return dict(file.method)
    return {"placement": virtual_tokens(file)[1]}


def check_virtual(path: str, file: PromptFile) -> None:
    """`SpotError` for a prompt that is not rows of virtual tokens but a prefix, for example."""
    if (name := file.method.get("name")) in _OTHERS:
        raise SpotError(
            f"{path}: expected rows of virtual tokens, found a prompt of {name}, which is none; "
            "give one of Prompt Tuning"
        )
