"""A prompt's file back to what predictions run with, by the method that its metadata names."""

import importlib

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


def virtual_tokens(file: PromptFile) -> tuple[int, str]:
    """How many virtual tokens an input holds, and where they stand (`Method.placement`)."""
    length = 0 if file.method.get("name") in _OTHERS else len(file.prompt)
    return length, str(file.method.get("placement", "before"))
