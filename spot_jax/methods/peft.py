"""Hugging Face PEFT's adapters: directories, read and written without PEFT.

A directory holds `adapter_config.json` and `adapter_model.safetensors`. That of a soft prompt has
one tensor, `prompt_embeddings` [rows, d], that of a prefix `prompt_embeddings` [P, blocks * f];
LoRA and IA3 are in `peft_kernels`. For a T5 (task type SEQ_2_SEQ_LM) PEFT makes and saves 2P rows,
one half for each half of the model, but puts only the first P before the encoder and the others
nowhere. So of what we read we keep P rows, and what we write says num_transformer_submodules 1,
with which PEFT expects P rows. An adapter of P-tuning is the same: its encoder is folded away when
PEFT saves it.

PEFT's prefix of a T5 is the decoder's cache of past keys and values, so it stands at positions
before the text. With its default, num_transformer_submodules 2, it repeats its blocks and takes
four a layer, of which the last two go nowhere: layer i has the blocks 4i and 4i + 1, counted
around, so that with an even number of layers two share theirs. With 1 it mixes the prefix with the
keys of the encoder's output, which is no prefix.
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
from spot_jax.methods import peft_kernels
from spot_jax.methods.prompt_file import (
    FORMAT,
    PromptFile,
    check_signed,
    prompt_of,
    tensor_bytes,
)
from spot_jax.t5.tensor_files import TensorFile

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_TENSOR = "prompt_embeddings"
_ARRAYS = {"prompt", "tensors"}
_KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


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
            f"{path}: an adapter of type {kind}; expected a soft prompt or prefix "
            f"({' or '.join(_KINDS)}), {' or '.join(peft_kernels.KINDS)}"
        )
    if task not in ("SEQ_2_SEQ_LM", None):
        raise SpotError(
            f"{path}: an adapter for {task}; expected one for a T5 (task_type SEQ_2_SEQ_LM)"
        )
    if not (path / WEIGHTS).exists():
        code = f"s.save_file(torch.load('{path}/adapter_model.bin', map_location='cpu', "
        code += f"weights_only=True), '{path / WEIGHTS}')"
        raise SpotError(
            f"{path}: has no {WEIGHTS}; an adapter_model.bin may hold code, so save it as "
            f'safetensors: python -c "import torch, safetensors.torch as s; {code}"'
        )
    file = TensorFile(path / WEIGHTS)
    with reading(path / WEIGHTS, "fetch it again"):
        check_signed(file.path.read_bytes())
    if kind in peft_kernels.KINDS:
        tensors = {name: file.read(name, dtype=np.dtype(np.float32)) for name in file.shapes}
        prompt = peft_kernels.read_kernels(os.fspath(path), config, tensors)
        return dataclasses.replace(prompt, **_own_fields(file))
    rows = _rows(path, config, file)
    if kind == "PREFIX_TUNING":
        return dataclasses.replace(_prefix(path, config, file, rows), **_own_fields(file))
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
        prompt: rows [P, d], or the tensors of LoRA or IA3, or a prefix that PEFT's was; its other
            fields go with it, where PEFT does not look.
        base_model: name or path by which transformers knows the backbone.

    Raises:
        SpotError: the directory holds something else.
    """
    path = epath.Path(directory)
    if path.exists() and (not path.is_dir() or (list(path.iterdir()) and not is_adapter(path))):
        raise SpotError(f"{path} holds something that is no adapter; give a new directory")
    if is_kernels(prompt):
        config, tensors = peft_kernels.write_kernels(prompt)
    elif is_prefix(prompt):
        config, tensors = _prefix_tuning(prompt)
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


def is_prefix(prompt: PromptFile) -> bool:
    """Return whether a prompt is a prefix as PEFT's are, at positions before the decoder's text."""
    return bool(prompt.method.get("positions"))


def _prefix(path: epath.Path, config: dict[str, Any], file: TensorFile, length: int) -> PromptFile:
    """The prefix in our order of rows: layer by layer, P keys and then P values."""
    layers, width = config.get("num_layers"), config.get("token_dim")
    shape = file.shapes[_TENSOR]
    if not isinstance(layers, int) or not isinstance(width, int) or shape[1] != 2 * layers * width:
        raise SpotError(
            f"{path}: expected {_TENSOR} of 2 * num_layers * token_dim columns by its description, "
            f"found {list(shape)}; fetch the adapter again"
        )
    blocks = file.read(_TENSOR, dtype=np.dtype(np.float32)).reshape(length, 2 * layers, width)
    if config.get("num_transformer_submodules") not in (None, 2):
        raise SpotError(
            f"{path}: a prefix with num_transformer_submodules 1 is mixed with the encoder's keys "
            "by PEFT; train one with 2, its default"
        )
    taken = _blocks(layers)
    rows = np.swapaxes(blocks[:, taken], 0, 1).reshape(-1, width)
    method = {"name": "PrefixTuning", "length": length, "places": ["decoder"], "positions": True}
    heads = config.get("num_attention_heads")
    return PromptFile(np.ascontiguousarray(rows), method={**method, "heads": heads})


def _blocks(layers: int) -> list[int]:
    """The block of each layer's keys and of its values, in the order of our rows."""
    return [(4 * i + part) % (2 * layers) for i in range(layers) for part in (0, 1)]


def _prefix_tuning(prompt: PromptFile) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    length, width = int(prompt.method["length"]), prompt.rows.shape[1]
    rows = np.swapaxes(prompt.rows.reshape(-1, length, width), 0, 1)
    blocks = np.zeros_like(rows)
    taken = _blocks(rows.shape[1] // 2)
    blocks[:, taken] = rows
    if not np.array_equal(blocks[:, taken], rows):
        raise SpotError(
            "PEFT's prefix of a T5 has layers share keys and values, these differ; use it here"
        )
    config = {
        "inference_mode": True,
        "num_attention_heads": prompt.method.get("heads"),
        "num_layers": blocks.shape[1] // 2,
        "num_transformer_submodules": 2,
        "num_virtual_tokens": length,
        "peft_type": "PREFIX_TUNING",
        "task_type": "SEQ_2_SEQ_LM",
        "token_dim": width,
    }
    return config, {_TENSOR: np.ascontiguousarray(blocks.reshape(length, -1), np.float32)}


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
    if config["peft_type"] == "PREFIX_TUNING":
        fits, width = len(shape) == 2 and shape[0] == rows, None
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
