"""The index is derived: whatever happens to it, a search comes out the same."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from library_cases import BACKBONE, OTHER, fill, make_pair, make_prompt

from spot_jax.library import entry as library_entry
from spot_jax.library import index as library_index
from spot_jax.library.library import Library, LibraryWarning
from spot_jax.library.similarity import METRICS

TARGET = make_prompt("boolq", step=20).prompt


@pytest.fixture
def root(tmp_path):
    return Path(fill(Library(tmp_path / "library")).directory)


def ranked(root, **options):
    return Library(root).rank(TARGET, **{"backbone": BACKBONE, **options})


@pytest.fixture
def reads(monkeypatch):
    """Ids of the prompt files that were opened."""
    seen = []
    read = Library._read
    monkeypatch.setattr(Library, "_read", lambda self, id: seen.append(id) or read(self, id))
    return seen


def test_a_prompt_is_read_once_for_all(root, reads):
    ranked(root)
    assert len(reads) == 6
    for metric in METRICS:
        ranked(root, metric=metric)
    Library(root).entries()
    assert len(reads) == 6


def test_adding_one_reads_one(root, reads):
    library = Library(root)
    library.rank(TARGET, backbone=BACKBONE)
    reads.clear()
    for reader in (library, Library(root)):
        new = reader.add(*make_pair("rte", seed=len(reads))).id
        assert new in {m.entry.id for m in reader.rank(TARGET, backbone=BACKBONE)}
        assert reads[-1] == new
    assert len(reads) == 2
    assert len(Library(root).rank(TARGET, backbone=BACKBONE, metric="average_tokens")) == 8
    assert len(reads) == 2


@pytest.mark.parametrize("change", ["dtype", "shape"])
def test_numbers_read_as_others_are_damage(root, change):
    """The same bytes as whole numbers, or in other rows, are not what was written."""
    before = [(m.entry.id, m.similarity) for m in ranked(root)]
    (path,) = (root / "index").glob("*-per_token.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if change == "dtype":
        header["signatures"]["dtype"] = "I32"
    else:
        rows, width = header["signatures"]["shape"]
        header["signatures"]["shape"] = [rows // 2, width * 2]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.warns(LibraryWarning, match="is damaged .its signatures are"):
        after = [(m.entry.id, m.similarity) for m in ranked(root)]
    assert after == before


@pytest.mark.parametrize("fault", ["a directory", "no rights"])
def test_one_bad_entry_leaves_the_others(root, fault):
    bad = sorted((root / "prompts").glob("*.safetensors"))[0]
    bad.unlink()
    shutil.rmtree(root / "index", ignore_errors=True)
    bad.mkdir()
    if fault == "no rights":
        bad.chmod(0)
    with pytest.warns(LibraryWarning, match="left out: .*cannot be read"):
        entries = Library(root).entries()
    assert len(entries) == 5 and bad.stem not in {entry.id for entry in entries}
    assert any("cannot be read" in line for line in Library(root).verify())
    bad.chmod(0o700)


def test_one_vector_an_entry_and_metric(root):
    ranked(root)
    names = sorted(path.name for path in (root / "index").iterdir())
    stem = f"{BACKBONE[:12]}-8"
    tables = [f"{stem}-average_tokens.safetensors", f"{stem}-per_token.safetensors"]
    assert names == [*tables, "entries.jsonl"]
    from safetensors.numpy import load_file

    for table in tables:
        [array] = load_file(root / "index" / table).values()
        assert array.shape == (6, 8) and array.dtype == np.float32


def test_what_another_writer_adds_is_seen_without_asking(root):
    library = Library(root)
    assert len(library.rank(TARGET, backbone=BACKBONE)) == 6
    Library(root).add(*make_pair("rte"))
    assert len(library.rank(TARGET, backbone=BACKBONE)) == 7
    # Also where the directory's time of change is too coarse to tell.
    stamp = (root / "prompts").stat().st_mtime_ns
    Library(root).add(*make_pair("wic"))
    os.utime(root / "prompts", ns=(stamp, stamp))
    assert len(library.rank(TARGET, backbone=BACKBONE)) == 8


def test_an_old_directory_is_not_listed_again(root, monkeypatch):
    os.utime(root / "prompts", (1e9, 1e9))
    library = Library(root)
    library.rank(TARGET, backbone=BACKBONE)
    monkeypatch.setattr(library_index, "list_prompts", None)
    assert len(library.rank(TARGET, backbone=BACKBONE)) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.replace(b'"format', b'"fromat').replace(b'\\"format', b'\\"fromat'),
        lambda data: b'{"format": 1}\n{}\n',
    ],
)
@pytest.mark.parametrize("file", ["entries.jsonl", "per_token"])
def test_a_damaged_index_is_made_again(root, file, damage):
    expected = ranked(root)
    [path] = [p for p in (root / "index").iterdir() if file in p.name]
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.warns(LibraryWarning, match=f"index file .*{file}.* is damaged") as warned:
        assert ranked(root) == expected
    assert len(warned) == 1
    assert path.read_bytes() == good
    assert ranked(root) == expected  # and nothing is said


def test_an_index_without_some_of_its_files(root):
    expected = ranked(root)
    for path in list((root / "index").iterdir()):
        path.unlink()
        assert ranked(root) == expected
    shutil.rmtree(root / "index")
    assert ranked(root) == expected


def test_an_index_of_another_time(root, tmp_path):
    """An older copy of the index: entries that have gone, entries that it does not know."""
    ranked(root)
    shutil.copytree(root / "index", tmp_path / "old")
    library = Library(root)
    library.remove("squad-s1")
    library.add(*make_pair("rte"))
    library.add(*make_pair("other", backbone=OTHER))
    expected = library.rank(TARGET, backbone=BACKBONE)
    shutil.rmtree(root / "index")
    shutil.copytree(tmp_path / "old", root / "index")
    ranking = ranked(root)
    assert ranking == expected and ranking.notes == expected.notes
    assert ranked(root, metric="average_tokens") == library.rank(
        TARGET, backbone=BACKBONE, metric="average_tokens"
    )


def test_a_group_that_is_no_more(root):
    other = Library(root).add(*make_pair("other", backbone=OTHER))
    assert ranked(root).notes
    assert len(list((root / "index").glob(f"{OTHER[:12]}-*"))) == 2
    Library(root).remove(other.id)
    assert ranked(root).notes == []
    assert not list((root / "index").glob(f"{OTHER[:12]}-*"))


def test_a_library_that_cannot_be_written_is_searched_all_the_same(root, monkeypatch):
    expected = ranked(root)
    shutil.rmtree(root / "index")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    for name in ("write_lines", "write_signatures"):
        monkeypatch.setattr(library_index, name, refuse)
    library = Library(root)
    with pytest.warns(LibraryWarning, match="cannot be written .*Permission denied") as warned:
        assert library.rank(TARGET, backbone=BACKBONE) == expected
    assert len(warned) == 1
    reads = []
    monkeypatch.setattr(library._index, "_read", reads.append)
    library.rank(TARGET, backbone=BACKBONE, metric="average_tokens")
    assert reads == []  # what could not be written is kept in memory


def test_an_embedding_that_became_zero_is_ranked_by_no_one(root):
    prompt, embedding = make_pair("zero")
    embedding.prompt[:] = 0
    id, data = library_entry.encode(prompt, embedding, ["zero"])
    (root / "prompts" / f"{id}.safetensors").write_bytes(data)
    for _ in range(2):
        ranking = ranked(root)
        assert len(ranking) == 6
        assert ranking.notes == ["left out: 1 whose task embedding is zero or could not be read"]


def test_a_signature_that_cannot_be_read_now_is_not_written_off(root):
    ranked(root)
    [table] = (root / "index").glob("*per_token*")
    table.unlink()
    victim = next((root / "prompts").glob("squad-s1*"))
    whole = victim.read_bytes()
    victim.write_bytes(b"x" * len(whole))
    with pytest.warns(LibraryWarning, match="left out: .*squad-s1"):
        assert len(ranked(root)) == 5
    victim.write_bytes(whole)
    assert len(ranked(root)) == 6


def test_entries_hold_json_s_types_only(root):
    ranked(root)
    head, *lines = (root / "index" / "entries.jsonl").read_text().splitlines()
    assert json.loads(head)["format"] == 1 and len(lines) == 6
    assert "path" not in json.loads(lines[0])
