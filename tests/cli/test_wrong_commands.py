"""500 wrong commands made from the run files' own settings: one line, exit 2, nothing compiled.

python tests/cli/test_wrong_commands.py 500      # prints what is not refused so
"""

import contextlib
import dataclasses
import io
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spot_jax.cli.gin_files import INSTALLED, read
from spot_jax.cli.main import main

SEED = 15
RUNS = sorted((INSTALLED / "gin_configs" / "runs").glob("*.gin"))
# Settings that every run file leaves to the user, right ones.
RIGHT = {
    "MODEL_DIR": "'{work}/run'",
    "INITIAL_CHECKPOINT_PATH": "'backbones/mini'",
    "MIXTURE_OR_TASK_NAME": "'bundled_vader_tweets'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 4}",
}
# Values that are of no setting's type, or of none's range.
TYPES = ("object()", "{'a': {'b': 1}}", "[[]]", "b'x'", "lambda: 1", "(1, 'a', None)")
NUMBERS = ("-1", "-0.5", "1e400", "float('nan')", "10**30", "True", "'x'", "[]", "-10**9", "{}")
TEXTS = ("''", "3", "1.5", "True", "['a', 3]", "{}", "'\\x00'", "-1")
PATHS = ("'/nowhere/at/all'", "''", "'\\x00'", "'/dev/null'", "'gs:///x'", "'nope://x'", "3")


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A command that makes no sense.

    Attributes:
        kind: kind of mistake.
        arguments: words after `spot`.
    """

    kind: str
    arguments: tuple[str, ...]


def _right(names: set[str], work: Path) -> dict[str, str]:
    return {n: v.replace("{work}", str(work)) for n, v in RIGHT.items() if n in names}


def _command(run: Path, settings: dict[str, str]) -> tuple[str, ...]:
    return (
        "train",
        f"--gin_file={run.relative_to(INSTALLED)}",
        *(f"--gin.{name}={value}" for name, value in settings.items()),
    )


def _wrong_value(name: str, value: Any, draw: np.random.Generator) -> tuple[str, str]:
    """A kind and a value that this setting cannot have."""
    some = draw.integers
    if name in ("INITIAL_CHECKPOINT_PATH", "SOURCE_PROMPT", "SUBSPACE"):
        return "paths", PATHS[int(some(len(PATHS)))]
    if name == "MODEL_DIR":
        return "paths", ("''", "'\\x00'", "'/dev/null/x'", "3", "['a']", "None")[int(some(6))]
    if name == "TASK_FEATURE_LENGTHS":
        lengths = (
            *("{'inputs': '16', 'targets': 4}", "{'inputs': 16.0, 'targets': 4}", "{}", "[16, 4]"),
            *("{'inputs': 0, 'targets': 4}", "{'inputs': 16}", "{'inputs': 10**9, 'targets': 4}"),
            *("{'inputs': 16, 'targets': 4, 'other': 1}", "16", "None", "{'inputs': -1}"),
        )
        return "range", lengths[int(some(len(lengths)))]
    if name in ("MIXTURE_OR_TASK_NAME",):
        return "unknown", ("'no_such_task'", "''", "3", "[]", "['bundled_vader_tweets', 3]")[
            int(some(5))
        ]
    if isinstance(value, bool):
        return "type", ("'yes'", "1.5", "'True'", "[]", "None", "2")[int(some(6))]
    if isinstance(value, int | float):
        return "range", NUMBERS[int(some(len(NUMBERS)))]
    if isinstance(value, str):
        return "type", TEXTS[int(some(len(TEXTS)))]
    return "type", TYPES[int(some(len(TYPES)))]


def commands(count: int, seed: int, work: Path) -> list[Wrong]:
    """Make wrong commands, the same for the same seed."""
    draw = np.random.default_rng(seed)
    wrong = []
    for number in range(count):
        run = RUNS[int(draw.integers(len(RUNS)))]
        macros = read([str(run.relative_to(INSTALLED))]).macros
        values = {name: binding.value for name, binding in macros.items()}
        settings = _right(set(values), work / str(number))
        name = sorted(values)[int(draw.integers(len(values)))]
        kind = int(draw.integers(8))
        if kind == 0:
            settings[name + "S"] = "3"
            wrong.append(Wrong("unknown", _command(run, settings)))
        elif kind == 1:
            # What the file gives a value itself may be left out.
            left_open = sorted(n for n in settings if not isinstance(values[n], str | dict))
            settings.pop(left_open[int(draw.integers(len(left_open)))])
            wrong.append(Wrong("missing", _command(run, settings)))
        elif kind == 2:
            settings[name] = ("'", "[1", "{", "not python", "%NOTHING", "@nothing()")[
                int(draw.integers(6))
            ]
            wrong.append(Wrong("syntax", _command(run, settings)))
        elif kind == 3:
            selector = ("train.stepz", "Adafactor.rate", "NoSuch.x", "DataSource.bathc_size")
            settings[selector[int(draw.integers(4))]] = "1"
            wrong.append(Wrong("unknown", _command(run, settings)))
        else:
            what, settings[name] = _wrong_value(name, values[name], draw)
            wrong.append(Wrong(what, _command(run, settings)))
    return wrong


class CompiledError(BaseException):
    """Raised where JAX would compile."""


def refuse_to_compile(monkeypatch: Any) -> None:
    """Let nothing be compiled: neither a step, nor an evaluation."""
    from jax._src import compiler

    def compiled(*arguments: Any, **options: Any) -> Any:
        raise CompiledError

    monkeypatch.setattr(compiler, "compile_or_get_cached", compiled)


def fault_of(wrong: Wrong) -> str | None:
    """What is not as it should be with a command; None if it is refused in one line."""
    out, err = io.StringIO(), io.StringIO()
    start = time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(wrong.arguments)
    except CompiledError:
        return "compiled"
    except BaseException:
        return f"exception {traceback.format_exc().splitlines()[-1]}"
    seconds, lines = time.monotonic() - start, err.getvalue().splitlines()
    ours = [line for line in lines if line.startswith("spot: ")]
    if code != 2:
        return f"exit {code}"
    if len(ours) != 1 or lines[-1] != ours[0] or out.getvalue():
        return f"said {lines[-3:]}"
    return f"{seconds:.0f} s" if seconds > 5 * float(os.environ.get("SLOWER", "1")) else None


@pytest.mark.slow
def test_of_500_wrong_commands_498_are_refused_in_one_line(tmp_path, monkeypatch):
    refuse_to_compile(monkeypatch)
    main(("tasks", "list"))  # what is imported once does not count
    faults = [fault for wrong in commands(500, SEED, tmp_path) if (fault := fault_of(wrong))]
    assert len(faults) <= 2, faults


def test_wrong_commands_are_refused_in_one_line(tmp_path, monkeypatch):
    refuse_to_compile(monkeypatch)
    for wrong in commands(12, SEED + 1, tmp_path):
        if wrong.kind not in ("paths", "unknown"):  # these are looked up, which takes imports
            assert fault_of(wrong) is None, wrong


if __name__ == "__main__":
    import tempfile

    patch = pytest.MonkeyPatch()
    refuse_to_compile(patch)
    with tempfile.TemporaryDirectory() as directory:
        count, bad = int(sys.argv[1]), 0
        fault_of(Wrong("", ("tasks", "list")))
        for wrong in commands(count, SEED, Path(directory)):
            fault = fault_of(wrong)
            if fault:
                bad += 1
                print(f"{wrong.kind}: {fault}\n    {' '.join(wrong.arguments)}", flush=True)
        print(f"{bad} of {count} not refused in one line")
