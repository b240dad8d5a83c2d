import hashlib
import json
import lzma
import shutil
from collections import Counter
from pathlib import Path

import pytest

from spot_jax.data import verbalizers
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary
from tasks.bundled.reading import SPLITS, examples, names, rows, written
from tasks.bundled.sets import HERE, SETS
from tasks.bundled.splitting import group_splits, normalised, split_of


@pytest.mark.parametrize("name", names())
def test_a_set_is_as_described(name):
    item = SETS[name]
    by_split = {split: rows(name, split) for split in SPLITS}
    assert {split: len(part) for split, part in by_split.items()} == item.sizes
    total = sum(item.sizes.values())
    assert abs(item.sizes["train"] / total - 0.8) < 0.02
    for part in by_split.values():
        assert {row["label"] for row in part} == set(item.labels)
    card = (HERE / f"{name}.md").read_text(encoding="utf-8")
    assert hashlib.sha256((HERE / f"{name}.jsonl.xz").read_bytes()).hexdigest() in card
    assert f"{total:,}" in card


@pytest.mark.parametrize("name", names())
def test_no_text_is_in_two_splits_of_a_set(name):
    sides: dict[tuple[str, str], set[str]] = {}
    for split in SPLITS:
        for row in rows(name, split):
            for field in SETS[name].grouped_by:
                sides.setdefault((field, normalised(row[field])), set()).add(split)
    assert not [text for text, splits in sides.items() if len(splits) > 1]


@pytest.mark.slow
def test_equal_texts_of_different_sets_are_on_the_same_side():
    sides: dict[str, set[str]] = {}
    for name, item in SETS.items():
        if item.grouped_by == ("text",):
            for split in SPLITS:
                for row in rows(name, split):
                    sides.setdefault(normalised(row["text"]), set()).add(split)
                    assert split_of(row["text"]) == split
    assert not [text for text, splits in sides.items() if len(splits) > 1]


def test_linked_pairs_stay_together_and_the_order_of_rows_does_not_matter():
    def text(start, split):
        return next(f"{start}{i}" for i in range(1000) if split_of(f"{start}{i}") == split)

    a, b, c, d = text("a", "test"), text("b", "train"), text("c", "validation"), text("d", "train")
    pairs = [(b, c), (f"{c.upper()}!", d), (a, d), ("x", "y")]
    table = [{"text1": first, "text2": second} for first, second in pairs]
    fields = ("text1", "text2")
    assert group_splits(table, fields) == ["test", "test", "test", split_of("x")]
    assert group_splits(table[::-1], fields) == [split_of("x"), "test", "test", "test"]
    assert group_splits(table, ("text1",)) == [split_of(row["text1"]) for row in table]


@pytest.mark.parametrize("name", ["sms_spam", "clinc150", "gap_coref"])
def test_few_shot_has_sixteen_a_label_out_of_train(name):
    few = rows(f"{name}_16shot", "train")
    assert Counter(row["label"] for row in few) == dict.fromkeys(SETS[name].labels, 16)
    whole = {json.dumps(row) for row in rows(name, "train")}
    assert {json.dumps(row) for row in few} <= whole
    assert rows(f"{name}_16shot", "test") == rows(name, "test")
    other = rows(f"{name}_16shot_s2", "train")
    assert Counter(row["label"] for row in other) == dict.fromkeys(SETS[name].labels, 16)
    assert {json.dumps(row) for row in other} <= whole - {json.dumps(row) for row in few}


def test_examples_are_words_with_eos():
    vocabulary = Vocabulary(Path(HERE).parent / "mini_spiece.model")
    pairs = examples("gap_coref", "test", vocabulary)
    row = rows("gap_coref", "test")[0]
    inputs, targets = pairs[0]
    assert inputs[-1] == targets[-1] == 1
    assert vocabulary.decode(targets) == row["label"]
    assert vocabulary.decode(inputs).startswith("text1: ")
    assert written(SETS["gap_coref"], row)[0].endswith(f"text2: {row['text2']}")


@pytest.fixture
def shipped(tmp_path):
    for name in ("sms_spam.jsonl.xz", "SHA256SUMS"):
        shutil.copy(HERE / name, tmp_path / name)
    return tmp_path


def test_a_damaged_file_names_the_command_that_restores_it(shipped):
    file = shipped / "sms_spam.jsonl.xz"
    assert len(rows("sms_spam", "test", directory=shipped)) == SETS["sms_spam"].sizes["test"]
    whole = file.read_bytes()
    other = lzma.compress(lzma.decompress(whole).replace(b"spam", b"Spam", 1))
    for number, content in enumerate((whole[:-1], b"", other)):
        directory = shipped / str(number)
        directory.mkdir()
        shutil.copy(shipped / "SHA256SUMS", directory)
        (directory / file.name).write_bytes(content)
        with pytest.raises(SpotError, match=r"git checkout -- .*/sms_spam\.jsonl\.xz$"):
            rows("sms_spam", "test", directory=directory)
        (directory / file.name).unlink()
        with pytest.raises(SpotError, match="found No such file"):
            rows("sms_spam", "test", directory=directory)


def test_unknown_names_are_refused():
    with pytest.raises(SpotError, match="expected a bundled set"):
        rows("smsspam", "train")
    with pytest.raises(SpotError, match="expected split train, validation, test"):
        rows("sms_spam", "dev")


def test_a_label_outside_the_verbalizers_is_refused():
    verbalizers.register("colours", ["red", "green"])
    assert verbalizers.of("colours") == ("red", "green")
    assert verbalizers.of("nothing registered") is None
    verbalizers.check("colours", "red")
    verbalizers.check("nothing registered", "anything")
    with pytest.raises(SpotError, match="2 labels of colours, found 'grean' .nearest: green"):
        verbalizers.check("colours", "grean")
    with pytest.raises(SpotError, match="two different labels"):
        verbalizers.register("colours", ["red", "red"])
