"""Files of rows as tasks: what is read, refused, counted, and how rows are split."""

import csv
import io
import json
import random

import pytest
from tiny_text import VOCABULARY

from spot_jax.data import loading
from spot_jax.data.table import Table, open_table, restore
from spot_jax.data.table.description import is_table
from spot_jax.data.table.lengths import measure
from spot_jax.data.table.reading import read_rows, rows_of_frame
from spot_jax.data.table.splitting import bounds_of, place_of, split_of
from spot_jax.data.table.summary import summary
from spot_jax.errors import SpotError, SpotWarning
from spot_jax.t5.vocabulary import EOS, Vocabulary

WORDS = ("order", "refund", "invoice", "password", "printer", "late", "broken", "please", "help")
QUEUES = ("billing", "shipping", "technical")


def tickets(number: int = 120) -> list[dict[str, str]]:
    draw = random.Random(0)
    rows = []
    for i in range(number):
        words = draw.choices(WORDS, k=4)
        subject = f"{' '.join(words[:2])} {i}"
        rows.append({"subject": subject, "body": " ".join(words), "queue": QUEUES[i % 3]})
    return rows


def write_csv(path, rows, **options) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode())
    return str(path)


@pytest.fixture
def file(tmp_path) -> str:
    return write_csv(tmp_path / "tickets.csv", tickets())


def texts(task, split) -> list[str]:
    return [item.text for item in task.items(split)]


# Reading


def test_csv_with_quotes_line_ends_in_cells_a_mark_and_crlf(tmp_path):
    raw = b'\xef\xbb\xbfid,text,label\r\n1,"a ""b"", c\r\nd",x\r\n\r\n2,NA,\r\n'
    path = tmp_path / "a.csv"
    path.write_bytes(raw)
    rows = read_rows(path)
    assert rows.columns == ("id", "text", "label")
    assert rows.rows == [
        {"id": "1", "text": 'a "b", c\r\nd', "label": "x"},
        {"id": "2", "text": "NA", "label": ""},
    ]
    assert "byte-order mark" in rows.form


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    path = write_csv(tmp_path / "a.csv", tickets(3), delimiter=delimiter)
    assert read_rows(path).columns == ("subject", "body", "queue")
    assert repr(delimiter) in read_rows(path).form


def test_utf_16_as_spreadsheets_write_it(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("text\tlabel\nÜber\tx\n".encode("utf-16"))
    assert read_rows(path).rows == [{"text": "Über", "label": "x"}]


def test_all_forms_hold_the_same_rows(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    rows = tickets(5)
    table = arrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "a.arrow")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    write_csv(tmp_path / "a.csv", rows)
    write_csv(tmp_path / "a.tsv", rows, delimiter="\t")
    for ending in ("parquet", "arrow", "jsonl", "json", "csv", "tsv"):
        assert read_rows(tmp_path / f"a.{ending}").rows == rows, ending
    assert rows_of_frame(table).rows == rows_of_frame(rows).rows == rows


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("a.csv", "text,label\na,x\n".encode("utf-16-le"), "line 1 holds a NUL"),
        ("a.csv", b"text,label\na,x\nb\0,y\n", "line 3 holds a NUL"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', "line 1 .*the field 'text' twice"),
        ("a.jsonl", b'{"\\ud83d": "a"}\n', "half a surrogate pair"),
        ("a.parquet", b"PAR1 PAR1", "no parquet file"),
        ("a.arrow", b"\xff\xff\xff\xff\xff\xff\xff\x7f", "no arrow file"),
    ],
)
def test_what_is_no_text_is_one_line(name, raw, expected, tmp_path):
    if name.endswith(("parquet", "arrow")):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(SpotError, match=expected) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_directory_that_datasets_saved(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc

    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    schema = arrow.schema(
        [("text", arrow.string()), ("label", arrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split, size in (("train", 20), ("validation", 6)):
        directory = tmp_path / "set" / split
        directory.mkdir(parents=True)
        values = [[f"{split} {i}" for i in range(size)], [i % 2 for i in range(size)]]
        with ipc.new_stream(str(directory / "data-0.arrow"), schema) as stream:
            stream.write_table(arrow.table(values, schema=schema))
        state = {"_data_files": [{"filename": "data-0.arrow"}]}
        (directory / "state.json").write_text(json.dumps(state))
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    task = open_table(str(tmp_path / "set"))
    assert task.labels == ("no", "yes")
    assert [len(items) for items in task.splits.values()] == [20, 6, 0]
    with pytest.raises(SpotError, match=r"a split of .* \(train, validation\), found 'test'"):
        task.items("test")


def test_numbers_dates_and_missing_values_become_text():
    rows = rows_of_frame([{"a": 1.0, "b": None, "c": True}, {"a": 2.5, "b": float("nan")}])
    assert rows.rows == [{"a": "1", "b": "", "c": "true"}, {"a": "2.5", "b": "", "c": ""}]


# Bad input


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.csv", b"1,my order,billing\n2,help,tech\n", "names of columns in the first line.*'1'"),
        ("a.csv", b"text,text\na,b\n", "two columns 'text'"),
        (
            "a.csv",
            b"text,label\na,b\nc\n",
            "line 3: expected 2 cells as in the first line, found 1",
        ),
        ("a.csv", b'text,label\n"a\nb"\n"c"d,e\n', "the row that begins on line 4 cannot be read"),
        (
            "a.csv",
            b"text,label\n\xc3\xbc,b\n\xfc,c\n",
            "line 3: expected text in UTF-8, found byte",
        ),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"", "is empty"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b'["a"]\n', "line 1: expected a JSON object, found list"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        ("a.parquet", b"text,label\n", "no parquet file, or a damaged one"),
        ("a.xls", b"", "expected a file .csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(SpotError, match=message) as error:
        read_rows(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_file_without_header_or_in_another_encoding_is_read_when_that_is_said(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("1;Grüße;x\n2;Maß;y\n".encode("cp1252"))
    rows = read_rows(path, columns=("id", "text", "label"), encoding="cp1252")
    assert [row["text"] for row in rows.rows] == ["Grüße", "Maß"]
    with pytest.raises(SpotError, match="expected 2 cells as in the columns named, found 3"):
        read_rows(path, columns=("id", "text"), encoding="cp1252")


def test_a_missing_file_is_one_line():
    with pytest.raises(SpotError, match="cannot read none.csv: No such file"):
        open_table("none.csv?text=a&label=b")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("?text=subject&label=quue", "no column 'quue' \\(did you mean 'queue'\\?\\)"),
        ("?text=subject", "which column .* is the label\\? It has subject, body, queue"),
        ("?label=queue", "which columns .* are text\\? Beside queue it has subject, body"),
        ("?text=queue&label=queue", "cannot be text as well"),
        ("?text=body&lable=queue", "no setting 'lable' .*did you mean label"),
        ("?text=body&label=queue&kind=regression", "expected numbers in queue"),
        ("?template={sbject}&label=queue", "no column 'sbject'"),
        ("?text=body&label=queue&split=subject", "expected train, validation or test"),
    ],
)
def test_a_description_that_does_not_fit_is_one_line(file, name, message):
    with pytest.raises(SpotError, match=message) as error:
        open_table(file + name)
    assert "\n" not in str(error.value)


# What the target is


def kind_of(tmp_path, labels) -> str:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    return open_table(write_csv(tmp_path / f"{random.random()}.csv", rows)).table.kind


def test_the_kind_of_target_follows_from_the_labels(tmp_path):
    assert kind_of(tmp_path, ["yes", "no"] * 20) == "classification"
    assert kind_of(tmp_path, ["1", "2", "5"] * 20) == "classification"  # numbers with a gap
    assert kind_of(tmp_path, [f"{i / 7:.2f}" for i in range(40)]) == "regression"
    assert kind_of(tmp_path, [str(i) for i in range(100)]) == "regression"
    assert kind_of(tmp_path, [f"answer {i}" for i in range(1000)] * 2) == "generation"


def test_one_label_and_dates_are_refused(tmp_path):
    with pytest.raises(SpotError, match="'yes' in all rows"):
        kind_of(tmp_path, ["yes"] * 20)
    with pytest.raises(SpotError, match="holds dates"):
        kind_of(tmp_path, [f"2024-01-{i + 1:02d}" for i in range(28)] * 10)


def test_each_kind_has_its_metrics_and_numbers_are_written_short(tmp_path):
    rows = [{"text": f"text {i}", "label": f"{i / 7:.7f}"} for i in range(60)]
    task = open_table(write_csv(tmp_path / "numbers.csv", rows))
    assert [metric.__name__ for metric in task.metrics] == ["pearson_corrcoef", "spearman_corrcoef"]
    item = task.items("train")[0]
    assert float(item.target) == pytest.approx(float(item.gold), rel=1e-3)
    assert len(item.target) < len(item.gold)
    rows = [{"text": f"text {i}", "label": f"answer {i} " + "word " * 20} for i in range(60)]
    task = open_table(write_csv(tmp_path / "long.csv", rows))
    assert [metric.__name__ for metric in task.metrics] == ["rouge"]


# Splits


def test_splits_share_no_text_and_hold_every_label_in_its_share():
    rows = [f"Text  {i}" for i in range(600)]
    labels = ["rare" if i % 10 == 0 else "common" for i in range(600)]
    bounds = bounds_of(rows, labels)
    for label, size in (("rare", 60), ("common", 540)):
        labelled = [text for text, each in zip(rows, labels, strict=True) if each == label]
        splits = [split_of(text, label, bounds) for text in labelled]
        assert splits.count("validation") == splits.count("test") == size / 10
    # A text is the same but for case and spaces.
    assert place_of("text 7") == place_of("Text  7")


def test_repeated_texts_are_in_one_split_and_are_counted(tmp_path):
    rows = tickets()
    odd = {**rows[1], "queue": QUEUES[0]}
    path = write_csv(tmp_path / "a.csv", [*rows, *rows[:30], odd])
    task = open_table(f"{path}?text=subject,body&label=queue")
    assert task.counts.duplicates == 30 and task.counts.contradictions == 1
    where = {}
    for split in task.splits:
        for text in texts(task, split):
            assert where.setdefault(text, split) == split
    assert len(where) == 120


def test_rows_that_come_later_leave_the_others_in_their_splits(file, tmp_path):
    name = f"{file}?text=subject,body&label=queue"
    before = open_table(name)
    facts = json.loads(json.dumps(before.facts()))
    more = [{**row, "subject": f"new {i}"} for i, row in enumerate(tickets(90))]
    write_csv(tmp_path / "tickets.csv", [*more, *tickets(), {**more[0], "queue": "legal"}])
    restore(name, facts)
    with pytest.warns(SpotWarning, match=r"tickets.csv has changed .* 1 rows of other labels"):
        after = open_table(name)
    assert after.labels == before.labels
    for split in before.splits:
        assert set(texts(before, split)) <= set(texts(after, split))
    assert len(after.items("train")) > len(before.items("train"))


def test_a_column_or_files_may_name_the_splits(tmp_path):
    rows = [{**row, "part": ("train", "dev")[i % 4 == 0]} for i, row in enumerate(tickets())]
    path = write_csv(tmp_path / "a.csv", [*rows, {**rows[0], "part": "train"}])
    task = open_table(f"{path}?text=subject&label=queue&split=part")
    assert [len(items) for items in task.splits.values()] == [91, 30, 0]
    assert task.bounds is None and task.counts.overlaps == {"validation": 1}

    for split, part in (("train", rows[:60]), ("test", rows[60:])):
        write_csv(tmp_path / f"b-{split}.csv", part)
    task = open_table(f"{tmp_path}/b-{{split}}.csv?text=subject&label=queue")
    sizes = {split: len(items) for split, items in task.splits.items()}
    # What no file has is cut from training; the test stays as it is.
    assert sizes["test"] == 60 and sizes["train"] + sizes["validation"] == 60
    assert sizes["validation"] == 6


def test_too_few_rows_are_refused(tmp_path):
    path = write_csv(tmp_path / "a.csv", tickets(6))
    with pytest.raises(SpotError, match="leaves no row for validation .6 rows in use"):
        open_table(f"{path}?text=subject&label=queue")


# Counting and showing


def test_what_is_missing_is_counted_and_said(tmp_path):
    rows = [*tickets(), {"subject": "a", "body": "", "queue": "billing"}]
    rows += [{"subject": " ", "body": "", "queue": "billing"}]
    rows += [{"subject": "b", "body": "c", "queue": " "}] * 2
    path = write_csv(tmp_path / "a.csv", rows)
    task = open_table(f"{path}?text=subject,body&label=queue")
    lengths = measure(task, Vocabulary(VOCABULARY))
    text = "\n".join(summary(task, lengths, {"inputs": 8, "targets": 4}))
    for words in (
        "124 rows of 3 columns",
        "classification, 3 labels; scored by accuracy, macro_f1",
        "2 rows without queue",
        "1 row without any text in subject, body",
        "1 row without body, which stays empty",
        "10% validation and 10% test by a hash",
        "lengths   8 and 4: 120 of 121 inputs and 0 targets are cut",
    ):
        assert words in text
    suited = lengths.suited()
    assert lengths.cut(suited)["inputs"] <= 2 and suited["inputs"] % 8 == 0


def test_a_name_says_all_that_a_description_does():
    table = Table(
        "data/a+b.csv",
        text=("Ticket, subject", "50% body"),
        label="a&b",
        kind="generation",
        template="{Ticket, subject} + {50% body}?",
        delimiter="+",
    )
    assert Table.parse(table.name) == table
    assert is_table(table.name) and not is_table("bundled_sms_spam")
    assert Table("a.csv", text="x, y").text == ("x", "y")


# The way that a run takes


def test_a_run_reads_a_table_without_seqio(file, monkeypatch):
    import sys

    for module in ("seqio", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)
    vocabulary = Vocabulary(VOCABULARY)
    name = f"{file}?text=subject,body&label=queue"
    assert loading.labels_of(name) == QUEUES
    assert loading.template_of(name) == "subject: {subject} body: {body}"
    source = loading.training_source(name, vocabulary, 0)
    inputs, targets = source.next()
    assert vocabulary.decode(inputs.tolist()).startswith("subject: ")
    assert inputs[-1] == targets[-1] == EOS
    evaluation = loading.load_evaluation(name, "test", vocabulary, rows=slice(1, None, 2))
    assert len(evaluation.examples) == len(evaluation.targets) == 6
    assert set(evaluation.targets) <= set(QUEUES)


def test_files_mix_with_one_another(file, tmp_path):
    other = write_csv(
        tmp_path / "other.csv", [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(40)]
    )
    name = f"{file}?text=body&label=queue"
    mixed = f"{name}+{other}"
    assert loading.constituents(mixed) == (name, other)
    assert loading.with_split(mixed, "validation") == (name, other)
    source = loading.training_source(mixed, Vocabulary(VOCABULARY), 0)
    assert source.rates[name] == pytest.approx(96 / (96 + 32))


def test_a_table_in_a_template_of_p_tunings(file):
    name = f"{file}?text=subject,body&label=queue"
    form = loading.in_template(name, "{subject} <prompt:2> {body:cut} {target}")
    assert loading.labels_of(form) == QUEUES
    task, plain = open_table(form), open_table(name)
    assert {k: len(v) for k, v in task.splits.items()} == {
        k: len(v) for k, v in plain.splits.items()
    }
    assert "<extra_id_" in task.items("train")[0].text
    with pytest.raises(SpotError, match="no field 'sbject'"):
        loading.in_template(name, "{sbject} <prompt:2> {target}")
