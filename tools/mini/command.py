"""What the commands of `tools.mini` have in common: mistakes in one line, and checks of paths."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from spot_jax.cli.flags import OneLineParser
from spot_jax.cli.main import disk_mistake
from spot_jax.errors import SpotError

BAD_INPUT = 2


def run(name: str, main: Callable[[Sequence[str]], None]) -> int:
    """Run a command on the program's arguments.

    Returns:
        The exit code: 0, or 2 after one line on standard error for a mistake in the input.
    """
    try:
        main(sys.argv[1:])
    except SpotError as error:
        return _complain(name, str(error))
    except OSError as error:
        mistake = disk_mistake(error)
        if mistake is None:
            raise
        return _complain(name, mistake)
    return 0


def parser(name: str, description: str | None) -> OneLineParser:
    """Return the parser of `python -m tools.mini.NAME`, whose help begins with `description`."""
    first = (description or "").split("\n\n")[0]
    return OneLineParser(prog=f"python -m tools.mini.{name}", description=first, allow_abbrev=False)


def check_files(directory: Path, names: Iterable[str], remedy: str) -> None:
    """Raise `SpotError` for files that a directory lacks; `NAME.xz` stands for NAME too."""
    if not directory.is_dir():
        raise SpotError(f"expected a directory at {directory}, found none; {remedy}")
    missing = [
        name
        for name in names
        if not (directory / name).is_file() and not (directory / f"{name}.xz").is_file()
    ]
    if missing:
        raise SpotError(f"expected {', '.join(missing)} in {directory}, found none; {remedy}")


def open_destination(directory: Path) -> None:
    """Make a directory that results go to; raise `SpotError` before long work where none can be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Rights alone do not tell: a disk may be read-only.
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise SpotError(
            f"expected a directory to write to at {directory}, found: "
            f"{error.strerror or os.strerror(error.errno or 0)}; name another"
        ) from error


def _complain(name: str, message: str) -> int:
    print(f"tools.mini.{name}: {message.strip().splitlines()[0]}", file=sys.stderr)
    return BAD_INPUT
