"""Prompts written in the forms that others read.

spot   our file: safetensors with everything that we know of the prompt
t5x    a numpy file, as google-research/prompt-tuning writes beside T5X's checkpoints and its
       `from_file` initialisation reads; T5X calls it encoder.prompt.prompt.prompt. Numbers only
peft   a directory that Hugging Face PEFT loads onto a T5 (`peft_adapter`)
"""

import io
import os

import numpy as np
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import as_path, write_whole
from spot_jax.methods.peft import is_kernels, is_prefix, write_adapter
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import T5X_NAME
from spot_jax.methods.stored import check_virtual

FORMS = ("spot", "t5x", "peft")


def write_prompt(
    prompt: PromptFile, destination: epath.PathLike, form: str, *, base_model: str = ""
) -> str:
    """Write a prompt for others to use and return where it is.

    Args:
        prompt: prompt to write.
        destination: path of a file, or for peft of a directory; for t5x an existing directory
            takes a file of T5X's name.
        form: form of the file, one of `FORMS`.
        base_model: name by which transformers knows the backbone, for peft.

    Raises:
        SpotError: no such form, a destination that holds something else, or a prompt that the form
            has no place for: T5X's holds rows of virtual tokens, PEFT's LoRA and IA3 too, and of
            prefixes those that were PEFT's.
    """
    if form not in FORMS:
        raise SpotError(f"no form {form!r}; choose one of {', '.join(FORMS)}")
    of_peft = form == "peft" and (is_kernels(prompt) or is_prefix(prompt))
    if form != "spot" and not of_peft:
        check_virtual(f"the form {form}", prompt)
    path = as_path(destination)
    if form == "peft":
        write_adapter(path, prompt, base_model=base_model)
        return os.fspath(path)
    if path.is_dir():
        if form == "spot":
            raise SpotError(f"{path} is a directory; give the name of a file to write")
        path = path / T5X_NAME
    if form == "spot":
        prompt.save(path)
    else:
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(prompt.rows, np.float32))
        write_whole(path, content.getvalue())
    return os.fspath(path)
