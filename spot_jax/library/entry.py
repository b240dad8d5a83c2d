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
import re
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.numpy

from spot_jax.errors import SpotError
from spot_jax.files import check_version, parse_object, reading, slug
from spot_jax.files.records import from_plain, read_value
from spot_jax.methods.prompt_file import PromptFile, canonical_json, prompt_of, tensor_bytes

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
        "spot_jax": canonical_json({"format": FORMAT, **_fields(prompt)}),
        "spot_jax_library": canonical_json(about),
    }
    if use := prompt.use.fields():
        metadata["spot_jax_use"] = canonical_json(use)
    data = tensor_bytes(tensors, metadata)
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
    remedy = "`spot prompts remove` it and add the prompt again"
    with reading(path, remedy, "not an entry of a prompt library"):
        tensors, metadata = safetensors.numpy.load(data), _metadata(data)
        fields = parse_object(metadata["spot_jax"])
        about = parse_object(metadata["spot_jax_library"])
        check_version(path, fields.pop("format"), FORMAT)
        early = tensors.pop("embedding", None)
        fields["use"] = parse_object(metadata.get("spot_jax_use", "{}"))
        prompt = prompt_of(tensors.pop("prompt"), fields, tensors)
        embedding = None if early is None else prompt_of(early, about["embedding"])
        tasks = read_value(tuple[str, ...], about["tasks"], "tasks")
    entry = Entry(
        id=id,
        path=path,
        task=prompt.task,
        tasks=tasks,
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
    """Return the inverse of `entry_fields`; `SpotError` if they are not an entry's."""
    return from_plain(Entry, {**fields, "path": path}, "the entry")


def _fields(file: PromptFile) -> dict[str, Any]:
    names = (f.name for f in dataclasses.fields(file))
    return {name: getattr(file, name) for name in names if name not in ("prompt", "tensors", "use")}


def _digits(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    return parse_object(data[8 : 8 + length]).get("__metadata__", {})
