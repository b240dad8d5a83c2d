"""Safetensors files, read by the slice and written as a stream.

The format is eight bytes of header length, a JSON header of name -> (dtype, shape, byte range),
then the raw little-endian bytes; so one device's slice of a weight can be read without the rest,
and a header can be written before the first tensor is available.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import ml_dtypes
import numpy as np
import xxhash
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import check_no_pointer, parse_object, reading
from spot_jax.files.digests import hasher

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
# And read and hashed in pieces that stay in the processor's cache in between.
_PIECE_BYTES = 2 << 20
_MAX_HEADER_BYTES = 100 << 20
_REMEDY = "fetch or convert it again"

Slices = tuple[slice, ...]


class DigestError(Exception):
    """A file whose contents have another digest than was expected."""


class TensorFile:
    """One safetensors file opened for reading; raises `SpotError` if it is cut short or broken.

    Attributes:
        path: path of the file, local or in a bucket.
        shapes: shape of each tensor by name.
        dtypes: numpy dtype of each tensor by name.
        metadata: texts that the header holds besides.
        bytes_read: number of the tensors' bytes that have been read so far.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.metadata: dict[str, str] = {}
        self.bytes_read = 0
        self._starts: dict[str, int] = {}
        self._data_start = 0
        self._hash: xxhash.xxh3_128 | None = None
        with reading(self.path, _REMEDY, "not a safetensors file"):
            size = self.path.stat().length
            self._index(*self._read_header(size), size)

    def _read_header(self, size: int) -> tuple[dict[str, Any], int]:
        with self.path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                check_no_pointer(self.path)
                raise SpotError(
                    f"{self.path}: not a safetensors file, or its header is cut short; {_REMEDY}"
                )
            return parse_object(file.read(length)), 8 + length

    def _index(self, header: dict[str, Any], data_start: int, size: int) -> None:
        self._data_start = data_start
        self.metadata = dict(header.pop("__metadata__", None) or {})
        end = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            code, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if code not in _NUMPY:
                raise SpotError(f"{self.path}: {name} has dtype {code}, which is not supported")
            if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
                raise ValueError(f"broken header entry for {name}")
            if stop - start != math.prod(shape) * _NUMPY[code].itemsize:
                raise ValueError(f"the header's size and shape of {name} disagree")
            if start != end:
                raise ValueError(f"{name} begins at byte {start}, the tensor before ends at {end}")
            self.shapes[name], self.dtypes[name] = tuple(shape), _NUMPY[code]
            self._starts[name] = data_start + start
            end = stop
        if size != data_start + end:
            raise SpotError(
                f"{self.path}: truncated or changed: expected {data_start + end} bytes, "
                f"found {size}; {_REMEDY}"
            )

    def read_whole(
        self, expected: str, *, dtype: np.dtype | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every tensor in the order of the file, whose digest is taken as it is read.

        Args:
            expected: digest of the file.
            dtype: dtype to cast to; None for each tensor's own, which integers keep anyway.

        Raises:
            DigestError: at the end, another digest; then nothing that was yielded may be used.
        """
        self._hash = hasher()
        with self._open() as file:
            self._hash.update(file.read(self._data_start))
        for name in self.shapes:
            yield name, self.read(name, dtype=self.cast(name, dtype))
        contents, self._hash = self._hash.hexdigest(), None
        if contents != expected:
            raise DigestError(f"{self.path}: its contents were changed")

    def cast(self, name: str, dtype: np.dtype | None) -> np.dtype | None:
        """Return the dtype for `read`: None, the tensor's own, for integers."""
        return None if self.dtypes[name].kind in "iu" else dtype

    def view(self, name: str, data: np.ndarray) -> np.ndarray:
        """Return a tensor as part of the bytes of the whole file, such as a memory map."""
        start, shape, dtype = self._starts[name], self.shapes[name], self.dtypes[name]
        size = math.prod(shape) * dtype.itemsize
        return data[start : start + size].view(dtype).reshape(shape)

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
            piece = view[done : done + _PIECE_BYTES]
            count = _read_into(file, piece)
            if not count:
                raise SpotError(f"{self.path}: ends at byte {start + done}; fetch it again")
            if self._hash is not None:
                self._hash.update(piece[:count])
            done += count
        self.bytes_read += len(view)


def _read_into(file: IO[bytes], view: memoryview) -> int:
    """Read at most as many bytes as `view` has into it, and return how many."""
    if hasattr(file, "readinto"):
        return file.readinto(view)
    part = file.read(len(view))  # a bucket's files have no `readinto`
    view[: len(part)] = part
    return len(part)


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    # JAX on CPU takes an array over without a copy if it begins on a cache line.
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


class TensorWriter:
    """Writes one safetensors file, tensor by tensor, in the order in which they were announced.

    The header is complete before the first tensor: `shapes` and `dtypes` are what will come.
    After `close`, `size`, `sha256` and `digest` describe the file.
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
        self._hash, self._digest = hashlib.sha256(), hasher()
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
        self._digest.update(data)
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

    @property
    def digest(self) -> str:
        """The digest (`spot_jax.files.digests`) of everything written so far."""
        return self._digest.hexdigest()
