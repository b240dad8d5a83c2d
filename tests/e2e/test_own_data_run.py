"""A messy CSV to predictions in a CSV, with three commands and no file written by hand."""

import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf

import spot_jax as spot
from spot_jax.cli.main import main
from spot_jax.data import fields, verbalizers
from spot_jax.data.table import open_table
from spot_jax.data.table.reading import read_rows
from tasks.bundled.reading import rows as bundled_rows
from tasks.t5_features import OUTPUT_FEATURES

COLUMNS = ("Ticket ID", "created", "subject", "body", "agent", "priority", "queue", "lang")
COLUMNS += ("csat", "notes")
FLAGS = ("--text=subject,body", "--label=queue", "--backbone=backbones/mini")


def messy(number: int = 1200) -> list[list[str]]:
    """Film reviews as tickets: quotes, line ends in cells, missing values, rows that come twice."""
    draw = random.Random(0)
    reviews = [row for split in ("train", "validation", "test") for row in bundled_rows(
        "vader_movie", split)]  # fmt: skip
    lines = []
    for i, row in enumerate(draw.sample(reviews, number)):
        words = row["text"].split()
        body = " ".join(words[4:])
        if i % 7 == 0:
            body = f'{body[:20]}\r\n{body[20:]} she said "no, thanks"'
        lines.append(
            [f"T-{i:05d}", f"2024-{i % 12 + 1:02d}-03", " ".join(words[:4])]
            + [body if i % 23 else "", ("Ann", "Bo, jr.", "")[i % 3], str(i % 4)]
            + [row["label"] if i % 31 else "", "en", "" if i % 5 else "4", "a;b"]
        )
    return [*lines, *lines[5:25]]


def write(path: Path, lines: list[list[str]], columns=COLUMNS) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows([columns, *lines])
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tickets")
    lines, label = messy(), COLUMNS.index("queue")
    write(path / "tickets.csv", lines)
    without = [[cell for i, cell in enumerate(line) if i != label] for line in lines[:50]]
    write(path / "new.csv", without, [column for column in COLUMNS if column != "queue"])
    return path


@pytest.mark.slow
def test_a_messy_file_to_predictions_with_three_commands(directory, capsys):
    run, output = str(directory / "run"), directory / "predicted.csv"
    data = f"--data={directory / 'tickets.csv'}"
    assert main(["train", data, *FLAGS, f"--model_dir={run}"]) == 0
    out = capsys.readouterr().out
    for words in (
        "1,220 rows of 10 columns",
        "39 rows without queue",
        "20 rows with a text and label that came before",
        "classification, 3 labels",
    ):
        assert words in out
    assert main(["eval", run, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    # Half are of one label; a prompt of `mini` for whole reviews comes to 65 in docs/methods.md.
    assert result["metrics"]["accuracy"] > result["majority"] + 5
    assert main(["infer", run, f"--input={directory / 'new.csv'}", f"--output={output}"]) == 0
    before, after = read_rows(directory / "new.csv"), read_rows(output)
    assert after.columns[: len(before.columns)] == before.columns
    labels = {"negative", "neutral", "positive"}
    for old, new in zip(before.rows, after.rows, strict=True):
        assert old.items() <= new.items() and new["prediction"] in labels
    if "probability" in after.columns:
        assert all(1 / 3 <= float(row["probability"]) <= 1 for row in after.rows)


@pytest.mark.slow
def test_the_same_rows_as_a_seqio_task_make_the_same_prompt(directory):
    name = f"{directory / 'tickets.csv'}?text=subject,body&label=queue"
    table = open_table(name)
    task = "own_data_by_seqio"

    def dataset(split, shuffle_files=False, seed=None):
        items = table.items(split)
        columns = {"inputs": [i.text for i in items], "targets": [i.target for i in items]}
        return tf.data.Dataset.from_tensor_slices(columns)

    seqio.TaskRegistry.add(
        task,
        source=seqio.FunctionDataSource(dataset, splits=("train", "validation", "test")),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=OUTPUT_FEATURES,
        metric_fns=table.metrics,
    )
    verbalizers.register(task, table.labels)
    fields.register(task, "{inputs}")
    results = {}
    for each in (name, task):
        run = spot.train(
            model_dir=str(directory / f"by_{len(results)}"),
            backbone=spot.StoredBackbone("backbones/mini", dropout_rate=0.0),
            method=spot.PromptTuning(length=8),
            data=spot.DataSource(each, {"inputs": 32, "targets": 4}, batch_size=8),
            optimizer=spot.Adafactor(0.3),
            train_steps=6,
            evaluation=spot.EvaluationPlan(period=3, batch_size=32),
        )
        prompt = spot.load_prompt(run.prompts[0]).rows
        results[each] = run.best[0], np.asarray(prompt)
    assert results[name][0] == results[task][0]
    np.testing.assert_array_equal(results[name][1], results[task][1])
