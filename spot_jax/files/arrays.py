"""numpy's files as others write them: nothing is allocated that the bytes do not hold."""

import io
import math
import os
import zipfile

import numpy as np

from spot_jax.errors import SpotError

# Numbers that were compressed to less than a hundredth of themselves are zeros, or a mistake.
_GREATEST_RATIO = 100
_ALWAYS_READ = 64 << 20


def read_array(data: bytes) -> np.ndarray:
    """Return the array of an .npy file's bytes; ValueError if its header claims more than it holds.

    Raises:
        ValueError: not such a file, cut short, or of Python objects.
    """
    file = io.BytesIO(data)
    claimed = claimed_bytes(file)
    if claimed > len(data) - file.tell():
        raise ValueError(
            f"its header claims {claimed:,} bytes of numbers, found {len(data) - file.tell():,}"
        )
    file.seek(0)
    return np.load(file, allow_pickle=False)


def claimed_bytes(file: io.IOBase) -> int:
    """Return how many bytes of numbers the header of an .npy file claims, and read past it.

    Raises:
        ValueError: not such a file, or of Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"an .npy file of version {version}")
    if dtype.hasobject:
        raise ValueError("an .npy file of Python objects")
    return math.prod(shape) * dtype.itemsize


def check_claims(file: np.lib.npyio.NpzFile, path: str | os.PathLike[str]) -> None:
    """Raise `SpotError` for an .npz file whose arrays claim far more than its bytes can hold.

    Args:
        file: file that numpy has opened.
        path: path of the file, for the error.
    """
    archive = file.zip
    assert isinstance(archive, zipfile.ZipFile), "numpy has opened it"
    for entry in archive.infolist():
        with archive.open(entry) as member:
            claimed = claimed_bytes(io.BytesIO(member.read(1 << 16)))
        if claimed > entry.file_size:
            raise ValueError(
                f"{entry.filename} claims {claimed:,} bytes of numbers, found {entry.file_size:,}"
            )
        greatest = max(_ALWAYS_READ, _GREATEST_RATIO * entry.compress_size)
        if entry.file_size > greatest:
            raise SpotError(
                f"{os.fspath(path)}: {entry.filename} grows from {entry.compress_size:,} to "
                f"{entry.file_size:,} bytes, which examples do not; write the file again, without "
                "compression if it is meant"
            )
