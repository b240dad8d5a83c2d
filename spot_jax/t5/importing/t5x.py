"""T5X's native checkpoints, read and written: a msgpack index and one zarr directory per array.

Today's writer and older ones differ in details (the kvstore's driver, norm scales kept in the
index itself, no dimension separator in `.zarray`); each array's own `.zarray` is authoritative,
and the index only lists the arrays.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.serialization
import numpy as np
from etils import epath

from spot_jax.files import reading, write_whole
from spot_jax.t5.backbone import unflatten
from spot_jax.t5.importing.matching import Source, SourceTensor
from spot_jax.t5.importing.zarr import PROMPT, kvstore, open_arrays, write_array
from spot_jax.t5.stored import BackboneWriter

INDEX = "checkpoint"
_VERSION = 3


def open_t5x(directory: epath.Path) -> Source:
    """List the tensors of a `checkpoint_STEP` directory; raises `SpotError` if it is broken."""
    index = directory / INDEX
    specs: dict[str, dict[str, Any]] = {}
    tensors: dict[str, SourceTensor] = {}
    source = Source("T5X checkpoint", directory, tensors)
    with reading(index, "fetch it again", "truncated, or not a T5X checkpoint's index"):
        state = flax.serialization.msgpack_restore(index.read_bytes())
        state = state.get("optimizer", state)
        for name, leaf in _leaves(state["target"]):
            if isinstance(leaf, dict):
                where = directory / str(leaf["kvstore"]["path"]).rstrip("/").split("/")[-1]
                if leaf["driver"] != "zarr":
                    raise ValueError(f"{name} is stored as {leaf['driver']!r}, not as zarr")
                specs[name] = {"driver": "zarr", "kvstore": kvstore(where)}
            elif isinstance(leaf, np.ndarray | np.generic):
                tensors[name] = _inline(name, np.asarray(leaf))
            else:
                raise ValueError(f"{name} is no array but {type(leaf).__name__}")
        others = {key: value for key, value in state.items() if key != "target"}
        source.ignored += [name for name, leaf in _leaves(others) if leaf is not None]
    tensors.update(open_arrays(specs, directory))
    source.set_prompts_apart(PROMPT)
    return source


class T5XWriter(BackboneWriter):
    """Writes a checkpoint of step 0: weights as T5X's own index and arrays, no optimizer's state.

    T5X has its vocabulary elsewhere, so none is written.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._leaves: dict[str, dict[str, Any]] = {}

    def write(self, name: str, array: np.ndarray) -> None:
        """Write one tensor as an array of its own."""
        place = f"target.{name.replace('/', '.')}"
        spec = write_array(self._temporary / place, array)
        store = {"driver": "file", "path": f"{place}/"}
        self._leaves[name] = {**spec, "dtype": str(array.dtype), "kvstore": store}

    def describe(self, fingerprint: str) -> None:
        """Write the index of the arrays."""
        state = {"target": unflatten(self._leaves), "state": {"step": 0, "param_states": {}}}
        content = {"version": _VERSION, "optimizer": state}
        write_whole(self._temporary / INDEX, flax.serialization.msgpack_serialize(content))


def _inline(name: str, array: np.ndarray) -> SourceTensor:
    return SourceTensor(name, array.shape, array.dtype, lambda: array)


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping) or ("driver" in tree and "kvstore" in tree):
        yield prefix, tree
        return
    for key in sorted(tree):
        yield from _leaves(tree[key], f"{prefix}/{key}" if prefix else str(key))
