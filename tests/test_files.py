"""Files of ours: whole or not there, whoever else writes; formats, names and tables."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spot_jax.errors import SpotError
from spot_jax.files import aligned, read_versioned, slug, unique_slug, write_json, write_whole

WRITER = """
import sys
from spot_jax.files import write_whole
for number in range(200):
    write_whole(sys.argv[1], sys.argv[2] * 20_000)
"""


@pytest.mark.parametrize("content", [b"abc", "abc", lambda file: file.write(b"abc")])
def test_a_file_is_written_with_its_directory_and_nothing_stays_beside_it(tmp_path, content):
    path = tmp_path / "new" / "file"
    for durable in (False, True):
        write_whole(path, content, durable=durable)
        assert path.read_bytes() == b"abc"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "file"
    write_whole(path, "whole")
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_processes_that_write_one_file_leave_one_of_theirs_whole(tmp_path):
    path = tmp_path / "file"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter]) for letter in "abcd"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0] * 4
    assert seen <= {letter * 20_000 for letter in "abcd"} and list(tmp_path.iterdir()) == [path]


def test_a_bucket_gets_the_object_under_its_own_name_alone(monkeypatch):
    from etils.epath import backend, gpath
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        store: dict = {}
        pseudo_dirs = [""]

    files = Bucket(skip_instance_cache=True)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(backend._FileSystemSpecBackend, "fs", lambda self, path: files)
    written = []
    monkeypatch.setattr(files, "open", _noting(files.open, written))
    write_json("gs://team/study/file.json", {"format": 1, "n": 3})
    assert written == ["gs://team/study/file.json"]
    assert read_versioned("gs://team/study/file.json", 1, dict, "") == {"n": 3}


def _noting(call, written):
    def noted(path, mode="rb", **options):
        if "w" in mode:
            written.append(os.fspath(path))
        return call(path, mode, **options)

    return noted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 2}', "written by a newer spot-jax"),
        ('{"format": 1', "is damaged .*; take another"),
        ("[1]", "is damaged .*; take another"),
        ('{"n": 1}', "is damaged .*; take another"),
        ('{"format": 1}', "is damaged .*'n'.*; take another"),
        ("[" * 200_000, "is damaged .*nested too deeply.*; take another"),
    ],
)
def test_a_file_that_is_not_of_its_format_is_refused(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(SpotError, match=message) as refused:
        read_versioned(path, 1, lambda fields: fields["n"], "take another")
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_versioned(tmp_path / "file.json", 1, dict, "") is None


def test_slugs_are_names_of_files_and_differ_where_texts_do():
    assert slug("glue/mnli v2: a+b_1") == "glue-mnli-v2-a+b_1"
    assert unique_slug("task_1+task.2") == "task_1+task.2"
    names = {unique_slug(text) for text in ("a/b", "a b", "a-b", "x" * 70, "x" * 71)}
    assert len(names) == 5 and all(re.fullmatch(r"[\w.+-]{1,67}", name) for name in names)


def test_words_begin_and_numbers_end_under_one_another():
    assert aligned([["task", "n", "kind"], ["a", "10", "b"]], left=(0, 2)) == [
        "task   n  kind",
        "a     10  b",
    ]
    assert aligned([]) == []


def test_there_is_one_way_to_write_a_file():
    """No other module of ours moves a part of a file into place."""
    import spot_jax

    package = Path(spot_jax.__file__).parent
    odd = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\.part[\"']|newer spot-jax|\.ljust\(", path.read_text())
        and path.parent != package / "files"
    ]
    assert odd == []


def test_json_is_written_for_people_too(tmp_path):
    write_json(tmp_path / "file.json", {"a": [1]})
    text = (tmp_path / "file.json").read_text()
    assert text.endswith("}\n") and text.count("\n") > 2 and json.loads(text) == {"a": [1]}


def test_a_line_does_not_repeat_a_damaged_value_at_length():
    line = str(SpotError(f"{'d/' * 400}run.json: {'x' * 5000} is no length; give 1 or more"))
    assert line.startswith("d/d/") and "d/run.json: xxx" in line
    assert line.endswith("xxx is no length; give 1 or more") and len(line) < 1100
    assert "[4920 characters]" in line
