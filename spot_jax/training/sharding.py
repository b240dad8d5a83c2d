"""One code path from one CPU to many hosts: a mesh of `data` x `model`, and T5X's logical axes.

Every parameter's axes have T5X's names (`joined_kv`, `mlp`, `vocab`, ...); one table says which
mesh axis a name is split over. Weights are split over `model`, batches over `data`, what is
trained beside a frozen model is small and replicated.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spot_jax.errors import SpotError, check_fields, whole
from spot_jax.t5.int8 import kernel_name

# (path of a parameter, names of its axes), first match wins; stacked layers add one in front.
LOGICAL_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"token_embedder/embedding", ("vocab", "embed")),
    (r".*/(query|key|value)/kernel", ("embed", "joined_kv")),
    (r".*/out/kernel", ("joined_kv", "embed")),
    (r".*/wi(_\d)?/kernel", ("embed", "mlp")),
    (r".*/wo/kernel", ("mlp", "embed")),
    (r".*/scale", ("embed",)),
    (r".*/rel_embedding", ("heads", "relpos_buckets")),
    (r"decoder/logits_dense/kernel", ("embed", "vocab")),
)
# T5X's standard rules in one dimension. The position bias stays whole ("heads"): `small` has 6
# heads, which 8 devices do not divide, but its joined_kv of 384 they do.
MESH_AXES: Mapping[str, str | None] = {
    "batch": "data",
    "vocab": "model",
    "joined_kv": "model",
    "mlp": "model",
    "embed": None,
    "heads": None,
    "relpos_buckets": None,
    "layers": None,
}


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """How devices are arranged.

    Attributes:
        data: ways in which a batch is divided; None for all devices that `model` leaves.
        model: ways in which each weight is divided.
    """

    data: int | None = None
    model: int = 1

    def __post_init__(self) -> None:
        check_fields(self, data=whole(1, 10**6), model=whole(1, 10**6))


def make_mesh(shape: MeshShape) -> Mesh:
    """Return the mesh over this process group's devices.

    Raises:
        SpotError: more devices asked for than there are, or a number that does not fit.
    """
    devices = jax.device_count()
    data = max(devices // shape.model, 1) if shape.data is None else shape.data
    if data * shape.model > devices:
        raise SpotError(
            f"the mesh data={data} x model={shape.model} needs {data * shape.model} devices, "
            f"found {devices}; choose a smaller mesh"
        )
    if jax.process_count() > 1 and data * shape.model != devices:
        raise SpotError(
            f"with several processes the mesh uses all {devices} devices, found data={data} x "
            f"model={shape.model}; let their product be {devices}"
        )
    grid = np.asarray(jax.devices()[: data * shape.model]).reshape(data, shape.model)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_sharding(mesh: Mesh, path: str, shape: tuple[int, ...]) -> NamedSharding:
    """Return where a parameter lives.

    Args:
        mesh: the mesh.
        path: the parameter's T5X name.
        shape: shape of the parameter; one axis more than its name has means stacked layers.

    Raises:
        SpotError: an axis that the mesh does not divide.
    """
    axes = _axes(path)
    if axes is None:
        return replicated(mesh)
    names = ("layers",) * (len(shape) - len(axes)) + axes
    for name, size in zip(names, shape, strict=True):
        ways = mesh.shape[MESH_AXES[name]] if MESH_AXES[name] else 1
        if size % ways:
            raise SpotError(
                f"{path}: its axis {name} of {size} cannot be divided over {ways} devices; "
                "choose a mesh whose model axis divides it"
            )
    return NamedSharding(mesh, PartitionSpec(*(MESH_AXES[name] for name in names)))


def _axes(path: str) -> tuple[str, ...] | None:
    if (kernel := kernel_name(path)) is not None:
        axes = _axes(kernel)
        return None if axes is None else axes[1:]  # a scale is split as its kernel's outputs are
    return next((axes for pattern, axes in LOGICAL_AXES if re.fullmatch(pattern, path)), None)


def path_of(path: Any) -> str:
    """Return a leaf's dict keys joined by "/"; what is not a dict on the way is left out."""
    return "/".join(str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey))


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
    """Return a sharding for every leaf of parameters or of optimizer state over parameters.

    A leaf is placed by the parameter its path ends in; what is none, or was reduced to another
    rank (factored moments, counts), is replicated.
    """

    def of(path: Any, leaf: Any) -> NamedSharding:
        name = path_of(path)
        axes = _axes(name)
        if axes is None or leaf.ndim != len(axes) + ("/layers/" in name):
            return replicated(mesh)
        return parameter_sharding(mesh, name, leaf.shape)

    return jax.tree_util.tree_map_with_path(of, tree)


def place(tree: Any, shardings: Any) -> Any:
    """Put arrays where `shardings` says: host arrays that are alike on every process, or arrays
    that lie over all processes already."""

    def place_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
                return leaf
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        if jax.process_count() == 1 or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place_leaf, tree, shardings)


def on_lead(leaf: jax.Array) -> np.ndarray:
    """Return a whole array in the lead's memory, wherever its parts lie; empty on other processes.

    Every process must call it, for the same arrays in the same order.
    """
    if not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf) if jax.process_index() == 0 else np.empty(0)


class BatchPlacement:
    """Divides a batch's rows over the mesh's `data` axis; each process needs its own rows only.

    Attributes:
        host_rows: the rows of the global batch that this process must materialise.
    """

    def __init__(self, mesh: Mesh, rows: int):
        ways = mesh.shape["data"]
        if rows % ways:
            raise SpotError(
                f"a batch of {rows} rows cannot be divided over data={ways}; choose a batch size "
                f"that is a multiple of {ways}, or another mesh"
            )
        self.mesh, self.rows = mesh, rows
        spec = NamedSharding(mesh, PartitionSpec("data"))
        spans = [
            index[0].indices(rows)[:2]
            for index in spec.addressable_devices_indices_map((rows,)).values()
            if index is not None
        ]
        self.host_rows = slice(min(s for s, _ in spans), max(e for _, e in spans))

    def sharding(self, rank: int) -> NamedSharding:
        """Return where an array of this rank lies: its rows over `data`."""
        return NamedSharding(self.mesh, PartitionSpec("data", *(None,) * (rank - 1)))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Return global arrays from the rows in `host_rows`."""
        first = self.host_rows.start

        def place_rows(array: np.ndarray) -> jax.Array:
            def rows(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None  # None is for shapes without axes
                start, stop, _ = index[0].indices(self.rows)
                return array[start - first : stop - first]

            shape = (self.rows, *array.shape[1:])
            return jax.make_array_from_callback(shape, self.sharding(array.ndim), rows)

        return {name: place_rows(array) for name, array in batch.items()}
