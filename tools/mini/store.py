"""Store what `tools.mini.train` left as a backbone.

python -m tools.mini.store TRAINED DEST
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from etils import epath

import spot_jax
from spot_jax.errors import SpotError
from spot_jax.t5.backbone import Backbone, fingerprint, save_backbone
from spot_jax.t5.config import T5Config
from tools.mini.train import SHAPE

VOCABULARY = Path(spot_jax.__file__).parents[1] / "tasks" / "mini_spiece.model"


def read(directory: Path) -> dict:
    """Return the tree of weights, bfloat16, from its two files."""
    tree: dict = {}
    for path in sorted(directory.glob("part*.npz")):
        with np.load(path) as part:
            for name in part.files:
                *above, last = name.split("/")
                level = tree
                for step in above:
                    level = level.setdefault(step, {})
                level[last] = jnp.asarray(part[name].view(jnp.bfloat16))
    if not tree:
        raise SpotError(f"expected part0.npz and part1.npz in {directory}, found neither")
    return tree


def main(arguments: list[str]) -> int:
    trained, destination = map(Path, arguments)
    config = T5Config(**{**SHAPE, "scan_layers": False})
    params = read(trained)
    mark = fingerprint(config, params)
    source = "python -m tools.mini.train"
    save_backbone(destination, Backbone(config, params, mark, epath.Path(VOCABULARY), source))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
