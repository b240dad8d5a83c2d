"""The flags that `spot eval` and `spot infer` share, and the arguments they stand for."""

import argparse
from typing import TYPE_CHECKING, Any

from spot_jax.cli.flags import OneLineParser, import_named, parser
from spot_jax.errors import SpotError

if TYPE_CHECKING:
    from spot_jax.inference.tuned import Tuned


def inference_parser(verb: str, description: str) -> OneLineParser:
    """Return a verb's parser with the run directory, the backbone, and how predictions are made."""
    flags = parser(verb, description)
    flags.add_argument("run_dir", nargs="?", metavar="RUN_DIR", help="a MODEL_DIR of spot train")
    flags.add_argument("--backbone", metavar="DIR", help="instead of the run's, or without a run")
    flags.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="defines methods of your own"
    )
    flags.add_argument(
        "--allow_modules_of_run",
        action="store_true",
        help="import the Python modules that the run names: runs code of whoever made it",
    )
    flags.add_argument("--which", choices=["best", "last"], default="best", help="prompts of a run")
    flags.add_argument("--decoding", choices=["auto", "rank", "greedy", "beam"], default="auto")
    flags.add_argument("--beams", type=int, default=4, metavar="N")
    flags.add_argument("--batch_size", type=int, metavar="N", help="default: the run's")
    flags.add_argument(
        "--inputs_length", type=int, metavar="N", help="tokens of text, end included"
    )
    flags.add_argument("--targets_length", type=int, metavar="N")
    flags.add_argument("--mesh", metavar="DATAxMODEL", help="default: one device")
    return flags


def opened(values: argparse.Namespace, prompts: list[str]) -> "Tuned":
    """Load the backbone and prompts that the flags name."""
    paths = {"RUN_DIR": [values.run_dir], "--backbone": [values.backbone], "--prompt": prompts}
    for name, texts in paths.items():
        if any(text is not None and not text.strip() for text in texts):
            raise SpotError(f"{name} is empty; give a path")
    import_named(values.module, "--module")

    from spot_jax.cli.values import mesh
    from spot_jax.inference.tuned import open_tuned
    from spot_jax.training.distributed import is_joined

    return open_tuned(
        values.run_dir,
        backbone=values.backbone,
        prompts=prompts,
        which=values.which,
        mesh=mesh(values.mesh or ("*x1" if is_joined() else "1x1")),
        allow_modules=values.allow_modules_of_run,
    )


def how(values: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Return the arguments that say how predictions are made."""
    for name in ("beams", "batch_size", "inputs_length", "targets_length", *more):
        value = getattr(values, name)
        if value is not None and value < 1:
            raise SpotError(f"--{name} is at least 1, found {value}")
    lengths = {"inputs": values.inputs_length, "targets": values.targets_length}
    return {
        "decoding": values.decoding,
        "beams": values.beams,
        "batch_size": values.batch_size,
        "lengths": {name: value for name, value in lengths.items() if value},
    }
