"""The command `spot`: light to start, plain about mistakes."""

import errno
import subprocess
import sys
import types

import pytest

from spot_jax.cli import main as spot
from spot_jax.cli.main import main
from spot_jax.errors import SpotError

HEAVY = ("jax", "flax", "numpy", "tensorflow", "seqio", "gin")


@pytest.fixture
def verb(monkeypatch):
    """Puts a function in the place of `spot tasks`."""

    def put(run):
        module = types.SimpleNamespace(main=run)
        monkeypatch.setitem(sys.modules, "spot_jax.cli.tasks", module)

    return put


def raising(error):
    def run(arguments):
        raise error

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_verb(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in spot.VERBS)


@pytest.mark.parametrize("name", [name for name in spot.VERBS if name != "demo"])
def test_help_of_a_verb(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"spot {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["convert", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    heavy = HEAVY if arguments == ["--help"] else [name for name in HEAVY if name != "gin"]
    code = (
        "import sys; from spot_jax.cli.main import main\n"
        f"main({arguments!r}); sys.exit(','.join(set({list(heavy)!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_importing_the_package_imports_neither_jax_nor_tensorflow():
    code = "import sys, spot_jax; sys.exit(','.join({'jax', 'tensorflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_an_unknown_verb(capsys):
    assert main(["trian"]) == 2
    err = capsys.readouterr().err
    assert "'trian'" in err and "train" in err and err.count("\n") == 1


def test_an_unknown_flag_is_one_line(capsys):
    assert main(["convert", "--dtyp", "float32", "a", "b"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("spot: ") and err.count("\n") == 1


def test_a_mistake_is_one_line_and_2(verb, capsys):
    verb(raising(SpotError("expected a\nfound b")))
    assert main(["tasks"]) == 2
    assert capsys.readouterr() == ("", "spot: expected a\n")


def test_an_interrupt_is_130(verb):
    verb(raising(KeyboardInterrupt()))
    assert main(["tasks"]) == 130


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "/data/run"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/run"),
        ValueError("RESOURCE_EXHAUSTED: writing failed [OS error 28: No space left on device]"),
    ],
)
def test_what_a_disk_refuses_is_one_line_and_2(verb, capsys, error):
    verb(raising(error))
    assert main(["tasks"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert getattr(error, "filename", None) is None or error.filename in err


def test_a_full_disk_below_another_error(verb):
    outer = RuntimeError("save failed")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    verb(raising(outer))
    assert main(["tasks"]) == 2


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("no number"), KeyError("x")])
def test_a_bug_keeps_its_traceback(verb, error):
    verb(raising(error))
    with pytest.raises(type(error)):
        main(["tasks"])


def test_convert_refuses_what_is_no_checkpoint(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def ships(name):
    """Whether a task, not a mixture, reads its data through our package of tasks."""
    import seqio

    from spot_jax.data.templates import base_of

    task = seqio.get_mixture_or_task(name)
    source = getattr(task, "source", None)
    reader = getattr(source, "_dataset_fn", None) or type(source)
    reader = getattr(reader, "func", reader)  # of a partial
    return reader.__module__.split(".")[0] == "tasks" and base_of(name) is None


def test_tasks_lists_what_ships(capsys):
    from spot_jax.shipped import NAMES

    assert main(["tasks"]) == 0
    listed = capsys.readouterr().out.split()
    assert "bundled_sms_spam" in listed
    # `spot tasks > tasks/names.txt` writes the file anew; tests register tasks of their own.
    named = set(NAMES.read_text("utf-8").split())
    assert named <= set(listed)
    assert not [name for name in set(listed) - named if ships(name)]


@pytest.mark.slow
def test_the_names_that_ship_are_those_of_their_file():
    from spot_jax.shipped import NAMES

    command = [sys.executable, "-m", "spot_jax.cli.main", "tasks"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == NAMES.read_text("utf-8")


@pytest.mark.parametrize(
    ("verb", "argument", "complaint"),
    [
        ("train", "--gin_file=none.gin", "no gin file none.gin"),
        ("eval", "--beams=0", "--beams is at least 1"),
        ("infer", "--beams=0", "--beams is at least 1"),
    ],
)
def test_python_m_spot_jax_verb_is_the_verb(verb, argument, complaint):
    command = [sys.executable, "-m", f"spot_jax.{verb}", argument]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and complaint in done.stderr
