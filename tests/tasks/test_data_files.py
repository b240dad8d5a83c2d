"""Files in a directory: read as they are, refused with file and line; no seqio here."""

import json

import pytest

from spot_jax.errors import SpotError
from tasks.papers import data_files
from tasks.papers.data_files import Layout

PETS = Layout("pets", ("text",), "label", labels=("cat", "dog"), splits=("train",))
SCORES = Layout("pets", ("text",), "label", bounds=(0, 5), splits=("train",))
GOOD = [{"text": "it purrs", "label": "cat", "more": 1}, {"text": "", "label": "dog"}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(data_files.VARIABLE, str(tmp_path))
    (tmp_path / "pets").mkdir()
    return tmp_path / "pets"


def jsonl(folder, *rows):
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text)


def test_json_lines_and_tsv_hold_the_same(folder):
    jsonl(folder, *GOOD)
    rows = data_files.read(PETS, "train")
    assert rows == [{"text": "it purrs", "label": "cat"}, {"text": "", "label": "dog"}]
    (folder / "train.jsonl").unlink()
    (folder / "train.tsv").write_text('label\tid\ttext\r\ncat\t1\tit purrs\r\n\ndog\t2\t""\n')
    assert [row["text"] for row in data_files.read(PETS, "train")] == ["it purrs", '""']


def test_numbers_are_read_as_text(folder):
    jsonl(folder, {"text": 5, "label": 4.5})
    assert data_files.read(SCORES, "train") == [{"text": "5", "label": "4.5"}]


BROKEN = {
    "a missing key": ([GOOD[0], {"text": "x"}], r"train.jsonl:2: expected column 'label'.*text"),
    "a broken line": ([GOOD[0], '{"text": "x",\n'], r"train.jsonl:2: .*broken line"),
    "no object": ([[1]], r"train.jsonl:1: expected one JSON object"),
    "a list as text": ([{"text": ["x"], "label": "cat"}], r"train.jsonl:1: expected text or a"),
    "an unknown label": (
        [{"text": "x", "label": "cow"}],
        r"train.jsonl:1: .*cat, dog, found 'cow'",
    ),
    "an empty target": ([GOOD[0], {"text": "x", "label": " "}], r"train.jsonl:2: .*empty target"),
    "no example": (["\n"], r"expected examples in .*train.jsonl, found none"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json_lines_are_refused_with_file_and_line(folder, name):
    rows, message = BROKEN[name]
    jsonl(folder, *rows)
    with pytest.raises(SpotError, match=message) as caught:
        data_files.read(PETS, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["lots", "5.2", "-1", "nan"])
def test_a_number_outside_its_bounds_is_refused(folder, value):
    jsonl(folder, {"text": "x", "label": value})
    with pytest.raises(SpotError, match=f"train.jsonl:1: .*from 0 to 5, found '{value}'"):
        data_files.read(SCORES, "train")


def test_broken_tsv_is_refused_with_file_and_line(folder):
    path = folder / "train.tsv"
    path.write_text("text\tanswer\nx\tcat\n")
    with pytest.raises(SpotError, match=r"train.tsv:1: expected column 'label'.*text, answer"):
        data_files.read(PETS, "train")
    path.write_text("text\tlabel\nx\tcat\nx\ty\tcat\n")
    with pytest.raises(SpotError, match=r"train.tsv:3: expected 2 fields .*found 3"):
        data_files.read(PETS, "train")
    path.write_bytes(b"text\tlabel\n\xff\xfe\tcat\n")
    with pytest.raises(SpotError, match=r"train.tsv:2: expected text in UTF-8"):
        data_files.read(PETS, "train")


def test_an_absent_file_says_where_it_was_looked_for_and_the_layout(folder, monkeypatch):
    with pytest.raises(SpotError, match=r"pets/train.jsonl or train.tsv.*text, and label: one of"):
        data_files.read(PETS, "train")
    monkeypatch.delenv(data_files.VARIABLE)
    with pytest.raises(SpotError, match=r"export SPOT_DATA_DIR="):
        data_files.read(PETS, "train")
