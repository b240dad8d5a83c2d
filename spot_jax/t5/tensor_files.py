"""Safetensors files, read by the slice and written as a stream.

The format is eight bytes of header length, a JSON header of name -> (dtype, shape, byte range),
then the raw little-endian bytes; so one device's slice of a weight can be read without the rest,
and a header can be written before the first tensor is available.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

import ml_dtypes
import numpy as np
from etils import epath

from spot_jax.errors import SpotError

_NUMPY = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODE = {dtype: code for code, dtype in _NUMPY.items()}
# Rows are read in blocks of this many bytes where a slice is not one run of bytes.
_BLOCK_BYTES = 32 << 20
_MAX_HEADER_BYTES = 100 << 20

Slices = tuple[slice, ...]


class TensorFile:
    """One safetensors file opened for reading; raises `SpotError` if it is cut short or broken.

    Attributes:
        path: path of the file, local or in a bucket.
        shapes: shape of each tensor by name.
        dtypes: numpy dtype of each tensor by name.
        bytes_read: number of the tensors' bytes that have been read so far.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.bytes_read = 0
        self._starts: dict[str, int] = {}
        try:
            size = self.path.stat().length
            header, data_start = self._read_header(size)
            self._index(header, data_start, size)
        except OSError as error:
            raise SpotError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def _read_header(self, size: int) -> tuple[dict[str, Any], int]:
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise SpotError(f"{self.path}: not a safetensors file, or its header is cut short")
            text = file.read(length)
        try:
            return json.loads(text), 8 + length
        except ValueError as error:
            raise SpotError(f"{self.path}: not a safetensors file: broken header") from error

    def _index(self, header: dict[str, Any], data_start: int, size: int) -> None:
        end = 0
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            try:
                shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
                code = entry["dtype"]
            except (KeyError, TypeError, ValueError) as error:
                raise SpotError(f"{self.path}: broken header entry for {name}") from error
            if code not in _NUMPY:
                raise SpotError(f"{self.path}: {name} has dtype {code}, which is not supported")
            if stop - start != math.prod(shape) * _NUMPY[code].itemsize:
                raise SpotError(f"{self.path}: the header's size and shape of {name} disagree")
            self.shapes[name], self.dtypes[name] = shape, _NUMPY[code]
            self._starts[name] = data_start + start
            end = max(end, stop)
        if size != data_start + end:
            raise SpotError(
                f"{self.path}: truncated or changed: expected {data_start + end} bytes, "
                f"found {size}; fetch or convert it again"
            )

    def read(self, name: str, index: Slices = (), *, dtype: np.dtype | None = None) -> np.ndarray:
        """Return a tensor, or the part that `index` (slices of step 1) selects, in a new array."""
        return self.read_parts(name, [index], dtype=dtype)[0]

    def read_parts(
        self, name: str, indices: Sequence[Slices], *, dtype: np.dtype | None = None
    ) -> list[np.ndarray]:
        """Return parts of one tensor, cast to `dtype`; the rows that parts share are read once.

        A slice of the leading axis is one run of bytes and only that is read. A slice of a later
        axis reads the rows it crosses in blocks and keeps the slice, so memory holds no more; so
        does a cast.
        """
        shape, dtype = self.shapes[name], dtype or self.dtypes[name]
        rest = slice(None)
        parts: list[np.ndarray] = []
        by_rows: dict[tuple[int, int], list[tuple[np.ndarray, Slices]]] = {}
        for index in indices:
            full = (*index, *[rest] * (len(shape) - len(index)))
            bounds = [s.indices(n)[:2] for s, n in zip(full, shape, strict=True)]
            parts.append(_aligned([max(0, stop - start) for start, stop in bounds], dtype))
            inner = tuple(slice(*b) for b in bounds[1:])
            by_rows.setdefault(bounds[0] if shape else (0, 1), []).append((parts[-1], inner))
        with self._open() as file:
            for (first, last), wanted in by_rows.items():
                whole_rows = len(wanted) == 1 and wanted[0][0].shape[1:] == shape[1:]
                if whole_rows and dtype == self.dtypes[name]:
                    start = self._starts[name] + first * self._row_bytes(name)
                    self._fill(file, wanted[0][0], start)
                else:
                    self._fill_in_blocks(file, name, (first, last), wanted)
        return parts

    def _fill_in_blocks(
        self,
        file: IO[bytes],
        name: str,
        rows: tuple[int, int],
        wanted: list[tuple[np.ndarray, Slices]],
    ) -> None:
        row_bytes = self._row_bytes(name)
        step = max(1, _BLOCK_BYTES // max(1, row_bytes))
        for row in range(*rows, step):
            shape = (min(step, rows[1] - row), *self.shapes[name][1:])
            block = np.empty(shape, self.dtypes[name])
            self._fill(file, block, self._starts[name] + row * row_bytes)
            for part, inner in wanted:
                at = row - rows[0]
                if part.ndim:
                    part[at : at + len(block)] = block[(slice(None), *inner)]
                else:
                    part[()] = block[0]

    def _open(self) -> IO[bytes]:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise SpotError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def _row_bytes(self, name: str) -> int:
        return math.prod(self.shapes[name][1:]) * self.dtypes[name].itemsize

    def _fill(self, file: IO[bytes], out: np.ndarray, start: int) -> None:
        file.seek(start)
        view = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            part = file.read(min(_BLOCK_BYTES, len(view) - done))
            if not part:
                raise SpotError(f"{self.path}: ends at byte {start + done}; fetch it again")
            view[done : done + len(part)] = part
            done += len(part)
        self.bytes_read += len(view)


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    # JAX on CPU takes an array over without a copy if it begins on a cache line.
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


class TensorWriter:
    """Writes one safetensors file, tensor by tensor, in the order in which they were announced.

    The header is complete before the first tensor: `shapes` and `dtypes` are what will come.
    After `close`, `size` and `sha256` describe the file.
    """

    def __init__(
        self,
        path: epath.PathLike,
        shapes: Mapping[str, Sequence[int]],
        dtypes: Mapping[str, np.dtype],
        metadata: Mapping[str, str],
    ):
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + math.prod(shape) * dtypes[name].itemsize
            entry = {"dtype": _CODE[dtypes[name]], "shape": list(shape)}
            header[name] = entry | {"data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % 64)  # the data begin on a cache line
        self.size = 0
        self._expected = {n: (tuple(s), dtypes[n]) for n, s in shapes.items()}
        self._waiting = list(shapes)
        self._hash = hashlib.sha256()
        self._file = epath.Path(path).open("wb")
        self._put(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, array: np.ndarray) -> None:
        """Append the next tensor; its name, shape and dtype must be as announced."""
        if not self._waiting or name != self._waiting[0]:
            raise ValueError(f"{name} came out of order, expected {self._waiting[:1]}")
        if (array.shape, array.dtype) != self._expected[name]:
            raise ValueError(f"{name}: {array.shape} {array.dtype}, not {self._expected[name]}")
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _BLOCK_BYTES):
            self._put(flat[start : start + _BLOCK_BYTES].data)
        self._waiting.pop(0)

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Finish the file; raise `ValueError` if tensors are still to come."""
        self._file.close()
        if self._waiting:
            raise ValueError(f"never written: {self._waiting}")

    def abandon(self) -> None:
        """Close without the rest, after a failure."""
        self._file.close()

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of everything written so far, in hex."""
        return self._hash.hexdigest()
