"""`spot data check`, `spot train --data` and what follows it, on a tiny backbone."""

import csv
import json
import re
from pathlib import Path

import pytest
from tiny_text import store_backbone

import spot_jax as spot
from spot_jax.cli.main import main
from spot_jax.data.table import Table, forget, open_table
from spot_jax.data.table.reading import read_rows


def write_tickets(path: Path, number: int = 60, label: bool = True) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "subject", "the body", *(["queue"] if label else [])])
        for i in range(number):
            body = f"please help\nwith, my {('invoice', 'printer')[i % 2]}"
            row = [i, f"number {i}", body if i != 3 else ""]
            rows.writerow([*row, *([("billing", "tech")[i % 2]] if label else [])])
    return path


def words(directory: Path, *more: str) -> list[str]:
    return [
        "train",
        f"--data={directory / 'tickets.csv'}",
        "--text=subject,the body",
        "--label=queue",
        f"--backbone={directory / 'backbone'}",
        f"--model_dir={directory / 'run'}",
        "--gin.TRAIN_STEPS=2",
        "--gin.EVAL_PERIOD=1",
        "--gin.PROMPT_LENGTH=3",
        *more,
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A directory with a run on a file of one's own, and what the command said."""
    directory = tmp_path_factory.mktemp("own")
    store_backbone(directory / "backbone")
    write_tickets(directory / "tickets.csv")
    write_tickets(directory / "new.csv", 5, label=False)
    with pytest.MonkeyPatch.context() as patch:
        import io

        said = io.StringIO()
        patch.setattr("sys.stdout", said)
        assert main(words(directory)) == 0
    return directory, said.getvalue()


def test_what_was_found_and_chosen_is_said_and_kept(trained):
    directory, said = trained
    assert "60 rows of 4 columns" in said and "classification, 2 labels" in said
    lengths = json.loads((directory / "run" / "setup.json").read_text())["lengths"]
    assert f"TASK_FEATURE_LENGTHS = {lengths}" in said and lengths["inputs"] % 8 == 0
    # What was typed is not said to be chosen.
    assert "TRAIN_STEPS" not in said and "PROMPT_LENGTH" not in said
    setup = json.loads((directory / "run" / "setup.json").read_text())
    (facts,) = setup["tables"].values()
    assert facts["labels"] == ["billing", "tech"] and Path(facts["file"]).is_absolute()
    assert facts["template"] == "subject: {subject} the body: {the body}"
    assert facts["sizes"] == {"train": 48, "validation": 6, "test": 6}


@pytest.mark.parametrize(("labels", "length"), [(3, 20), (37, 37), (140, 100)])
def test_many_labels_get_a_row_each_up_to_the_papers_length(tmp_path, capsys, labels, length):
    from spot_jax.data.table.lengths import measure
    from spot_jax.training.config import StoredBackbone
    from spot_jax.training.suited import suited

    with (tmp_path / "many.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((f"text {i} is long", f"label {i % labels}") for i in range(6 * labels))
    store_backbone(tmp_path / "backbone")
    stored = StoredBackbone(str(tmp_path / "backbone"))
    task = open_table(str(tmp_path / "many.csv"))
    advice = suited(task, measure(task, stored.vocabulary()), stored.description().config)
    assert advice.macros["PROMPT_LENGTH"] == length
    assert ("a row a label" in advice.reasons["PROMPT_LENGTH"]) == (length > 20)


def test_eval_and_infer_need_no_flags_and_work_elsewhere(trained, tmp_path, monkeypatch, capsys):
    directory, _ = trained
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(directory / "run")]) == 0
    head, line, *_ = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ["tickets.csv", "test"] and line.split()[3] == "6"
    output = tmp_path / "predicted.csv"
    assert main(["infer", str(directory / "run"), f"--input={directory / 'new.csv'}",
                 f"--output={output}"]) == 0  # fmt: skip
    before, after = read_rows(directory / "new.csv"), read_rows(output)
    assert after.columns[:4] == (*before.columns, "prediction")
    for old, new in zip(before.rows, after.rows, strict=True):
        assert old.items() <= new.items() and new["prediction"] in ("billing", "tech")
    # The same as from Python, where a row is a mapping.
    predicted = spot.load(directory / "run").predict(before.rows)
    assert [str(text) for text in predicted] == [row["prediction"] for row in after.rows]


def test_eval_scores_another_file_whole(trained, capsys, tmp_path):
    directory, _ = trained
    other = write_tickets(tmp_path / "other.csv", 20)
    assert main(["eval", str(directory / "run"), f"--data={other}", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["examples"] == 20


def test_rows_without_text_have_no_prediction_and_keep_their_place(trained, capsys, tmp_path):
    directory, _ = trained
    (tmp_path / "new.jsonl").write_text(
        '{"subject": "a", "the body": "b"}\n{"subject": "", "the body": " "}\n'
        '{"subject": null, "the body": 7}\n'
    )
    output = tmp_path / "out.jsonl"
    assert main(["infer", str(directory / "run"), f"--input={tmp_path / 'new.jsonl'}",
                 f"--output={output}"]) == 0  # fmt: skip
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prediction"] is None for row in rows] == [False, True, False]
    assert "1 rows have no text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("subject,text", "no column 'the body', which .* reads; it has subject, text"),
        ("subject,the body,prediction", "a column 'prediction' of its own"),
    ],
)
def test_a_file_to_predict_that_does_not_fit_is_one_line(
    trained, capsys, tmp_path, header, message
):
    new = tmp_path / "new.csv"
    new.write_text(f"{header}\n{','.join('a' for _ in header.split(','))}\n")
    arguments = ["infer", str(trained[0] / "run"), f"--input={new}", "--output=out.csv"]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1
    assert main([*arguments[:-1], "--output=out.xls"]) == 2
    assert "expected an output file .csv" in capsys.readouterr().err


def test_a_name_means_its_file_again_after_a_run_was_scored_on_another(trained, tmp_path):
    directory, _ = trained
    name = Table(str(directory / "tickets.csv"), text=("subject", "the body"), label="queue").name
    other = write_tickets(tmp_path / "other.csv", 20)
    assert main(["eval", str(directory / "run"), f"--data={other}"]) == 0
    assert len(open_table(name).items("test")) == 20
    forget([name])
    assert len(open_table(name).items("test")) == 6


def test_a_run_goes_on_without_flags_and_a_changed_file_is_seen(trained, capsys, tmp_path):
    directory, _ = trained
    assert main(["train", f"--model_dir={directory / 'run'}"]) == 0
    assert "step 2 of" in capsys.readouterr().out
    path = directory / "tickets.csv"
    before = path.read_bytes()
    try:
        write_tickets(path, 61)
        assert main(["train", f"--model_dir={directory / 'run'}"]) == 2
        err = capsys.readouterr().err
        assert "has changed since the run began (60 rows then, 61 now)" in err
        assert main(["eval", str(directory / "run")]) == 0
        assert "spot: warning: " in capsys.readouterr().err
    finally:
        path.write_bytes(before)
    assert main(["train", f"--model_dir={tmp_path}"]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_dry_run_prints_settings_and_trains_nothing(trained, capsys, tmp_path):
    directory, _ = trained
    arguments = words(directory, "--dry_run")
    arguments[5] = f"--model_dir={tmp_path / 'run'}"
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "DataSource.mixture_or_task_name = %MIXTURE_OR_TASK_NAME" in out
    assert not (tmp_path / "run").exists()


def test_a_run_file_takes_a_file_by_name(trained, capsys, tmp_path):
    directory, _ = trained
    name = Table(str(directory / "tickets.csv"), text=("subject",), label="queue").name
    assert main([
        "train",
        "--gin_file=gin_configs/runs/prompt_tuning.gin",
        f"--gin.MIXTURE_OR_TASK_NAME={name!r}",
        f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{directory / 'backbone'}'",
        "--gin.TASK_FEATURE_LENGTHS=None",
        "--dry_run",
    ]) == 0  # fmt: skip
    # Settings of a run file of one's own stay, what it leaves open is filled in.
    assert main([*words(directory), "--gin_file=gin_configs/runs/prompt_tuning.gin",
                 "--dry_run"]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "BATCH_SIZE = 32\n" in out and "TASK_FEATURE_LENGTHS = {'inputs': " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data=a.csv", "--model_dir=r"], "add --backbone"),
        (["train", "--data=a.csv", "--backbone=b"], "add --model_dir"),
        (["train", "--gin_file=x.gin", "--label=a"], "--label is of a file of your own"),
        (["train", "--gin_file=x.gin", "--method=prefix_tuning"], "--method is for --data"),
        (["data", "check", "none.csv"], "cannot read none.csv"),
        (["data"], "arguments are required"),
        (["train", "--gin_file=gin_configs/runs/prompt_tuning.gin", "--tfds_data_dir=none",
          "--gin.MODEL_DIR='r'", "--gin.INITIAL_CHECKPOINT_PATH='b'",
          "--gin.MIXTURE_OR_TASK_NAME='t'",
          "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}"],
         "a directory of data at none"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_data_check_shows_what_a_file_holds(trained, capsys):
    directory, _ = trained
    file = str(directory / "tickets.csv")
    arguments = ["--text=subject,the body", "--label=queue", f"--backbone={directory / 'backbone'}"]
    assert main(["data", "check", file, *arguments, "--inputs_length=8"]) == 0
    out = capsys.readouterr().out
    assert "1 row without the body, which stays empty in the text" in out
    assert re.search(r"lengths   8 and \d: (59|60) of 60 inputs", out)


def test_a_frame_trains_from_python(trained, tmp_path):
    directory, _ = trained
    rows = read_rows(directory / "tickets.csv").rows
    result = spot.train(
        model_dir=str(tmp_path / "run"),
        backbone=spot.StoredBackbone(str(directory / "backbone")),
        method=spot.PromptTuning(length=3),
        data=spot.Table(rows, text=("subject", "the body"), label="queue"),
        optimizer=spot.Adafactor(0.3),
        train_steps=1,
        evaluation=spot.EvaluationPlan(period=0),
    )
    assert spot.load(result.directory).predict([{"subject": "a", "the body": "b"}])[0] in (
        "billing",
        "tech",
    )


def test_help_lists_the_settings_of_a_run_file(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "LEARNING_RATE = 0.3  (float | Sequence[float])\n      constant 0.3 in the paper" in out
    assert "EVAL_EXAMPLES = None  (int | None)" in out
    assert "EvaluationPlan.decoding = 'auto'  (str)" in out
    assert "MODEL_DIR  (str)  required" in out
    assert main(["train", "--gin_file=gin_configs/runs/prefix_tuning.gin", "--help"]) == 0
    assert "PREFIX_LENGTH = 20  (int)" in capsys.readouterr().out
