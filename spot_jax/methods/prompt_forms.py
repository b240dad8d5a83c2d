"""Prompts in any form in which they are stored, read by what the files hold.

ours   safetensors with everything that we know of the prompt (`spot_jax.methods.prompt_file`)
T5X's  a numpy file, as google-research/prompt-tuning writes it beside T5X's checkpoints, or the
       checkpoint itself, native or orbax
PEFT's an adapter's directory, or its adapter_model.safetensors (`spot_jax.methods.peft`)
"""

import dataclasses
import os
import re

import numpy as np
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import as_path, reading
from spot_jax.methods.peft import CONFIG, WEIGHTS, is_adapter, read_adapter
from spot_jax.methods.prompt_file import PromptFile, check_backbone, checked, parse_prompt

T5X_NAME = "encoder.prompt.prompt.prompt"


def is_prompt(path: str | os.PathLike[str]) -> bool:
    """Return whether `load_prompt` is to read a path: a file, or a directory of PEFT's or T5X's."""
    place = as_path(path)
    if place.is_dir():
        return is_adapter(place) or (place / T5X_NAME).exists() or _t5x_rows(place) is not None
    return place.exists()


def load_prompt(path: str | os.PathLike[str], *, backbone: str | None = None) -> PromptFile:
    """Read a prompt in any of the forms.

    A T5X prompt says nothing but its numbers; its step is taken from the directory
    `checkpoint_STEP` that T5X puts it in.

    Args:
        path: file, on a disk or in a bucket; a directory of PEFT's, or T5X's `checkpoint_STEP`
            with a prompt in it.
        backbone: fingerprint of the backbone it must have been tuned on; None to take any. A file
            that does not say (T5X's, PEFT's) is taken on trust: only its shapes can be checked,
            where it is used.

    Raises:
        SpotError: no such file, not a prompt, truncated, or of another backbone.
    """
    file = as_path(path)
    if file.name in (CONFIG, WEIGHTS) and is_adapter(file.parent):
        file = file.parent
    if file.is_dir() and is_adapter(file):
        prompt = read_adapter(file)
        check_backbone(path, prompt, backbone)
        return prompt
    if file.is_dir() and not (file / T5X_NAME).exists() and (rows := _t5x_rows(file)) is not None:
        return _at_step(checked(file, PromptFile(rows, task=file.name), backbone), file)
    asked = f"give a .safetensors or .npy file, or a PEFT adapter's directory ({CONFIG})"
    with reading(file, asked):
        if file.is_dir() and (file / T5X_NAME).exists():
            file = file / T5X_NAME
        if not file.is_file():
            below = sorted(map(str, file.glob(f"*/{CONFIG}"))) if file.is_dir() else []
            hint = f", such as {below[0].rpartition('/')[0]}" if below else ""
            raise SpotError(f"no prompt file at {path}; {asked}{hint}")
        data = file.read_bytes()
    prompt = parse_prompt(data, file, backbone=backbone)
    return _at_step(prompt, file.parent)


def _at_step(prompt: PromptFile, directory: epath.Path) -> PromptFile:
    step = re.fullmatch(r"checkpoint_(\d+)", directory.name)
    return dataclasses.replace(prompt, step=int(step[1])) if step and not prompt.step else prompt


def _t5x_rows(directory: epath.Path) -> np.ndarray | None:
    """Return the prompt in a checkpoint that T5X wrote, float32; None where there is none."""
    if not re.fullmatch(r"checkpoint_\d+", directory.name):
        return None
    # TensorStore takes a while to import, and most prompts are files.
    from spot_jax.t5.importing import orbax, t5x

    if (directory / t5x.INDEX).exists():
        source = t5x.open_t5x(directory)
    elif (item := orbax.find_item(directory)) is not None:
        source = orbax.open_orbax(directory, item)
    else:
        return None
    tensor = source.prompts.get(T5X_NAME.replace(".", "/"))
    return None if tensor is None else tensor.read().astype(np.float32)
