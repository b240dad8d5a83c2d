"""Store what `tools.mini.train` wrote as a backbone."""

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.t5 import model
from spot_jax.t5.backbone import Backbone, fingerprint, flatten, save_backbone, unflatten
from spot_jax.t5.config import T5Config
from tools.mini import shape
from tools.mini.command import open_destination, parser, run

PARTS = ("part0.npz", "part1.npz")
"""Files of the weights, the embeddings in the second."""
SOURCE = "python -m tools.mini.train"


def write_parts(directory: Path, params: dict[str, Any], config: T5Config) -> None:
    """Write stacked weights, bfloat16 as bits, in two files of `PARTS`, a layer at a time."""
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    for name, leaf in flatten(model.unstack_layers(params, config)):
        bits = np.asarray(leaf.astype(jnp.bfloat16)).view(np.uint16)
        parts["embedd" in name][name] = bits
    for name, part in zip(PARTS, parts, strict=True):
        np.savez(directory / name, **part)  # type: ignore[arg-type]


def read_parts(directory: Path, config: T5Config) -> dict[str, Any]:
    """Return the weights of `write_parts`, bfloat16, a layer at a time.

    Raises `SpotError` for files that are missing or damaged, and for weights of another shape than
    `config`'s.
    """
    leaves: dict[str, Any] = {}
    for name in PARTS:
        try:
            with np.load(directory / name) as part:
                leaves |= {key: jnp.asarray(part[key].view(jnp.bfloat16)) for key in part.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise SpotError(
                f"expected {' and '.join(PARTS)} in {directory}, found no whole {name}; "
                "name the DEST of tools.mini.train"
            ) from error
    expected = jax.eval_shape(lambda key: model.init_params(key, config), jax.random.key(0))
    shapes = {name: leaf.shape for name, leaf in flatten(expected)}
    for name in sorted(shapes.keys() | leaves.keys()):
        stored = leaves[name].shape if name in leaves else "none"
        if stored != shapes.get(name, "none"):
            raise SpotError(
                f"expected {name} of shape {shapes.get(name, 'none')} in {directory}, "
                f"found {stored}; train again with this version"
            )
    return dict(unflatten(leaves))


def main(arguments: Sequence[str]) -> None:
    """Run `python -m tools.mini.store`."""
    flags = parser("store", __doc__)
    flags.add_argument("trained", type=Path, metavar="TRAINED", help="DEST of tools.mini.train")
    flags.add_argument("destination", type=Path, metavar="DEST", help="directory of the backbone")
    options = flags.parse_args(arguments)
    config = shape.config(scan_layers=False)
    params = read_parts(options.trained, config)
    open_destination(options.destination)
    mark = fingerprint(config, params)
    backbone = Backbone(config, params, mark, epath.Path(shape.VOCABULARY), SOURCE)
    save_backbone(options.destination, backbone)
    print(f"stored {options.destination}, fingerprint {mark[:12]}")


if __name__ == "__main__":
    sys.exit(run("store", main))
