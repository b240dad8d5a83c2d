"""`spot demo`: the main job on what ships with the package."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spot_jax.cli.flags import parser

if TYPE_CHECKING:
    from spot_jax.demo import Plan

SOURCE, TARGET = "banking77", "clinc150_16shot"


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
    print("some minutes on two cores; first JAX is loaded, and a program compiled", flush=True)

    from spot_jax.demo import demo

    directory = Path(values.directory)
    demo(directory, plan_on_rows(directory), lambda line: print(line, flush=True))
    return 0


def plan_on_rows(directory: Path) -> "Plan":
    """Return the plan of the demo on files of rows, which are written to `directory`/data.

    Sets that ship are tasks by name too, through seqio; files need no TensorFlow, whose import
    takes longer than the first steps.
    """
    from spot_jax.demo import Plan

    source, target = (
        f"{rows_file(directory, name)}?text=text&label=label&split=split"
        for name in (SOURCE, TARGET)
    )
    return Plan(source, target)


def rows_file(directory: Path, name: str) -> Path:
    """Return the path of a set that ships as a file of rows; it is written where it is not yet."""
    from spot_jax.files import write_whole
    from tasks.bundled.reading import SPLITS, rows

    path = directory / "data" / f"{name}.jsonl"
    if not path.exists():
        lines = [json.dumps(row) for split in SPLITS for row in rows(name, split)]
        write_whole(path, "\n".join(lines) + "\n")
    return path
