"""Several processes at one library, and one that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from library_cases import BACKBONE, make_pair, make_prompt

from spot_jax.library.library import Library

ADD = """
import sys
sys.path.insert(0, {cases!r})
from library_cases import make_pair
from spot_jax.library.library import Library

library = Library({root!r})
print("ready", flush=True)
sys.stdin.readline()
for i in range({first}, {last}):
    library.add(*make_pair(f"task{{i}}", shape={shape}))
    if i % 50 == 0:
        library.rank(make_pair()[1].prompt, backbone="a" * 64, force=True)
"""


def start(root, first, last, shape=(5, 8)):
    cases = str(Path(__file__).parents[1])
    code = ADD.format(cases=cases, root=str(root), first=first, last=last, shape=shape)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)


def go(children):
    for child in children:
        assert child.stdout.readline() == b"ready\n", child.stderr.read().decode()
    for child in children:
        child.stdin.write(b"\n")
        child.stdin.flush()


def test_two_processes_that_add_200_each_end_with_400(tmp_path):
    root = tmp_path / "library"
    children = [start(root, 0, 200), start(root, 200, 400)]
    go(children)
    for child in children:
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0 and not err, err.decode()
    library = Library(root)
    assert len(library.entries()) == 400 and library.verify() == []
    assert len(library.rank(make_prompt(step=20).prompt, backbone=BACKBONE)) == 400
    assert {entry.task for entry in library.entries()} == {f"task{i}" for i in range(400)}


@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_a_writer_that_is_killed_leaves_a_library_that_verifies(tmp_path, seconds):
    root = tmp_path / "library"
    child = start(root, 0, 100_000, shape=(100, 64))
    go([child])
    while not (root / "prompts").exists():
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    library = Library(root)
    assert library.verify() == []
    before = len(library.entries())
    library.add(*make_pair("after"))
    assert len(library.entries()) == before + 1


def test_killed_between_the_bytes_and_the_name(tmp_path):
    """The worst moment, made to happen: all is written, nothing is in its place."""
    code = (
        "import os, signal, sys; from etils import epath\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from library_cases import make_pair; from spot_jax.library.library import Library\n"
        "kind = type(epath.Path('/'))\n"
        "kind.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Library({str(tmp_path / 'library')!r}).add(*make_pair())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    [part] = (tmp_path / "library" / "prompts").iterdir()
    assert part.name.endswith(".part") and part.stat().st_size > 0
    library = Library(tmp_path / "library")
    assert library.verify() == [] == library.entries()
    library.add(*make_pair())
    assert len(library.entries()) == 1
