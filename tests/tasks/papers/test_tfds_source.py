"""What is said of TFDS's data that is missing, old, incomplete or wrong; nothing is downloaded."""

import dataclasses
import sys

import pytest
from etils import epath

from spot_jax.errors import SpotError
from tasks import papers_tasks  # noqa: F401
from tasks.papers import glue, samples, tfds_source
from tasks.papers.catalogue import BY_NAME

seqio = pytest.importorskip("seqio")
from spot_jax.data import seqio_tasks  # noqa: E402


def _refused(name, vocabulary, split="train") -> str:
    with pytest.raises(SpotError) as raised:
        seqio_tasks.load_examples(name, split, vocabulary)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_missing_data_names_the_directory_and_the_line_to_run(tmp_path, tfds_here, vocabulary):
    tfds_here(str(tmp_path))
    message = _refused("glue_cola", vocabulary)
    assert f"expected the data of glue/cola:2.0.0 in {tmp_path}, found nothing" in message
    assert f"`tfds build glue/cola:2.0.0 --data_dir={tmp_path}`" in message
    assert "TFDS_DATA_DIR" in message and "gs://" in message


def test_without_an_override_tfds_own_directory_is_looked_in(tmp_path, monkeypatch, vocabulary):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "own"))
    assert f"in {tmp_path / 'own'}, found nothing" in _refused("glue_cola", vocabulary)


def test_a_bucket_is_looked_in_and_named(monkeypatch):
    bucket = epath.Path("gs://bucket/tfds")
    present = {"gs://bucket/tfds/glue/cola/2.0.0/dataset_info.json"}
    monkeypatch.setattr(type(bucket), "exists", lambda path: str(path) in present)
    assert tfds_source.locate(BY_NAME["glue_cola"], [bucket]) == (
        "glue/cola:2.0.0",
        "gs://bucket/tfds",
    )
    with pytest.raises(SpotError, match="tfds build squad/v1.1:3.0.0 --data_dir=gs://bucket/tfds"):
        tfds_source.locate(BY_NAME["squad"], [bucket])


def test_an_older_version_is_told_of(tmp_path, write, tfds_here, vocabulary):
    item, rows = BY_NAME["glue_cola"], samples.rows("glue_cola")
    write(tmp_path, item.location, ["train"], rows, version="1.0.0")
    tfds_here(str(tmp_path))
    message = _refused("glue_cola", vocabulary)
    assert f"found version 1.0.0 in {tmp_path}" in message
    assert "glue/cola:2.0.0" in message


def test_an_older_c4_is_read(tmp_path, write, tfds_here, vocabulary):
    item, rows = BY_NAME["c4_prefix_lm"], samples.rows("c4_prefix_lm")
    write(tmp_path, item.location, ["train", "validation"], rows, version="3.0.1")
    tfds_here(str(tmp_path))
    lengths = {"inputs": 32, "targets": 32}
    assert len(seqio_tasks.load_examples("c4_prefix_lm", "train", vocabulary, lengths=lengths))


def test_a_set_that_was_not_prepared_to_its_end_is_missing(tmp_path, tfds_here, vocabulary):
    (tmp_path / "glue" / "cola" / "2.0.0").mkdir(parents=True)
    tfds_here(str(tmp_path))
    assert f"in {tmp_path}, found nothing" in _refused("glue_cola", vocabulary)


def test_files_to_fetch_by_hand_are_told_of(tmp_path):
    with pytest.raises(SpotError, match="downloaded its files by hand .*catalog/xsum"):
        tfds_source.locate(BY_NAME["xsum"], [epath.Path(tmp_path)])


def test_a_split_that_is_not_on_disk_is_told_of(tmp_path, write, tfds_here, vocabulary):
    item = BY_NAME["glue_cola"]
    write(tmp_path, item.location, ["train"], samples.rows("glue_cola"))
    tfds_here(str(tmp_path))
    message = _refused("glue_cola", vocabulary, "validation")
    assert (
        "expected a split 'validation' of glue/cola:2.0.0" in message and "found train" in message
    )
    assert tfds_source.problems(item) == [
        f"expected 8,551 rows in split train of glue/cola:2.0.0, found 2 in {tmp_path}",
        message,
    ]


def test_sizes_are_the_catalogue_s_without_data(tmp_path, tfds_here):
    tfds_here(str(tmp_path))
    source = seqio.TaskRegistry.get("glue_mnli").source
    assert source.num_input_examples("train") == 392_702
    assert len(tfds_source.problems(BY_NAME["glue_mnli"])) == 1


@pytest.mark.parametrize(
    ("name", "change", "label"),
    [
        ("hellaswag", {"label": 7}, "'<label 7>'"),
        ("sentiment140", {"polarity": 1}, "'<label 1>'"),
        ("super_glue_boolq", {"label": -1}, "'<unk>'"),
        ("race_middle", {"answers": ["B", "E"]}, "'E'"),
    ],
)
def test_a_label_without_a_word_is_told_of(
    name, change, label, tmp_path, write, tfds_here, vocabulary
):
    item = BY_NAME[name]
    split = item.splits.get("train", "train")
    write(tmp_path, item.location, [split], [{**samples.raw(name), **change}])
    tfds_here(str(tmp_path))
    message = _refused(name, vocabulary)
    assert f"labels of {name}, found {label}" in message


def test_an_empty_target_is_told_of(tmp_path, write, tfds_here, vocabulary):
    row = {**samples.raw("squad"), "answers": {"text": [""], "answer_start": [0]}}
    write(tmp_path, BY_NAME["squad"].location, ["train"], [row])
    tfds_here(str(tmp_path))
    message = _refused("squad", vocabulary)
    assert "split 'train' of squad, found an empty one (inputs: 'squad question: When" in message


def test_summaries_leave_out_rows_without_a_text(tmp_path, write, tfds_here, vocabulary):
    rows = [samples.raw("samsum"), {**samples.raw("samsum"), "dialogue": " "}]
    write(tmp_path, BY_NAME["samsum"].location, ["train"], rows)
    tfds_here(str(tmp_path))
    assert len(seqio_tasks.load_examples("samsum", "train", vocabulary)) == 1


def test_naming_a_source_opens_no_file(monkeypatch):
    opened = []
    watching = [True]

    def watch(event, arguments):
        if watching[0] and event in ("open", "socket.connect", "os.listdir", "os.scandir"):
            opened.append((event, arguments))

    monkeypatch.setattr(tfds_source, "directories", lambda *_: opened.append("directories"))
    sys.addaudithook(watch)  # stays for good, so it is switched off below
    try:
        for item in BY_NAME.values():
            if item.source == "tfds":
                tfds_source.TfdsSource(item).splits  # noqa: B018
        glue.add("glue_cola", ("sentence",))
    finally:
        watching[0] = False
    assert not opened


def test_splits_are_those_with_labels():
    for item in BY_NAME.values():
        assert set(item.unlabelled) <= set(item.sizes)
        assert set(item.splits) <= set(item.sizes)
    assert BY_NAME["glue_cola"].labelled_splits == ("train", "validation")
    assert dataclasses.replace(BY_NAME["glue_cola"], unlabelled=()).labelled_splits[-1] == "test"
