"""A prompt as a first-class file: its numbers, and all one needs to use, continue or distrust it.

The format is safetensors. A file holds rows, the tensor `prompt` [P, d] that inputs are given, or
it holds no rows but named tensors, from which its method computes what the T5 runs with. Beside
rows, named tensors are what training goes on from. One metadata entry `spot_jax` is a JSON object
with the fields of `PromptFile`; `spot_jax_use` is another with those of its `PromptUse`, which
versions that do not know it pass over; `spot_jax_digest` is the digest of all else in the file.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath
from jaxtyping import Float

from spot_jax.errors import SpotError
from spot_jax.files import as_path, check_version, parse_object, reading, write_whole
from spot_jax.files.arrays import read_array
from spot_jax.files.digests import digest
from spot_jax.files.records import from_plain
from spot_jax.methods.prompt_use import PromptUse

FORMAT = 2
# Format 1 had no files without rows: these methods wrote this tensor of theirs as the rows.
_ROWS_OF_FORMAT_1 = {"YTuning": "labels", "FastfoodTuning": "vector"}
_DIGEST = "spot_jax_digest"
# Fields that every version has written.
_WRITTEN = {"method", "backbone", "task", "step", "seed", "metrics"}
# The name of a library's entry, which ends with the first digits of the hash of its bytes.
_ENTRY = re.compile(r".*-s-?\d+-([0-9a-f]{12})\.safetensors")


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

    def save(self, path: epath.Path) -> None:
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


def parse_prompt(
    data: bytes, path: str | os.PathLike[str], *, backbone: str | None = None
) -> PromptFile:
    """Return a prompt from a file's bytes.

    Args:
        data: bytes of our file, or of a T5X prompt (.npy content).
        path: path of the file, for errors.
        backbone: fingerprint of the backbone it must have been tuned on; None to take any.

    Raises:
        SpotError: not a prompt, truncated, or of another backbone.
    """
    file = as_path(path)
    prompt = _load_numpy(file, data) if data[:6] == b"\x93NUMPY" else _load_ours(file, data)
    return checked(path, prompt, backbone)


def checked(
    path: str | os.PathLike[str], prompt: PromptFile, backbone: str | None = None
) -> PromptFile:
    """Return a prompt that was read; `SpotError` for odd rows, NaN, or another backbone."""
    if prompt.prompt is not None:
        _check_rows(as_path(path), prompt.prompt)
    arrays = [*prompt.tensors.values(), *([] if prompt.prompt is None else [prompt.prompt])]
    if not all(np.all(np.isfinite(array)) for array in arrays):
        raise SpotError(f"{path}: the prompt holds NaN or infinity; take an earlier one")
    check_backbone(path, prompt, backbone)
    return prompt


def check_backbone(path: str | os.PathLike[str], prompt: PromptFile, backbone: str | None) -> None:
    """Raise `SpotError` for a prompt that says it was tuned on another backbone than this one."""
    if backbone and prompt.backbone and prompt.backbone != backbone:
        raise SpotError(
            f"{path}: this prompt was tuned on another backbone (fingerprint "
            f"{prompt.backbone[:12]}, this one is {backbone[:12]}); load that backbone, or tune a "
            "prompt on this one"
        )


def _load_numpy(path: epath.Path, data: bytes) -> PromptFile:
    with reading(path, "take another copy", "damaged or truncated numpy file"):
        array = read_array(data)
        if array.dtype.kind != "f":
            raise ValueError(f"a prompt is of floating-point numbers, found {array.dtype}")
    return PromptFile(array.astype(np.float32), task=path.name)


def _load_ours(path: epath.Path, data: bytes) -> PromptFile:
    tensors, fields = read_tensors(path, data, "a prompt file")
    if "kind" in fields:
        raise SpotError(
            f"{path}: not a prompt file but a {fields['kind']}; give one that a run wrote as "
            "best-0.safetensors or last-0.safetensors"
        )
    with reading(path, "take another copy", "not a prompt file of spot-jax, or truncated"):
        version = fields.pop("format")
        if version != 1:
            check_version(path, version, FORMAT)
        if lacking := sorted(_WRITTEN - fields.keys()):
            raise KeyError(lacking[0])
        rows = tensors.pop("prompt", None)
        tensors.pop("embedding", None)  # the task embedding, in a library's entry
        name = _ROWS_OF_FORMAT_1.get(fields.get("method", {}).get("name"))
        if version == 1 and name is not None and rows is not None:
            tensors[name] = rows[0] if name == "vector" else rows
            rows = None
        if rows is None and not tensors:
            raise SpotError(f"{path}: neither rows nor tensors; give a prompt file")
        return prompt_of(rows, fields, tensors)


def _check_rows(path: epath.Path, rows: np.ndarray) -> None:
    if rows.ndim != 2 or 0 in rows.shape:
        raise SpotError(f"{path}: a prompt is [tokens, width], found shape {list(rows.shape)}")


def prompt_of(
    rows: np.ndarray | None,
    fields: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray] | None = None,
) -> PromptFile:
    """Return a prompt from its arrays and its other fields in JSON's types.

    Raises:
        SpotError: a field that is unknown or of another type, or a step or seed out of range.
        ValueError: the same of a field of its use.
    """
    use = PromptUse.read(fields.get("use") or {})
    others: dict[str, Any] = {"prompt": None, "tensors": {}, "use": {}}
    prompt = from_plain(PromptFile, {**fields, **others}, "the prompt")
    if prompt.step < 0 or not -(2**63) <= prompt.seed < 2**63:
        raise SpotError(f"step {prompt.step} or seed {prompt.seed} is none")
    return dataclasses.replace(prompt, prompt=rows, tensors=tensors or {}, use=use)


def write_tensors(path: epath.Path, arrays: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Write float32 arrays and one JSON object, in one move: no reader sees half of a file."""
    others = {name: value for name, value in fields.items() if name != "use"}
    metadata = {"spot_jax": json.dumps(others)}
    if fields.get("use"):
        metadata["spot_jax_use"] = json.dumps(fields["use"])
    write_whole(path, tensor_bytes(arrays, metadata, signed=True))


def tensor_bytes(
    arrays: Mapping[str, Any], metadata: Mapping[str, str], *, signed: bool = False
) -> bytes:
    """Return a safetensors file of float32 arrays: the same bytes for the same content.

    Args:
        arrays: arrays by name.
        metadata: texts by name.
        signed: whether a digest of all that is among the texts.
    """
    # By hand: the library writes several metadata entries in an order that changes by the call.
    tensors: dict[str, Any] = {}
    parts, start = [], 0
    for name, array in sorted(arrays.items()):
        part = np.ascontiguousarray(array, "<f4").tobytes()
        offsets = [start, start + len(part)]
        tensors[name] = {"dtype": "F32", "shape": list(np.shape(array)), "data_offsets": offsets}
        parts.append(part)
        start += len(part)
    header = {"__metadata__": dict(metadata), **tensors}
    if signed:
        header["__metadata__"][_DIGEST] = digest(canonical_json(header), *parts)
    text = canonical_json(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def canonical_json(value: Any) -> str:
    """Return JSON whose fields are in order and without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def check_signed(data: bytes) -> dict[str, str]:
    """Return the texts of a safetensors file's bytes, compared with the digest if it has one.

    Raises:
        ValueError: not what was written, or a header that is none.
    """
    # The library's reader of bytes gives no texts: they stand in the header, after its length.
    length = int.from_bytes(data[:8], "little")
    header = parse_object(data[8 : 8 + length])
    metadata = header.get("__metadata__") or {}
    expected = metadata.pop(_DIGEST, None)
    if expected is not None and expected != digest(
        canonical_json(header), memoryview(data)[8 + length :]
    ):
        raise ValueError("its content is not what was written")
    return metadata


def read_tensors(
    path: epath.Path, data: bytes, what: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the JSON object of a file's bytes; `what` it is names it in errors.

    Raises:
        SpotError: another kind of file, truncated, or not what was written.
    """
    with reading(path, "take another copy", f"not {what} of spot-jax, or truncated"):
        tensors = safetensors.numpy.load(data)
        metadata = check_signed(data)
        fields = parse_object(metadata["spot_jax"])
        if "spot_jax_use" in metadata:
            fields["use"] = parse_object(metadata["spot_jax_use"])
        entry = _ENTRY.fullmatch(path.name) if "spot_jax_library" in metadata else None
        if entry and not hashlib.sha256(data).hexdigest().startswith(entry[1]):
            raise ValueError("its content does not have the hash in its name")
        odd = {name: array.dtype for name, array in tensors.items() if array.dtype != np.float32}
        for name, dtype in odd.items():
            raise ValueError(f"{name} is of {dtype} where float32 is expected")
    return tensors, fields
