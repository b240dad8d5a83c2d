"""The flags that `spot eval` and `spot infer` share, and what they come to."""

import argparse
from typing import TYPE_CHECKING, Any

from spot_jax.cli.flags import OneLineParser, import_named, parser
from spot_jax.errors import SpotError

if TYPE_CHECKING:
    from spot_jax.inference.tuned import Tuned


def inference_parser(verb: str, description: str) -> OneLineParser:
    """A verb's parser with the run directory, the backbone, and how predictions are made."""
    made = parser(verb, description)
    made.add_argument("run_dir", nargs="?", metavar="RUN_DIR", help="a MODEL_DIR of spot train")
    made.add_argument("--backbone", metavar="DIR", help="instead of the run's, or without a run")
    made.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="defines methods of your own"
    )
    made.add_argument("--which", choices=["best", "last"], default="best", help="prompts of a run")
    made.add_argument("--decoding", choices=["auto", "rank", "greedy", "beam"], default="auto")
    made.add_argument("--beams", type=int, default=4, metavar="N")
    made.add_argument("--batch_size", type=int, metavar="N", help="default: the run's")
    made.add_argument("--inputs_length", type=int, metavar="N", help="tokens of text, end included")
    made.add_argument("--targets_length", type=int, metavar="N")
    made.add_argument("--mesh", default="1x1", metavar="DATAxMODEL", help="default: one device")
    return made


def opened(given: argparse.Namespace, prompts: list[str]) -> "Tuned":
    """The backbone and prompts that the flags name."""
    import_named(given.module, "--module")

    from spot_jax.cli.values import mesh
    from spot_jax.inference.tuned import open_tuned

    return open_tuned(
        given.run_dir,
        backbone=given.backbone,
        prompts=prompts,
        which=given.which,
        mesh=mesh(given.mesh),
    )


def how(given: argparse.Namespace, *more: str) -> dict[str, Any]:
    """The arguments that say how predictions are made."""
    for name in ("beams", "batch_size", "inputs_length", "targets_length", *more):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise SpotError(f"--{name} is at least 1, found {value}")
    lengths = {"inputs": given.inputs_length, "targets": given.targets_length}
    return {
        "decoding": given.decoding,
        "beams": given.beams,
        "batch_size": given.batch_size,
        "lengths": {name: value for name, value in lengths.items() if value},
    }
