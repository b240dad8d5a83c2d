"""Zarr arrays of T5X and orbax checkpoints, listed first and read one by one, and written."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.t5.importing.matching import SourceTensor

# Both of these lie within the backbone's names but are what was tuned on top of it.
PROMPT = re.compile(r"(encoder|decoder)/prompt/")
_CHUNK_BYTES = 64 << 20


def kvstore(directory: epath.Path) -> dict[str, str] | str:
    """Return tensorstore's address of a directory, local or in a bucket."""
    text = str(directory)
    if "://" in text:
        return f"{text}/"
    return {"driver": "file", "path": f"{directory.resolve()}/"}


def open_arrays(
    specs: Mapping[str, dict[str, Any]], directory: epath.Path
) -> dict[str, SourceTensor]:
    """Open each array of name -> tensorstore spec; only their metadata is read.

    Raises `SpotError` naming the first array that cannot be opened.
    """
    # A chunk whose file is gone would otherwise read as zeros.
    options = {"fill_missing_data_reads": False}
    waiting: dict[str, Any] = {}
    tensors = {}
    name = ""
    try:
        for name, spec in specs.items():
            waiting[name] = ts.open({**spec, **options}, read=True, open=True)
        for name, future in waiting.items():
            array = future.result()
            tensors[name] = SourceTensor(
                origin=name,
                shape=tuple(array.shape),
                dtype=np.dtype(array.dtype.numpy_dtype),
                read=_reader(array, name, directory),
            )
    except Exception as error:  # Tensorstore raises ValueError, KeyError and its own.
        raise _unreadable(directory, name, error) from error
    return tensors


def write_array(directory: epath.Path, array: np.ndarray) -> dict[str, Any]:
    """Write an array as T5X does and return its driver and metadata, for T5X's index."""
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    metadata = {
        "chunks": [min(rows, array.shape[0]), *array.shape[1:]],
        "compressor": {"id": "gzip", "level": 1},
        "shape": list(array.shape),
    }
    spec = {"driver": "zarr", "metadata": metadata}
    # Zeros are written as well: a reader could not tell a chunk left out from one that is lost.
    options = {"kvstore": kvstore(directory), "store_data_equal_to_fill_value": True}
    store = ts.open({**spec, **options}, dtype=array.dtype, create=True, open=True).result()
    store.write(array).result()
    return spec


def _reader(array: Any, name: str, directory: epath.Path) -> Any:
    def read() -> np.ndarray:
        try:
            return array.read().result()
        except Exception as error:
            raise _unreadable(directory, name, error) from error

    return read


def _unreadable(directory: epath.Path, name: str, error: Exception) -> SpotError:
    # The first sentence says what is wrong and where; the rest is tensorstore's own context.
    reason = re.sub(r"\s+", " ", str(error)).split(" [")[0][:300]
    return SpotError(
        f"{directory}: {name.replace('/', '.')} cannot be read ({reason}); fetch it again"
    )
