"""The console command `spot VERB`: finds the verb, runs it, turns mistakes into one line."""

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spot_jax.cli.flags import OneLineParser
from spot_jax.cli.joining import end, join, lost_peer
from spot_jax.errors import SpotError, SpotWarning, missing_extra
from spot_jax.files.program_cache import keep_compiled
from spot_jax.version import __version__

VERBS = {
    "train": "tune a prompt (or a whole model) on a task; goes on where it stopped",
    "transfer": "tune a target from the prompts of a library that are most like it",
    "study": "sources x targets x seeds: what transfers to what; resumable; then the report",
    "intrinsic": "subspaces of prompts, and tasks tuned in them: E_rel over dimension and tasks",
    "report": "a study as one HTML page without network, its tables and its figures",
    "prompts": "a library of prompts: add, list, search, import, export",
    "eval": "metrics of a prompt on a split of a task",
    "infer": "predictions for lines of text or JSON, from a file or standard input",
    "serve": "the same over HTTP: many prompts behind one backbone, mixed in one batch",
    "plan": "whether a run fits on a TPU slice, and its time and cost; no TPU needed",
    "convert": "a T5 backbone from a T5X or Hugging Face checkpoint directory, and back",
    "data": "what a file of your own holds: labels, missing values, splits, lengths",
    "doctor": "why a run does not learn, and what to do",
    "tasks": "list the tasks that can be trained on",
    "demo": "the whole story in minutes, on what ships with the package",
    "completion": "a script that lets bash, zsh or fish complete all of this",
}

# Verbs that compile programs, and have nothing to show for some seconds. Studies keep what they
# compile beside their results, where their other processes find it.
LONG = ("train", "transfer", "study", "intrinsic", "eval", "infer", "serve", "demo")

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
PATH_ERRORS = (
    *(errno.ENOENT, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.EEXIST, errno.ELOOP),
)
# Packages whose errors are those of an object store.
BUCKET_CLIENTS = ("gcsfs", "s3fs", "aiobotocore", "botocore", "aiohttp")

BAD_INPUT = 2
PEER_LOST = 3
"""Exit code of a process that lost another one of its run."""
STOPPED = 130
"""Exit code of work that a signal stopped, whichever signal and however far it was."""
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
)


def help_text() -> str:
    """Return what `spot --help` prints."""
    verbs = "\n".join(f"  {verb:11}{line}" for verb, line in VERBS.items())
    return (
        "usage: spot VERB [...]\n\n"
        "Adapt one frozen T5 to many tasks with soft prompts.\n\n"
        f"{verbs}\n\n"
        "`spot VERB --help` says more about each. `spot --version` prints the version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0 for work that is finished, 2 for a mistake in the input, 130 for work that
        a signal stopped (Ctrl-C, SIGTERM, SIGHUP), which the same command goes on with, 3 if
        another process of several is gone.
    """
    with stoppable() as signals:
        return _main(argv, signals)


def _main(argv: Sequence[str] | None, signals: list[str]) -> int:
    # TensorFlow reads tasks only; its greeting helps nobody.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A user's own methods and tasks may lie where they work; what is installed comes first.
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        with plain_warnings():
            return _run(list(sys.argv[1:] if argv is None else argv))
    except SpotError as error:
        if lost := lost_peer(error):
            end(PEER_LOST, lost)
        return _complain(str(error))
    except KeyboardInterrupt as stop:
        return stopped(str(stop) or f"stopped by {signals[0] if signals else 'Ctrl-C'}")
    except BrokenPipeError:
        # The reader has gone (`spot infer | head`); a second write at exit would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if signals:  # one that came in the middle of an import, which says so in its own way
            return stopped(f"stopped by {signals[0]}")
        if lost := lost_peer(error):
            end(PEER_LOST, lost)
        mistake = disk_mistake(error) or missing_extra(error)
        if mistake is None:
            end(1, "".join(traceback.format_exception(error)).rstrip())
            raise
        return _complain(str(mistake))


def stopped(what: str) -> int:
    """Say on standard error what a signal stopped, and return the exit code for it."""
    print(f"spot: {what}; the same command goes on from what is saved", file=sys.stderr)
    return STOPPED


@contextlib.contextmanager
def stoppable() -> Iterator[list[str]]:
    """Within, a signal that ends processes is a KeyboardInterrupt, and a second one ends at once.

    Yields:
        The names of the signals that came, in order.
    """
    came: list[str] = []

    def stop(number: int, frame: Any) -> None:
        came.append(signal.Signals(number).name)
        if len(came) > 1:
            os._exit(STOPPED)
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup's wish stays
                before[number] = signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        print(f"spot-jax {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        OneLineParser(prog="spot").error(f"there is no command {verb!r}, but {', '.join(VERBS)}")
    try:
        if not join(verb, rest):
            return 0
        if verb in LONG and not {"-h", "--help"} & set(rest):
            if verb not in ("study", "intrinsic"):
                keep_compiled()
            if sys.stderr.isatty():
                print(
                    f"spot {verb}: loading JAX and what it needs ...", file=sys.stderr, flush=True
                )
        module = importlib.import_module(f"spot_jax.cli.{verb}")
        return int(module.main(rest) or 0)
    except SystemExit as leaving:  # argparse's way out after --help
        return int(leaving.code or 0)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print our own warnings as a line on standard error, each time; leave others as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", SpotWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, SpotWarning):
                print(f"spot: warning: {message}", file=sys.stderr)
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _complain(message: str) -> int:
    line = (message.strip().splitlines() or ["a mistake without a word"])[0]
    line = line if len(line) <= 1000 else line[:997] + "..."
    end(BAD_INPUT, line)
    print(f"spot: {line}", file=sys.stderr)
    return BAD_INPUT


def disk_mistake(error: BaseException) -> str | None:
    """Return one line for what a disk refused, however deep it is; None for other errors."""
    if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its rights"
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.partition(".")[0] in BUCKET_CLIENTS:
            reason = " ".join(str(cause).split())[:200] or type(cause).__name__
            return f"a bucket cannot be used: {reason}; check its name, your login and your rights"
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            where = f"{cause.filename}: " if cause.filename else "cannot write: "
            return f"{where}{cause.strerror}; free space or give another directory"
        # TensorStore reports the disk's words inside errors of its own.
        for number in DISK_ERRORS:
            if os.strerror(number) in str(cause):
                what = os.strerror(number)
                return f"cannot write: {what}; free space or give another directory"
        cause = cause.__cause__ or cause.__context__
    return None


if __name__ == "__main__":
    sys.exit(main())
