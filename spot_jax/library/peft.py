"""Hugging Face PEFT's adapters: directories, read and written without PEFT.

A directory holds `adapter_config.json` and `adapter_model.safetensors`. That of a soft prompt has
one tensor, `prompt_embeddings` [rows, d]; LoRA and IA3 are in `peft_kernels`. For a T5 (task type
SEQ_2_SEQ_LM) PEFT makes and saves 2P rows, one half for each half of the model, but puts only the
first P before the encoder and the others nowhere. So of what we read we keep P rows, and what we
write says num_transformer_submodules 1, with which PEFT expects P rows. An adapter of P-tuning is
the same: its encoder is folded away when PEFT saves it.
"""

import dataclasses
import json
import os
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from spot_jax.errors import SpotError
from spot_jax.files import parse_object, reading, write_whole
from spot_jax.library import peft_kernels
from spot_jax.library.entry import FORMAT
from spot_jax.methods.prompt_file import PromptFile, check_signed, prompt_of, tensor_bytes
from spot_jax.t5.tensor_files import TensorFile

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_TENSOR = "prompt_embeddings"
_ARRAYS = {"prompt", "tensors"}
_KINDS = ("PROMPT_TUNING", "P_TUNING")


def is_adapter(directory: epath.PathLike) -> bool:
    """Return whether a directory has the description that PEFT writes."""
    return (epath.Path(directory) / CONFIG).exists()


def read_adapter(directory: epath.PathLike) -> PromptFile:
    """Return the prompt of an adapter directory, with its origin if we wrote it.

    Raises:
        SpotError: no adapter, of another kind, not for an encoder-decoder, weights that are
            missing, damaged or of another shape than the description's.
    """
    path = epath.Path(directory)
    config = _read_config(path)
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind not in (*_KINDS, *peft_kernels.KINDS):
        raise SpotError(
            f"{path}: an adapter of type {kind}; expected a soft prompt "
            f"({' or '.join(_KINDS)}), {' or '.join(peft_kernels.KINDS)}"
        )
    if task not in ("SEQ_2_SEQ_LM", None):
        raise SpotError(
            f"{path}: an adapter for {task}; expected one for a T5 (task_type SEQ_2_SEQ_LM)"
        )
    if not (path / WEIGHTS).exists():
        raise SpotError(f"{path}: has no {WEIGHTS}; save it with PEFT as safetensors")
    file = TensorFile(path / WEIGHTS)
    with reading(path / WEIGHTS, "fetch it again"):
        check_signed(file.path.read_bytes())
    if kind in peft_kernels.KINDS:
        tensors = {name: file.read(name, dtype=np.dtype(np.float32)) for name in file.shapes}
        prompt = peft_kernels.read_kernels(os.fspath(path), config, tensors)
        return dataclasses.replace(prompt, **_own_fields(file))
    rows = _rows(path, config, file)
    table = file.read(_TENSOR, (slice(0, rows),), dtype=np.dtype(np.float32))
    if not np.all(np.isfinite(table)):
        raise SpotError(f"{path / WEIGHTS}: the prompt holds NaN or infinity; take an earlier one")
    method = {"name": {"PROMPT_TUNING": "PromptTuning", "P_TUNING": "PTuning"}[kind]}
    fields: dict[str, Any] = {"method": {**method, "length": rows}, **_own_fields(file)}
    return PromptFile(np.asarray(table), **fields)


def write_adapter(directory: epath.PathLike, prompt: PromptFile, *, base_model: str = "") -> None:
    """Write an adapter directory that PEFT loads onto a T5.

    Args:
        directory: path of the adapter, made if need be; an earlier adapter is written over.
        prompt: rows [P, d], or the tensors of LoRA or IA3; its other fields go with it, where
            PEFT does not look.
        base_model: name or path by which transformers knows the backbone.

    Raises:
        SpotError: the directory holds something else.
    """
    path = epath.Path(directory)
    if path.exists() and (not path.is_dir() or (list(path.iterdir()) and not is_adapter(path))):
        raise SpotError(f"{path} holds something that is no adapter; give a new directory")
    if is_kernels(prompt):
        config, tensors = peft_kernels.write_kernels(prompt)
    else:
        config, tensors = _prompt_tuning(prompt.rows)
    config = {"base_model_name_or_path": base_model or None, **config}
    fields = {name: value for name, value in vars(prompt).items() if name not in _ARRAYS}
    fields["use"] = prompt.use.fields()
    metadata = {"format": "pt", "spot_jax": json.dumps({"format": FORMAT, **fields})}
    write_whole(path / WEIGHTS, tensor_bytes(tensors, metadata, signed=True))
    write_whole(path / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def is_kernels(prompt: PromptFile) -> bool:
    """Return whether a prompt is an update of LoRA or scales of IA3."""
    return prompt.method.get("name") in peft_kernels.KINDS.values()


def _prompt_tuning(rows: Float[np.ndarray, "p d"]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    length, width = rows.shape
    config = {
        "inference_mode": True,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": length,
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "task_type": "SEQ_2_SEQ_LM",
        "token_dim": width,
    }
    return config, {_TENSOR: np.ascontiguousarray(rows, np.float32)}


def _read_config(path: epath.Path) -> dict[str, Any]:
    if not is_adapter(path):
        raise SpotError(f"{os.fspath(path)}: no {CONFIG} there; give a directory that PEFT saved")
    with reading(path / CONFIG, "fetch it again", "damaged, or no JSON object"):
        return parse_object((path / CONFIG).read_bytes())


def _rows(path: epath.Path, config: dict[str, Any], file: TensorFile) -> int:
    """P, once description and tensor agree."""
    shape = file.shapes.get(_TENSOR)
    if shape is None:
        raise SpotError(f"{path / WEIGHTS}: has no tensor {_TENSOR}, so it is no soft prompt")
    rows, width = config.get("num_virtual_tokens"), config.get("token_dim")
    halves = config.get("num_transformer_submodules") or 2
    if not isinstance(rows, int) or rows < 1:
        raise SpotError(f"{path / CONFIG}: expected num_virtual_tokens of 1 or more, found {rows}")
    fits = len(shape) == 2 and shape[0] in (rows, rows * halves)
    if not fits or (width is not None and shape[1] != width):
        raise SpotError(
            f"{path}: expected {_TENSOR} of {rows} or {rows * halves} rows of {width} by its "
            f"description, found {list(shape)}; fetch the adapter again"
        )
    return rows


def _own_fields(file: TensorFile) -> dict[str, Any]:
    """What we wrote of the prompt, if we wrote the adapter and the fields are whole."""
    try:
        fields = parse_object(file.metadata["spot_jax"])
        fields.pop("format", None)
        prompt = prompt_of(None, fields)
    except (KeyError, TypeError, ValueError, SpotError):
        return {}
    return {k: v for k, v in vars(prompt).items() if k in fields and k not in _ARRAYS}
