"""A prompt as a first-class file: its numbers, and all one needs to use, continue or distrust it.

The format is safetensors. A file holds rows, the tensor `prompt` [P, d] that inputs are given, or
it holds no rows but named tensors, from which its method computes what the T5 runs with. Beside
rows, named tensors are what training goes on from. One metadata entry `spot_jax` is a JSON object
with the fields of `PromptFile`; `spot_jax_use` is another with those of its `PromptUse`, which
versions that do not know it pass over.
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
from spot_jax.methods.prompt_use import PromptUse

FORMAT = 2
# Format 1 had no files without rows: these methods wrote this tensor of theirs as the rows.
_ROWS_OF_FORMAT_1 = {"YTuning": "labels", "FastfoodTuning": "vector"}


@dataclasses.dataclass(frozen=True, eq=False)
class PromptFile:
    """A prompt and where it comes from.

    Attributes:
        prompt: rows, float32 [p, d]; None for a method whose numbers are named tensors.
        method: name and hyper-parameters of the method; `spot_jax.methods.stored` says how the
            file is used.
        backbone: fingerprint of the T5 it was tuned on; "" if unknown (imported prompts).
        vocabulary: sha256 of the SentencePiece model, or "".
        task: name of the seqio task or mixture.
        tasks: names of the tasks that it consists of: itself, or a mixture's; empty if unknown.
        tuning: settings it was tuned with: initialisation, feature lengths, batch size, dropout
            and optimizer; embeddings compare best where these agree. Empty if unknown.
        tensors: float32 arrays by name; empty for most methods with rows.
        step: number of updates done.
        seed: seed of the run.
        metrics: scores at this step.
        ancestry: prompts it began from, nearest first: task, step and file of each, and the
            tasks that a mixture consists of.
        use: facts that predictions need beside the backbone; all defaults if unknown.
    """

    prompt: Float[np.ndarray, "p d"] | None
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
    use: PromptUse = PromptUse()

    def save(self, path: Path) -> None:
        """Write the file in one move: a reader never sees half of it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["use"] = self.use.fields()
        rows, arrays = fields.pop("prompt"), dict(fields.pop("tensors"))
        if rows is not None:
            arrays["prompt"] = rows
        # Files with rows are as they always were, and older versions read them.
        write_tensors(path, arrays, {"format": FORMAT if rows is None else 1, **fields})

    @property
    def rows(self) -> Float[np.ndarray, "p d"]:
        """Return the rows; `SpotError` where there are named tensors in their place."""
        if self.prompt is None:
            raise SpotError(
                f"expected a prompt of rows, found one of {self.method.get('name')}, which is "
                f"the tensors {', '.join(sorted(self.tensors)[:3])}; give one of Prompt Tuning"
            )
        return self.prompt

    def ancestor(self, path: str) -> dict[str, Any]:
        """Return what a prompt that begins from this one writes about it."""
        origin = {"task": self.task, "step": self.step, "seed": self.seed, "file": path}
        return {**origin, "tasks": list(self.tasks)} if len(self.tasks) > 1 else origin


def load_prompt(path: str | os.PathLike[str], *, backbone: str | None = None) -> PromptFile:
    """Read a prompt file, or a T5X prompt (.npy content, with or without the suffix).

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
    return parse_prompt(file.read_bytes(), file, backbone=backbone)


def parse_prompt(
    data: bytes, path: str | os.PathLike[str], *, backbone: str | None = None
) -> PromptFile:
    """Return a prompt from a file's bytes, as `load_prompt` does; `path` names it in errors."""
    file = epath.Path(path)
    prompt = _load_numpy(file, data) if data[:6] == b"\x93NUMPY" else _load_ours(file, data)
    rows = prompt.prompt
    if rows is not None and rows.ndim != 2:
        raise SpotError(f"{path}: a prompt is [tokens, width], found shape {list(rows.shape)}")
    arrays = [*prompt.tensors.values(), *([] if rows is None else [rows])]
    if not all(np.all(np.isfinite(array)) for array in arrays):
        raise SpotError(f"{path}: the prompt holds NaN or infinity; take an earlier one")
    if backbone and prompt.backbone and prompt.backbone != backbone:
        raise SpotError(
            f"{path}: this prompt was tuned on another backbone (fingerprint "
            f"{prompt.backbone[:12]}, this one is {backbone[:12]}); load that backbone, or tune a "
            "prompt on this one"
        )
    return prompt


def _load_numpy(path: epath.Path, data: bytes) -> PromptFile:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        return PromptFile(array.astype(np.float32), task=path.name)
    except (ValueError, EOFError) as error:
        raise SpotError(f"{path}: damaged or truncated numpy file ({error})") from error


def _load_ours(path: epath.Path, data: bytes) -> PromptFile:
    tensors, fields = read_tensors(path, data, "a prompt file")
    if "kind" in fields:
        raise SpotError(
            f"{path}: not a prompt file but a {fields['kind']}; give one that a run wrote as "
            "best-0.safetensors or last-0.safetensors"
        )
    version = fields.pop("format")
    if version != 1:
        check_version(path, version, FORMAT)
    rows = tensors.pop("prompt", None)
    tensors.pop("embedding", None)  # the task embedding, in a library's entry
    name = _ROWS_OF_FORMAT_1.get(fields.get("method", {}).get("name"))
    if version == 1 and name is not None and rows is not None:
        tensors[name] = rows[0] if name == "vector" else rows
        rows = None
    if rows is None and not tensors:
        raise SpotError(f"{path}: neither rows nor tensors; give a prompt file")
    for name in ("ancestry", "tasks"):
        fields[name] = tuple(fields.get(name, ()))
    fields["use"] = read_use(fields.get("use", {}), path)
    return PromptFile(rows, **fields, tensors=tensors)


def read_use(fields: Any, path: str | os.PathLike[str]) -> PromptUse:
    """Return a file's `PromptUse` from its JSON object; `path` names the file in errors."""
    try:
        return PromptUse.read(fields)
    except ValueError as error:
        raise SpotError(
            f"{path}: damaged where it says how the prompt is used ({error}); export it again"
        ) from error


def write_tensors(path: Path, arrays: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Write float32 arrays and one JSON object, in one move: no reader sees half of a file."""
    others = {name: value for name, value in fields.items() if name != "use"}
    metadata = {"spot_jax": json.dumps(others)}
    if fields.get("use"):
        metadata["spot_jax_use"] = json.dumps(fields["use"])
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}, metadata
    )
    write_whole(path, data)


def read_tensors(
    path: epath.Path, data: bytes, what: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the JSON object of a file's bytes; `what` it is names it in errors."""
    try:
        tensors = safetensors.numpy.load(data)
        # The reader of bytes gives no metadata: they stand in the header, after its length.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header["__metadata__"]
        fields = json.loads(metadata["spot_jax"])
        if "spot_jax_use" in metadata:
            fields["use"] = json.loads(metadata["spot_jax_use"])
        return tensors, fields
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise SpotError(
            f"{path}: not {what} of spot-jax, or truncated ({error}); take another copy"
        ) from error
