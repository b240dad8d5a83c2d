"""Which methods a transfer can use, and how their prompts begin: each any way, then from another's.

A method fits when it has the fields `init` and `prompt`, as `PromptTuning`
has them: `init = "prompt"` with a stored prompt, or one for each of the run's, is the transfer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.methods.base import BaseMethod
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.config import T5Config


def check_method(method: BaseMethod) -> None:
    """Raise `SpotError` for a method without prompts, or whose prompts cannot begin from a file."""
    name = type(method).__name__
    if method.tunes_backbone:
        raise SpotError(
            f"{name} tunes the backbone and has no prompt to carry on; give a transfer a method "
            "that tunes prompts, such as PromptTuning"
        )
    missing = [setting for setting in ("init", "prompt") if not hasattr(method, setting)]
    if missing:
        raise SpotError(
            f"{name} has no setting {missing[0]!r}, so its prompts cannot begin from stored ones; "
            "give a transfer another method, such as PromptTuning"
        )


def beginning(method: BaseMethod, init: str | None, prompts: Sequence[str] | None = None) -> Any:
    """Return the same method with another beginning.

    Args:
        method: method that `check_method` lets pass.
        init: initialisation of its prompts; None for the method's own.
        prompts: paths of files to begin from, one a prompt, whatever `init` says; None for none.
    """
    changed: Any = method
    if prompts is not None:
        return dataclasses.replace(changed, init="prompt", prompt=list(prompts))
    return dataclasses.replace(changed, init=changed.init if init is None else init, prompt=None)


def stored_shape(method: BaseMethod, config: T5Config) -> tuple[int, int] | None:
    """Return [rows, width] of a stored prompt, where the method knows it before it is built."""
    return (method.length, config.emb_dim) if isinstance(method, PromptTuning) else None
