"""The orbax form that `t5x.train` writes by default: zarr arrays, all in one OCDBT store or not."""

from typing import Any

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import parse_object, reading
from spot_jax.t5.importing.matching import Source
from spot_jax.t5.importing.zarr import PROMPT, kvstore, open_arrays

METADATA = "_METADATA"
_ITEMS = ("state", "default", "params")


def find_item(directory: epath.Path) -> epath.Path | None:
    """Return the directory with the tree's metadata: this one, or the item of T5X's name."""
    for item in (directory, *(directory / name for name in _ITEMS)):
        if (item / METADATA).exists():
            return item
    return None


def open_orbax(directory: epath.Path, item: epath.Path) -> Source:
    """List the tensors below `target` of a saved state; raises `SpotError` if it is broken."""
    metadata = item / METADATA
    with reading(metadata, "fetch it again", "truncated, or not an orbax checkpoint's"):
        data = parse_object(metadata.read_bytes())
        entries = [
            ([key["key"] for key in entry["key_metadata"]], entry["value_metadata"])
            for entry in data["tree_metadata"].values()
        ]
        if not all(keys and isinstance(value, dict) for keys, value in entries):
            raise ValueError("an entry without keys or values")
    single_store = (item / "manifest.ocdbt").exists()
    if data.get("use_ocdbt") and not single_store:
        raise SpotError(f"{item}: manifest.ocdbt is missing; fetch the whole checkpoint again")
    driver = "zarr3" if data.get("use_zarr3") else "zarr"
    source = Source("T5X orbax checkpoint", directory, {})
    specs: dict[str, dict[str, Any]] = {}
    for keys, value in entries:
        root, name = keys[0], "/".join(map(str, keys[1:]))
        if root not in ("target", "params"):
            if not value.get("skip_deserialize"):
                source.ignored.append("/".join(map(str, keys)))
        else:
            stored = ".".join(map(str, keys))
            store = (
                {"driver": "ocdbt", "base": kvstore(item), "path": f"{stored}/"}
                if single_store
                else kvstore(item / stored)
            )
            specs[name] = {"driver": driver, "kvstore": store}
    source.tensors.update(open_arrays(specs, directory))
    source.set_prompts_apart(PROMPT)
    return source
