"""Digests: what is read is what was written.

A digest is XXH3 of 128 bits over bytes. It finds damage and mix-ups at the speed of memory; it is
no defence against somebody who forges a file together with its digest (docs/security.md).
"""

import json
from typing import Any

import xxhash
from etils import epath

FIELD = "digest"
"""Field of a JSON object of ours that holds the digest of the others."""
_BLOCK_BYTES = 4 << 20


def hasher() -> xxhash.xxh3_128:
    """Return a new hash, of which `update` takes bytes and `hexdigest` gives 32 digits."""
    return xxhash.xxh3_128()


def digest(*parts: bytes | memoryview | str) -> str:
    """Return the digest of parts, one after another: 32 hexadecimal digits."""
    result = hasher()
    for part in parts:
        result.update(part.encode() if isinstance(part, str) else part)
    return result.hexdigest()


def json_digest(value: Any) -> str:
    """Return the digest of a value of JSON, whatever the order of its fields."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":")))


def file_digest(path: epath.PathLike) -> str:
    """Return the digest of a file's bytes."""
    result = hasher()
    with epath.Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            result.update(block)
    return result.hexdigest()
