"""`spot tasks list`, `show` and `check`, in this process."""

import json
import re
import subprocess
import sys

import pytest

from spot_jax.cli.main import main
from tasks.papers import data_files

GOOD = {"sentence": "it works .", "label": "positive"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(data_files.VARIABLE, str(tmp_path))
    (tmp_path / "cr").mkdir()
    return tmp_path / "cr"


def listed(capsys, *flags):
    assert main(["tasks", "list", *flags]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    head = lines[0]
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    ends = [*starts[1:], None]
    # Numbers end under their heading, all else begins there.
    assert head.split() == ["name", "family", "train", "validation", "test", "metrics", "role"] + [
        "source"
    ]
    return [(line.split()[0], line) for line in lines[1:]], (starts, ends)


def test_list_has_the_papers_sets(capsys):
    rows, (starts, ends) = listed(capsys)
    names = {name for name, _ in rows}
    family = {name: line[starts[1] : starts[2]].split("  ")[0] for name, line in rows}
    mixed = {name for name in names if "all" in family[name].split(", ")}
    assert len(mixed - {"c4_prefix_lm"}) == 55 and "c4_prefix_lm" in mixed
    assert len([name for name in names if name.startswith("crossfit_")]) == 120
    assert {"bundled_sms_spam", "lama_P17", "cr", "glue_mnli"} <= names
    assert "67,349" in dict(rows)["glue_sst2"] and "glue/sst2:" in dict(rows)["glue_sst2"]


def test_list_marks_the_transfer_study(capsys):
    sources, _ = listed(capsys, "--role", "source")
    targets, _ = listed(capsys, "--role", "target")
    assert len(sources) == 16 and len(targets) == 10
    assert not {name for name, _ in sources} & {name for name, _ in targets}
    assert {name for name, _ in targets} >= {"cr", "super_glue_wsc", "glue_cola"}
    rows, _ = listed(capsys, "--family", "paraphrase_similarity")
    assert [name for name, _ in rows] == ["glue_mrpc", "glue_qqp", "glue_stsb", "cxc"]


def test_list_needs_neither_tensorflow_nor_jax():
    code = (
        "import sys; from spot_jax.cli.main import main; main(['tasks', 'list']);"
        "sys.exit(str([m for m in ('tensorflow', 'seqio', 'jax') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_an_unknown_family_is_one_line(capsys):
    assert main(["tasks", "list", "--family", "glu"]) == 2
    error = capsys.readouterr().err
    assert "glue" in error and "'glu'" in error and error.count("\n") == 1


def test_show_prints_text_pieces_and_what_is_cut(capsys, folder):
    rows = [GOOD, {"sentence": "bad " * 9, "label": "negative"}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    command = ["tasks", "show", "cr", "--examples", "2", "--inputs", "12", "--read", "3"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count("example ") == 2
    assert "    cr sentence: it works .\n" in out and "    ▁positive </s>\n" in out
    assert re.search(r"inputs, 13 pieces, 1 of them cut:", out)
    assert "1 of the first 3 are longer than 12 pieces of inputs and would be cut" in out
    assert "the longest has 13" in out


def test_show_of_a_mixture_prints_shares(capsys):
    assert main(["tasks", "show", "spot_glue"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].split() == ["41.3763%", "glue_mnli"]


def test_show_of_bundled_and_unknown_tasks(capsys):
    assert main(["tasks", "show", "bundled_sms_spam", "--examples", "1", "--read", "1"]) == 0
    assert "text: " in capsys.readouterr().out
    assert main(["tasks", "show", "glue_colla"]) == 2
    assert "glue_cola" in capsys.readouterr().err


def test_check_says_what_is_missing_and_what_is_there(capsys, folder, monkeypatch):
    assert main(["tasks", "check", "cr", "bundled_sms_spam", "crossfit_boolq_s13"]) == 1
    out = capsys.readouterr().out
    assert "cr: not as expected" in out and f"expected {folder}/train.jsonl or train.tsv" in out
    assert "layout: $SPOT_DATA_DIR/cr/{train,validation}.jsonl or .tsv" in out
    assert "bundled_sms_spam: ok" in out
    assert "crossfit/boolq/boolq_16_13_train.tsv" in out and "_build_gym.py" in out
    monkeypatch.delenv(data_files.VARIABLE)
    assert main(["tasks", "check", "lama_P17"]) == 1
    assert "export SPOT_DATA_DIR=" in capsys.readouterr().out


def test_check_reads_every_line(capsys, folder):
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text((json.dumps(GOOD) + "\n") * 4000)
    assert main(["tasks", "check", "cr_no_prefix"]) == 0
    assert "cr_no_prefix: ok" in capsys.readouterr().out
    with (folder / "validation.jsonl").open("a") as file:
        file.write('{"sentence": "x", "label": ""}\n')
    assert main(["tasks", "check", "cr"]) == 1
    assert re.search(r"validation.jsonl:4001: .*empty target", capsys.readouterr().out)


def test_check_of_a_mixture_and_of_nothing(capsys):
    assert main(["tasks", "check", "bundled_pair"]) == 0
    assert capsys.readouterr().out.count(": ok") == 3
    assert main(["tasks", "check", "glue_colla"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
