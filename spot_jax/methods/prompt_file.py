"""A prompt as a first-class file: the table, and all one needs to use, continue or distrust it.

The format is safetensors: a tensor `prompt` [P, d] float32, whatever else the method needs under
names of its own, and one metadata entry `spot_jax`, a JSON object with the fields of `PromptFile`.
"""

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jaxtyping import Float

from spot_jax.errors import SpotError
from spot_jax.files import check_version, write_whole

FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class PromptFile:
    """A prompt and where it comes from.

    Attributes:
        prompt: float32 [p, d].
        method: its name and hyper-parameters; `spot_jax.methods.restored` says how it is used.
        backbone: fingerprint of the T5 it was tuned on; "" if unknown (imported prompts).
        vocabulary: sha256 of the SentencePiece model, or "".
        task: the seqio task or mixture.
        tasks: the tasks that it consists of: itself, or a mixture's; empty if unknown.
        tuning: how it was tuned: its initialisation, feature lengths, batch size, dropout and
            optimizer; embeddings compare best where these agree. Empty if unknown.
        tensors: what the method needs besides, by name; empty for most.
        step: updates done.
        seed: of the run.
        metrics: scores at this step.
        ancestry: the prompts it began from, nearest first: task, step and file of each, and the
            tasks that a mixture consists of.
    """

    prompt: Float[np.ndarray, "p d"]
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    backbone: str = ""
    vocabulary: str = ""
    task: str = ""
    step: int = 0
    seed: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    ancestry: tuple[Mapping[str, Any], ...] = ()
    tasks: tuple[str, ...] = ()
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes the file in one move: a reader never sees half of it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays = {"prompt": fields.pop("prompt"), **fields.pop("tensors")}
        write_tensors(path, arrays, {"format": FORMAT, **fields})

    def ancestor(self, path: str) -> dict[str, Any]:
        """What a prompt that begins from this one writes about it."""
        origin = {"task": self.task, "step": self.step, "seed": self.seed, "file": path}
        return {**origin, "tasks": list(self.tasks)} if len(self.tasks) > 1 else origin


def load_prompt(path: str | os.PathLike[str], *, backbone: str | None = None) -> PromptFile:
    """Reads a prompt file, or a T5X prompt (.npy content, with or without the suffix).

    Args:
        path: the file, on a disk or in a bucket; T5X's are named `encoder.prompt.prompt.prompt`.
        backbone: the fingerprint it must have been tuned on; None to take any. A file that does
            not say (T5X's) is taken on trust: only its width can be checked, where it is used.

    Raises:
        SpotError: no such file, not a prompt, truncated, or of another backbone.
    """
    file = epath.Path(path)
    if not file.exists() or file.is_dir():
        raise SpotError(f"no prompt file at {path}; give a .safetensors or .npy file")
    data = file.read_bytes()
    found = _load_numpy(file, data) if data[:6] == b"\x93NUMPY" else _load_ours(file, data)
    if found.prompt.ndim != 2:
        raise SpotError(
            f"{path}: a prompt is [tokens, width], found shape {list(found.prompt.shape)}"
        )
    if not all(np.all(np.isfinite(one)) for one in (found.prompt, *found.tensors.values())):
        raise SpotError(f"{path}: the prompt holds NaN or infinity; take an earlier one")
    if backbone and found.backbone and found.backbone != backbone:
        raise SpotError(
            f"{path}: this prompt was tuned on another backbone (fingerprint "
            f"{found.backbone[:12]}, this one is {backbone[:12]}); load that backbone, or tune a "
            "prompt on this one"
        )
    return found


def _load_numpy(path: epath.Path, data: bytes) -> PromptFile:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        return PromptFile(array.astype(np.float32), task=path.name)
    except (ValueError, EOFError) as error:
        raise SpotError(f"{path}: damaged or truncated numpy file ({error})") from error


def _load_ours(path: epath.Path, data: bytes) -> PromptFile:
    tensors, fields = read_tensors(path, data, "a prompt file")
    if "prompt" not in tensors:
        raise SpotError(
            f"{path}: not a prompt file but a {fields.get('kind', 'file of something else')}; "
            "give one that a run wrote as best-0.safetensors or last-0.safetensors"
        )
    prompt = tensors.pop("prompt")
    tensors.pop("embedding", None)  # the task embedding, in a library's entry
    check_version(path, fields.pop("format"), FORMAT)
    for name in ("ancestry", "tasks"):
        fields[name] = tuple(fields.get(name, ()))
    return PromptFile(prompt, **fields, tensors=tensors)


def write_tensors(path: Path, arrays: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Writes float32 arrays and one JSON object, in one move: no reader sees half of a file."""
    metadata = {"spot_jax": json.dumps(fields)}
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(one, np.float32) for name, one in arrays.items()}, metadata
    )
    write_whole(path, data)


def read_tensors(
    path: epath.Path, data: bytes, what: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON object of a file's bytes; `what` it should be, for the error."""
    try:
        tensors = safetensors.numpy.load(data)
        # The reader of bytes gives no metadata: they stand in the header, after its length.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, json.loads(header["__metadata__"]["spot_jax"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise SpotError(
            f"{path}: not {what} of spot-jax, or truncated ({error}); take another copy"
        ) from error
