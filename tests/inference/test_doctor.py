"""`spot doctor` on run directories whose troubles are known."""

import json
from pathlib import Path

import pytest

from spot_jax.cli.main import main
from spot_jax.data.table import open_table
from spot_jax.training.run_info import RunSetup, TaskFacts

MINI = Path(__file__).parents[2] / "backbones" / "mini"


def write_run(directory: Path, losses, accuracy=(), norm=1.0, result=None, labels=()) -> Path:
    rows = [f"text {i},{'often' if i % 10 else 'rarely'}\n" for i in range(200)]
    file = directory / "texts.csv"
    file.write_text("text,label\n" + "".join(rows))
    facts = open_table(str(file)).facts()
    setup = RunSetup(
        str(MINI), "float32", None, "PromptTuning", 20,
        (TaskFacts(str(file), labels or ("often", "rarely")),),
        {"inputs": 32, "targets": 4}, 8, tables={str(file): facts},
    )  # fmt: skip
    setup.save(directory)
    lines = [
        {"step": i + 1, "train/loss": loss, "train/grad_norm": norm}
        for i, loss in enumerate(losses)
    ]
    lines += [{"step": step, "validation/accuracy": value} for step, value in accuracy]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if result:
        (directory / "result.json").write_text(json.dumps(result))
    return directory


FALLING = [2.0] * 10 + [1.0] * 50
LEARNT = [(20, 93.0), (40, 97.0)]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"losses": FALLING, "accuracy": LEARNT}, "nothing odd"),
        ({"losses": [1.0] * 60, "accuracy": LEARNT}, "has not fallen (1 at first, 1 at the end)"),
        ({"losses": [1.0] * 30 + [9.0] * 30}, "the loss rose from 1 to 9"),
        ({"losses": [2.0] * 30 + [1.5] * 20 + [0.5] * 6}, "still falling at the end"),
        ({"losses": [*FALLING, "NaN"]}, "no number from step 61"),
        ({"losses": FALLING, "norm": 0.0}, "the gradient is 0"),
        ({"losses": FALLING, "accuracy": [(20, 90.0)]}, "the commonest label gives 90.0"),
        (
            {"losses": FALLING, "accuracy": [(1, 99.0), (30, 97.0), (60, 95.5)]},
            "accuracy was 99.0 at step 1, the best, 95.5 at 60",
        ),
        (
            {"losses": FALLING, "result": {"examples": 100, "truncated_inputs": 30}},
            "30% of inputs were longer than 32 tokens",
        ),
        ({"losses": FALLING, "labels": ("好", "rarely")}, "lacks letters of the labels 好"),
        (
            {"losses": FALLING, "labels": ("zyxwvutsrq ponmlk", "often")},
            "labels of more than 6 pieces: zyxwvutsrq ponmlk",
        ),
    ],
)
def test_a_trouble_is_named_with_what_to_do(tmp_path, capsys, run, words):
    assert main(["doctor", str(write_run(tmp_path, **run))]) == 0
    out = capsys.readouterr().out
    assert words in out
    assert out.count("\n") == (1 if words == "nothing odd" else 2)


def test_a_run_that_has_not_begun_is_one_line(tmp_path, capsys):
    assert main(["doctor", str(write_run(tmp_path, losses=[1.0]))]) == 2
    assert "has reported 1 steps so far" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "none")]) == 2
    assert "no run directory" in capsys.readouterr().err
