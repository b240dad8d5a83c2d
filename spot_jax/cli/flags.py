"""Command line flags as T5X has them, and an argument parser that complains in one line."""

import argparse
import contextvars
import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from spot_jax.errors import SpotError
from spot_jax.files import fault_text

NO_RUN_FILE = ("data", "model_dir")
OF_RUNS = ("train", "transfer")
"""Commands whose help shows the settings of a run file that ships."""

GIN_HELP = """\
settings (as in T5X; any order):
  --gin_file=FILE          a run: one file in gin_configs/runs/, or your own; repeatable
  --gin.NAME=VALUE         a setting over the file's; VALUE is Python, so text needs quotes that
                           the shell leaves: --gin.MODEL_DIR="'runs/first'"
  --gin_bindings=LINE      the same, as a line of gin: "NAME = VALUE"; repeatable
  --gin_search_paths=DIRS  where else to look for files, comma-separated
"""


class _Asked(Exception):
    """Carries the parser of a command to `parser_of`, in the place of parsing."""


_is_asked = contextvars.ContextVar("_is_asked", default=False)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are a `SpotError`, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        """See the class."""
        raise SpotError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse as the base class does; a flag or word that was given as nothing is refused.

        An empty path would be the working directory, and an empty name all names.
        """
        if _is_asked.get():
            raise _Asked(self)
        values, rest = super().parse_known_args(*arguments, **options)
        for action in self._actions:
            typed = getattr(values, action.dest, None)
            items = typed if isinstance(typed, list) else [typed]
            if any(isinstance(item, str) and not item.strip() for item in items):
                if typed == action.default:
                    continue
                name = action.option_strings[-1] if action.option_strings else action.metavar
                raise SpotError(f"{name or action.dest} is empty; see {self.prog} --help")
        return values, rest


def parser(verb: str, description: str, *, settings: bool = False) -> OneLineParser:
    """Return a verb's parser, with T5X's flags for gin if it takes settings."""
    command = OneLineParser(
        prog=f"spot {verb}",
        description=description,
        epilog=GIN_HELP if settings else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    together = command.add_argument_group(
        "several processes (a TPU pod, SLURM, MPI or an indexed Kubernetes job needs none of these)"
    )
    together.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    together.add_argument("--process_count", type=int, metavar="N", help="processes")
    together.add_argument(
        "--process_index", "--process_id", dest="process_id", type=int, metavar="I", help="0 to N-1"
    )
    if settings:
        command.usage = f"spot {verb} --gin_file=FILE [--gin.NAME=VALUE ...]"
        hidden = argparse.SUPPRESS
        command.add_argument("--gin_file", action="append", default=[], help=hidden)
        command.add_argument("--gin_bindings", action="append", default=[], help=hidden)
        command.add_argument("--gin_search_paths", action="append", default=[], help=hidden)
    return command


def parser_of(main: Callable[[list[str]], Any], words: Sequence[str] = ()) -> OneLineParser:
    """Return the parser of a command, which runs up to where it parses and no further.

    Args:
        main: function of the command's words.
        words: words before its flags, such as the verb of `spot prompts`.
    """
    token = _is_asked.set(True)
    try:
        main([*words, "--help"])
    except _Asked as asked:
        return asked.args[0]
    finally:
        _is_asked.reset(token)
    raise ValueError(f"{main.__module__} has no parser for {' '.join(words)!r}")


def split_gin(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the arguments without `--gin.NAME=VALUE`, and each of those as (typed, gin text)."""
    others, flags = [], []
    for argument in arguments:
        if not argument.startswith("--gin."):
            others.append(argument)
            continue
        match = re.fullmatch(r"--gin\.([\w./]+)=(.*)", argument, re.DOTALL)
        if not match:
            raise SpotError(f"{argument} has no value; write --gin.NAME=VALUE without spaces")
        flags.append((argument, f"{match[1]} = {match[2]}"))
    return others, flags


def gin_flags(
    command: OneLineParser, arguments: Sequence[str], run: str = "prompt_tuning"
) -> tuple[argparse.Namespace, dict[str, list]]:
    """Parse a verb's own flags, and what `configurables.configured` takes from the rest.

    `--help` prints the settings of the run file too, and leaves.

    Args:
        command: parser of the verb.
        arguments: words typed after the verb.
        run: file in gin_configs/runs that a complaint about a missing one, or help, names.

    Returns:
        The verb's own flags, and arguments of `configurables.configured`.

    Raises:
        SpotError: no file of settings, or a flag that is malformed or unknown.
    """
    others, flags = split_gin(arguments)
    if {"-h", "--help"} & set(others):
        _print_help(command, others, run)
    values = command.parse_args(others)
    # A file of the user's own, or a run that goes on, brings the run file with it.
    if not values.gin_file and not any(getattr(values, name, None) for name in NO_RUN_FILE):
        raise SpotError(
            f"{command.prog} needs a run to do: add --gin_file=gin_configs/runs/{run}.gin, or "
            f"another file of gin_configs/runs; see {command.prog} --help"
        )
    lines = [(f"--gin_bindings={line!r}", line) for line in values.gin_bindings]
    paths = [path for group in values.gin_search_paths for path in group.split(",") if path]
    return values, {"files": values.gin_file, "flags": [*flags, *lines], "search_paths": paths}


def _print_help(command: OneLineParser, arguments: Sequence[str], run: str) -> NoReturn:
    """Print the flags of a command and the settings of the run files that are named, and leave."""
    rest = [word for word in arguments if word not in ("-h", "--help")]
    values = command.parse_known_args(rest)[0]

    from spot_jax.cli.settings_help import settings_help

    root = command.prog.split()[1]
    files = values.gin_file or ([f"gin_configs/runs/{run}.gin"] if root in OF_RUNS else [])
    paths = [path for group in values.gin_search_paths for path in group.split(",") if path]
    command.print_help()
    if files:
        print(f"\n{settings_help(root, files, paths)}")
    if not values.gin_file:
        print("\nthe settings of another file: --gin_file=FILE --help")
    raise SystemExit(0)


def add_seqio_flags(command: OneLineParser) -> None:
    """Add T5X's flags that say where seqio finds data."""
    group = command.add_argument_group("where seqio finds data, as in T5X")
    group.add_argument("--tfds_data_dir", metavar="DIR", help="prepared TFDS data sets")
    group.add_argument(
        "--seqio_additional_cache_dirs",
        action="append",
        default=[],
        metavar="DIRS",
        help="caches of tasks, comma-separated",
    )


def use_seqio_flags(values: argparse.Namespace) -> None:
    """Point seqio to the directories of `add_seqio_flags`; import it only where one is named."""
    caches = [d for group in values.seqio_additional_cache_dirs for d in group.split(",") if d]
    if values.tfds_data_dir or caches:
        from spot_jax.data import loading

        loading.set_directories(values.tfds_data_dir, caches)


def import_named(modules: Iterable[str], what: str) -> None:
    """Import modules that a user names; `SpotError` for one that cannot be.

    Args:
        modules: names of modules.
        what: words that name them, for the error.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except SpotError:
            raise
        except Exception as error:
            raise SpotError(
                f"{what} {module}: {type(error).__name__}: {fault_text(error)}; check its name and "
                "PYTHONPATH"
            ) from error
