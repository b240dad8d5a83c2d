"""`spot demo`: the main job on what ships with the package."""

import contextlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spot_jax.cli.flags import parser
from spot_jax.errors import SpotError

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
    directory = Path(values.directory)
    plan = plan_on_rows(directory)

    from spot_jax.demo import demo

    demo(directory, plan, lambda line: print(line, flush=True))
    return 0


def plan_on_rows(directory: Path) -> "Plan":
    """Return the plan of the demo on files of rows, which are written to `directory`/data.

    Sets that ship are tasks by name too, through seqio; files need no TensorFlow, whose import
    takes longer than the first steps. A second process writes them while this one imports JAX.
    """
    writer = None
    # A process that has run JAX has threads, which a fork would lose.
    if "fork" in multiprocessing.get_all_start_methods() and "jax" not in sys.modules:
        writer = multiprocessing.get_context("fork").Process(target=_write_rows, args=(directory,))
        writer.start()
    from spot_jax.demo import Plan

    if writer is not None:
        writer.join()
    source, target = (
        f"{rows_file(directory, name)}?text=text&label=label&split=split"
        for name in (SOURCE, TARGET)
    )
    return Plan(source, target)


def _write_rows(directory: Path) -> None:
    """Write both files in a process of its own; who waits for it meets again what fails here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(SpotError, OSError):
        for name in (SOURCE, TARGET):
            rows_file(directory, name)


def rows_file(directory: Path, name: str) -> Path:
    """Return the path of a set that ships as a file of rows; it is written where it is not yet."""
    from spot_jax.files import write_whole
    from tasks.bundled.reading import SPLITS, rows

    path = directory / "data" / f"{name}.jsonl"
    if not path.exists():
        lines = [json.dumps(row) for split in SPLITS for row in rows(name, split)]
        write_whole(path, "\n".join(lines) + "\n")
    return path
