"""A frozen T5: how it is stored, loaded and recognised.

The stored form is a directory: `backbone.json` (configuration, fingerprint, the files with their
sizes and digests, and a digest of all that), `model-00001-of-0000N.safetensors` and, where it has
one, `vocabulary.model`. It is written once and whole (a temporary directory, then a rename), and
read by the slice: on a mesh every device reads only its own part of each weight.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import as_path, is_local
from spot_jax.files.verified import matches, remember
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.int8 import INT8, dequantise, has_int8, quantiser, scale_name
from spot_jax.t5.stored import (
    DESCRIPTION,
    Description,
    StoredWriter,
    changed,
    read_description,
)
from spot_jax.t5.tensor_files import DigestError, TensorFile

Params = dict[str, Any]
Shardings = Callable[[str], Any] | Mapping[str, Any]
_SAMPLE = 256
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A T5 whose weights never change.

    Attributes:
        config: shape of the model.
        params: nested dict of arrays under T5X's names (`parameter_shapes`), layers not stacked.
        fingerprint: digest that identifies the model, the same in float32, bfloat16 and int8.
        vocabulary_path: path of its SentencePiece model; None if there is none.
        source: origin of the weights, for people to read.
        path: directory from which it was loaded; None for weights that are stored nowhere.
    """

    config: T5Config
    params: Params
    fingerprint: str
    vocabulary_path: epath.Path | None = None
    source: str = ""
    path: str | None = None


class Fingerprint:
    """A backbone's fingerprint, fed one parameter at a time in any order."""

    def __init__(self, config: T5Config):
        self._shape = json.dumps(config.shape_fields(), sort_keys=True)
        self._parameters: dict[str, str] = {}

    def add(self, name: str, array: Any) -> None:
        """Add one parameter: its name, shape and at most 256 values spread over it.

        The values are rounded to bfloat16, so that a cast copy has the same fingerprint.
        """
        count = min(array.size, _SAMPLE)
        flat = np.arange(count) * array.size // max(count, 1)
        values = array[np.unravel_index(flat, array.shape)] if array.shape else array
        sample = np.asarray(values).astype(np.float32).astype(ml_dtypes.bfloat16)
        text = f"{list(array.shape)} ".encode() + sample.tobytes()
        self._parameters[name] = hashlib.sha256(text).hexdigest()

    def hexdigest(self) -> str:
        """Return 64 hexadecimal digits over the shape and every parameter added so far."""
        lines = [self._shape, *(f"{n} {h}" for n, h in sorted(self._parameters.items()))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def fingerprint(config: T5Config, params: Params) -> str:
    """Return the fingerprint of weights in memory: 64 hexadecimal digits (see `Fingerprint`).

    Every process of a multi-process run must be able to address the arrays it samples.
    """
    result = Fingerprint(config)
    for name, leaf in flatten(params):
        result.add(name, leaf)
    return result.hexdigest()


def flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf of a nested dict with its path joined by "/", in sorted order."""
    for key in sorted(params):
        path = f"{prefix}{key}"
        if isinstance(params[key], Mapping):
            yield from flatten(params[key], f"{path}/")
        else:
            yield path, params[key]


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """Return the nested dict of "/"-joined paths."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def save_backbone(directory: epath.PathLike, backbone: Backbone) -> None:
    """Write the stored form, atomically; float32 and bfloat16 leaves keep their dtype.

    The fingerprint written is that of `backbone.params` as they are. Raises `SpotError` if the
    directory exists and is not empty, if a parameter is missing, unknown or of another shape than
    the configuration says, or if the disk refuses.
    """
    if has_int8(backbone.params):
        raise SpotError("int8 weights are stored by `spot convert --dtype int8` alone; use that")
    leaves = dict(flatten(backbone.params))
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    expected = parameter_shapes(backbone.config)
    if shapes != expected:
        odd = sorted(n for n in shapes | expected if shapes.get(n) != expected.get(n))
        raise SpotError(
            f"cannot store this backbone: {len(odd)} parameters differ from the configuration, "
            f"first {odd[0]}: expected {expected.get(odd[0])}, found {shapes.get(odd[0])}"
        )
    writer = StoredWriter(
        directory,
        backbone.config,
        shapes=shapes,
        dtypes={name: np.dtype(leaf.dtype) for name, leaf in leaves.items()},
        vocabulary=backbone.vocabulary_path,
        source=backbone.source,
    )
    mark = Fingerprint(backbone.config)
    with writer:
        for name in writer.names:
            array = np.asarray(leaves[name])
            mark.add(name, array)
            writer.write(name, array)
        writer.finish(mark.hexdigest())


def load_backbone(
    directory: epath.PathLike, *, dtype: str | None = None, shardings: Shardings | None = None
) -> Backbone:
    """Load a stored backbone, whole on the default device or by the slice on a mesh.

    Args:
        directory: directory, local or in a bucket, as written by `save_backbone` or an import.
        dtype: dtype to cast each leaf to, "float32" or "bfloat16", or "int8" for the kernels
            (`spot_jax.t5.int8`); None keeps what is stored.
        shardings: a function from a parameter's path to its `jax.sharding.Sharding`, or a nested
            dict of them; every device then gets only its slice, and only that is read.

    Raises:
        SpotError: no backbone in the directory, a file missing, of another size or of other
            contents than were stored, or a parameter missing.
    """
    if dtype not in (None, INT8, *_DTYPES):
        raise SpotError(f"dtype {dtype!r}: expected one of {', '.join((*_DTYPES, INT8))}")
    directory = as_path(directory)
    description = read_description(directory)
    place = _placement(shardings)
    target = None if dtype is None else _DTYPES.get(dtype)
    leaves: dict[str, Any] = {}
    for file, digest in description.open_files():
        placements = {name: place(name) for name in file.shapes}
        if digest is not None and all(value is None for value in placements.values()):
            leaves |= _load_and_compare(file, digest, target, dtype == INT8)
            continue
        if digest is not None and is_local(directory) and not matches(file.path, digest):
            raise changed(file.path)
        for name, sharding in placements.items():
            leaf = _load_leaf(file, name, file.cast(name, target), sharding)
            leaves |= _narrowed(name, leaf, place) if dtype == INT8 else {name: leaf}
    if not description.bound and is_local(directory):
        _check_fingerprint(description)
    if target is not None:
        _widen(leaves, str(target))
    expected = parameter_shapes(description.config).keys() | _scales_of(leaves)
    for name in sorted(expected ^ leaves.keys()):
        what = "lacks" if name in expected else "has the unknown parameter"
        raise SpotError(f"{directory}: {what} {name}; convert the backbone again")
    return Backbone(
        config=description.config,
        params=unflatten(leaves),
        fingerprint=description.fingerprint,
        vocabulary_path=description.vocabulary_path,
        source=description.source,
        path=str(directory),
    )


def _load_and_compare(
    file: TensorFile, digest: str, dtype: np.dtype | None, int8: bool
) -> dict[str, jax.Array]:
    """Load a file's tensors; its digest is taken of the bytes as they come."""
    leaves: dict[str, jax.Array] = {}
    try:
        for name, array in file.read_whole(digest, dtype=dtype):
            leaf = jnp.asarray(array).block_until_ready()
            leaves |= _narrowed(name, leaf) if int8 else {name: leaf}
    except DigestError as error:
        raise changed(file.path) from error
    remember(file.path, digest)
    return leaves


def _narrowed(
    name: str, leaf: jax.Array, place: Callable[[str], Any] = lambda path: None
) -> dict[str, jax.Array]:
    """A kernel as integers and scales, each where it belongs; any other leaf as it is."""
    scale = scale_name(name)
    if scale is None or leaf.dtype == jnp.int8:
        return {name: leaf}
    integers, scales = quantiser(place(name), place(scale))(leaf)
    # Or the host would dispatch many kernels in floating point.
    return {name: integers.block_until_ready(), scale: scales}


def _widen(leaves: dict[str, jax.Array], dtype: str) -> None:
    """Replace stored integers and scales by the kernels that they stand for."""
    for name in [name for name, leaf in leaves.items() if leaf.dtype == jnp.int8]:
        scale = leaves.pop(scale_name(name) or "", None)
        if scale is not None:
            leaves[name] = jax.jit(dequantise, static_argnums=2)(leaves[name], scale, dtype)


def _scales_of(leaves: Mapping[str, jax.Array]) -> set[str]:
    integers = (name for name, leaf in leaves.items() if leaf.dtype == jnp.int8)
    return {scale_name(name) or f"{name}_scale" for name in integers}


def _check_fingerprint(description: Description) -> None:
    """Compare configuration and samples of the weights with the fingerprint of a description that
    has no digest."""
    mark = Fingerprint(description.config)
    for file, _ in description.open_files():
        data = np.memmap(file.path, np.uint8, mode="r")
        for name in file.shapes:
            mark.add(name, file.view(name, data))
    if mark.hexdigest() != description.fingerprint:
        path = description.directory / DESCRIPTION
        raise SpotError(
            f"{path}: its configuration, or the weights beside it, are not those of its "
            "fingerprint; copy or convert the backbone again"
        )


def _placement(shardings: Shardings | None) -> Callable[[str], Any]:
    if shardings is None:
        return lambda path: None
    if callable(shardings):
        return shardings
    flat = dict(flatten(shardings))

    def place(path: str) -> Any:
        if path not in flat:
            raise SpotError(f"no sharding was given for the parameter {path}")
        return flat[path]

    return place


def _load_leaf(
    file: TensorFile, name: str, dtype: np.dtype | None, sharding: jax.sharding.Sharding | None
) -> jax.Array:
    if sharding is None:
        return jnp.asarray(file.read(name, dtype=dtype)).block_until_ready()
    shape = file.shapes[name]

    def bounds(index: tuple[slice, ...]) -> tuple[tuple[int, int], ...]:
        return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))

    try:
        places = sharding.addressable_devices_indices_map(shape).values()
    except ValueError as error:
        raise SpotError(
            f"{name} of shape {shape} cannot be divided as {sharding}; choose another mesh"
        ) from error
    # All of this process's slices at once, so that none is read twice.
    indices = {bounds(i): i for i in places if i is not None}
    parts = file.read_parts(name, list(indices.values()), dtype=dtype)
    slices = dict(zip(indices, parts, strict=True))
    leaf = jax.make_array_from_callback(shape, sharding, lambda i: slices[bounds(i or ())])
    # Or the host would hold many leaves on their way to the devices.
    return leaf.block_until_ready()


def stored_bytes(config: T5Config, dtype: str) -> int:
    """Return the number of bytes of the parameters in `dtype` ("float32" or "bfloat16")."""
    return sum(math.prod(s) for s in parameter_shapes(config).values()) * _DTYPES[dtype].itemsize
