"""What people write in short, as what the library takes: a mesh `2x4`, a module, our files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.files import is_local
from spot_jax.shipped import ROOT


def mesh(shape: str = "1x1") -> Any:
    """Return the `MeshShape` of a text.

    Args:
        shape: "DATAxMODEL": batches in DATA parts, each weight in MODEL parts; "*xMODEL" gives
            `data` all the devices that `model` leaves.
    """
    from spot_jax.training.sharding import MeshShape

    match = re.fullmatch(r"\s*(\d+|\*)\s*x\s*(\d+)\s*", shape)
    if not match:
        raise SpotError(f"a mesh is written DATAxMODEL, such as '1x8' or '*x1', found {shape!r}")
    data, model = match.groups()
    return MeshShape(data=None if data == "*" else int(data), model=int(model))


def shipped(path: str) -> str:
    """Return the path, or the file of that name that ships with us: `tasks/t5_spiece.model`.

    Args:
        path: path as it is, or from the root of what ships.
    """
    ours = ROOT / path
    return path if not is_local(path) or Path(path).exists() or not ours.exists() else str(ours)


def modules(names: str | Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of modules, of which T5X gives one as a text.

    Args:
        names: names of Python modules that register tasks.
    """
    return (names,) if isinstance(names, str) else tuple(names)
