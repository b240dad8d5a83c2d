"""`spot demo`: the main job on what ships with the package."""

from collections.abc import Sequence
from pathlib import Path

from spot_jax.cli.flags import parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot demo --help`."""
    flags = parser(
        "demo",
        "Tune a prompt on a source task, begin a target task's prompt from it, and show what the\n"
        "transfer bought. The same command again goes on where the demo stopped.",
    )
    flags.add_argument(
        "--directory", default="runs/demo", help="where to write (default: %(default)s)"
    )
    values = flags.parse_args(list(arguments))

    from spot_jax.demo import Plan, demo

    demo(Path(values.directory), Plan(), lambda line: print(line, flush=True))
    return 0
