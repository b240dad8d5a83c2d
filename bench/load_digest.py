"""What the digests of a stored backbone cost when it is loaded.

    taskset -c 0,1 python bench/load_digest.py [--output bench/results/load_digest.json]

A T5 of `base`'s shape with random weights is stored once and loaded in turn in three ways: without
comparing anything, the first time (the digest is taken of the bytes as they come), and the second
time (the file is remembered by size, times and inode). It is in the page cache, so that a disk
hides nothing of the cost. Other work may share the machine: ways alternate, and what counts is the
least of a way's times, and the median of its ratio to the load without in the same turn.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
WAYS = ("without", "first", "second")


def store(directory: Path) -> int:
    """Store the backbone, and return its bytes."""
    import numpy as np

    from spot_jax.t5.backbone import Backbone, fingerprint, save_backbone, unflatten
    from spot_jax.t5.config import T5Config, parameter_shapes

    config = T5Config(
        vocab_size=32128,
        emb_dim=768,
        num_heads=12,
        head_dim=64,
        mlp_dim=2048,
        num_encoder_layers=12,
        num_decoder_layers=12,
    )
    draw = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    leaves = {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    params = unflatten(leaves)
    save_backbone(directory, Backbone(config, params, fingerprint(config, params)))
    return sum(leaf.nbytes for leaf in leaves.values())


def seconds(directory: Path, way: str) -> float:
    """Load the backbone in one of the ways, and return how long it took."""
    import dataclasses
    import gc

    from spot_jax.t5 import backbone as module
    from spot_jax.t5.stored import Description, read_description

    if way == "first":
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    opened = module.read_description
    if way == "without":

        class Unchecked(Description):
            """A description whose files are opened, and nothing of them is compared."""

            def open_files(self) -> Iterator[tuple[Any, None]]:
                """Yield the files without their digests."""
                for name in self.files:
                    yield module.TensorFile(self.directory / name), None

        def unchecked(path: Any) -> Unchecked:
            described = read_description(path)
            fields = {f.name: getattr(described, f.name) for f in dataclasses.fields(described)}
            return Unchecked(**fields)

        module.read_description = unchecked
    try:
        gc.collect()
        start = time.perf_counter()
        loaded = module.load_backbone(directory)
        taken = time.perf_counter() - start
        del loaded
        return taken
    finally:
        module.read_description = opened


def _median_of_turns(times: dict[str, list[float]], way: str) -> float:
    pairs = zip(times[way], times["without"], strict=True)
    return statistics.median(seconds / without for seconds, without in pairs)


def main() -> None:
    """Store, load in turn, and write the record."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--output", default="bench/results/load_digest.json")
    flags.add_argument("--rounds", type=int, default=9)
    values = flags.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        directory = Path(work) / "base"
        size = store(directory)
        time.sleep(3)  # a file that has just been written is not remembered
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(values.rounds):
            for way in WAYS:
                times[way].append(seconds(directory, way))
    import jax

    record = {
        "what": "loading a stored backbone of base's shape, with and without its digests",
        "bytes": size,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "load_average_at_the_end": [round(x, 1) for x in os.getloadavg()],
        "seconds": {way: [round(x, 3) for x in times[way]] for way in WAYS},
        "least": {way: round(min(times[way]) / min(times["without"]), 3) for way in WAYS},
        "median_of_turns": {way: round(_median_of_turns(times, way), 3) for way in WAYS},
    }
    Path(values.output).write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({name: record[name] for name in ("least", "median_of_turns")}))


if __name__ == "__main__":
    main()
