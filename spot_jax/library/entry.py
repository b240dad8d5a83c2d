"""One entry of a prompt library as a file: safetensors whose name holds the hash of its content.

Tensors `prompt` [P, d] and, where there is one, `embedding` [P, d], both float32; metadata
`spot_jax`, the prompt's fields as in any prompt file (so `load_prompt` reads an entry), and
`spot_jax_library`, the tasks it consists of and the embedding's fields.

The bytes are a function of what is stored: an entry's id ends with the first digits of their
SHA-256. So adding a prompt twice is adding it once, writers of different prompts never meet, and
damage of any kind is seen by whoever reads the file.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from spot_jax.errors import SpotError
from spot_jax.files import check_version, parse_json, slug
from spot_jax.methods.prompt_file import PromptFile, read_use

SUFFIX = ".safetensors"
# An entry holds rows. Its number is part of what its id is the hash of.
FORMAT = 1
DIGITS = 12
_ID = re.compile(rf"[\w.+-]*-s-?\d+-[0-9a-f]{{{DIGITS}}}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a library says of a stored prompt without its numbers.

    Attributes:
        id: slug of the task, "-s" and the seed, "-" and twelve digits of the content's hash.
        path: path of its file; `load_prompt` reads it.
        task: name of the seqio task or mixture.
        tasks: names of the tasks it consists of; its own if it is no mixture.
        seed: seed of the run.
        length: number of the prompt's virtual tokens.
        width: width of the backbone.
        backbone: fingerprint of the backbone; "" if unknown (imported prompts).
        vocabulary: sha256 of the SentencePiece model, or "".
        step: number of updates done.
        embedding_step: number of updates done when the task embedding was taken; 0 without one.
        method: name and hyper-parameters of the method.
        metrics: scores at `step`.
        ancestry: prompts that it began from, nearest first.
        size: number of bytes of the file.
    """

    id: str
    path: str
    task: str
    tasks: tuple[str, ...]
    seed: int
    length: int
    width: int
    backbone: str
    vocabulary: str
    step: int
    embedding_step: int
    method: Mapping[str, Any]
    metrics: Mapping[str, float]
    ancestry: tuple[Mapping[str, Any], ...]
    size: int

    def __hash__(self) -> int:
        return hash(self.id)


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """An entry with its numbers, as read from its file."""

    entry: Entry
    prompt: PromptFile
    embedding: PromptFile | None


def is_id(text: str) -> bool:
    """Return whether `text` has the form of an entry's id."""
    return _ID.fullmatch(text) is not None


def encode(
    prompt: PromptFile, embedding: PromptFile | None, tasks: Sequence[str]
) -> tuple[str, bytes]:
    """Return the id and the file of an entry; the same for the same content, on every machine."""
    tensors = {**prompt.tensors, "prompt": prompt.rows}
    about: dict[str, Any] = {"tasks": list(tasks), "embedding": None}
    if embedding is not None:
        tensors["embedding"] = embedding.rows
        about["embedding"] = _fields(embedding)
    metadata = {
        "spot_jax": _json({"format": FORMAT, **_fields(prompt)}),
        "spot_jax_library": _json(about),
    }
    if use := prompt.use.fields():
        metadata["spot_jax_use"] = _json(use)
    data = _safetensors(tensors, metadata)
    name = slug(prompt.task).strip("_")[:80] or "prompt"
    return f"{name}-s{prompt.seed}-{_digits(data)}", data


def decode(id: str, path: str, data: bytes) -> Stored:
    """Read an entry's file back.

    Raises:
        SpotError: the content is not what the id says (cut short, changed), or not an entry.
    """
    if _digits(data) != id.rpartition("-")[2]:
        raise SpotError(
            f"{path}: damaged or cut short (its content does not have the hash in its name); "
            "`spot prompts remove` it and add the prompt again"
        )
    try:
        tensors, metadata = safetensors.numpy.load(data), _metadata(data)
        fields = parse_json(metadata["spot_jax"])
        about = parse_json(metadata["spot_jax_library"])
        use = parse_json(metadata.get("spot_jax_use", "{}"))
        version = fields.pop("format")
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise SpotError(f"{path}: not an entry of a prompt library ({error})") from error
    check_version(path, version, FORMAT)
    early = tensors.pop("embedding", None)
    prompt = _file(tensors.pop("prompt"), {**fields, "tensors": tensors})
    prompt = dataclasses.replace(prompt, use=read_use(use, path))
    embedding = None if early is None else _file(early, about["embedding"])
    entry = Entry(
        id=id,
        path=path,
        task=prompt.task,
        tasks=tuple(about["tasks"]),
        seed=prompt.seed,
        length=prompt.rows.shape[0],
        width=prompt.rows.shape[1],
        backbone=prompt.backbone,
        vocabulary=prompt.vocabulary,
        step=prompt.step,
        embedding_step=embedding.step if embedding else 0,
        method=prompt.method,
        metrics=prompt.metrics,
        ancestry=prompt.ancestry,
        size=len(data),
    )
    return Stored(entry, prompt, embedding)


def entry_fields(entry: Entry) -> dict[str, Any]:
    """Return an entry in JSON's types, without its path: a library may be moved."""
    fields = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}
    del fields["path"]
    return fields


def entry_of(fields: Mapping[str, Any], path: str) -> Entry:
    """Return the inverse of `entry_fields`; TypeError or KeyError if they are not an entry's."""
    tuples = {name: tuple(fields[name]) for name in ("tasks", "ancestry")}
    return Entry(**{**fields, **tuples}, path=path)


def _fields(file: PromptFile) -> dict[str, Any]:
    names = (f.name for f in dataclasses.fields(file))
    return {name: getattr(file, name) for name in names if name not in ("prompt", "tensors", "use")}


def _file(prompt: np.ndarray, fields: Mapping[str, Any]) -> PromptFile:
    names = {f.name for f in dataclasses.fields(PromptFile)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in names
    }
    return PromptFile(prompt, **values)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digits(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _safetensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    # By hand: the library writes several metadata entries in an order that changes by the call.
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, start = [], 0
    for name, array in sorted(tensors.items()):
        part = np.ascontiguousarray(array, "<f4").tobytes()
        offsets = [start, start + len(part)]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        parts.append(part)
        start += len(part)
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    return parse_json(data[8 : 8 + length]).get("__metadata__", {})
