"""The measurement of P-Tuning's rows: what the page says of it, and of the shipped rate."""

import json
import re
from pathlib import Path

from spot_jax.cli.configurables import configured

ROOT = Path(__file__).parents[2]
RECORDS = json.loads((ROOT / "bench" / "results" / "p_tuning_rows.json").read_text())["results"]
LAST = "600"


def at_the_end(optimizer, rate, row_scale=1.0):
    (record,) = [
        r
        for r in RECORDS
        if (r["optimizer"], r["rate"], r["row_scale"]) == (optimizer, rate, row_scale)
    ]
    return record["steps"][LAST]


def test_the_pages_table_holds_the_measured_numbers():
    page = (ROOT / "docs" / "p_tuning.md").read_text()
    rows = re.findall(
        r"^\| (AdamW|Adafactor) at (\S+?)(?:, `row_scale` (\d+))? \| (.*) \|$", page, re.M
    )
    assert len(rows) == len(RECORDS) >= 5
    for optimizer, rate, row_scale, cells in rows:
        end = at_the_end(optimizer, float(rate), float(row_scale or 1))
        names = ("effective_rank", "effective_rank_of_squares", "mean_cosine")
        names += ("rms_over_embeddings", "accuracy")
        for name, cell in zip(names, cells.split(" | "), strict=True):
            assert (
                abs(end[name] - float(cell)) <= 0.5 * 10.0 ** -len(cell.partition(".")[2]) + 1e-9
            ), name


def test_rows_stay_apart_at_the_shipped_rate_and_less_so_above_it():
    flags = {"MODEL_DIR": "x", "INITIAL_CHECKPOINT_PATH": "x", "MIXTURE_OR_TASK_NAME": "x"}
    flags |= {
        "TASK_FEATURE_LENGTHS": {"inputs": 8, "targets": 4},
        "TEMPLATE": "{text} <prompt:2> {target}",
    }
    pairs = [(f"--gin.{name}", f"{name} = {value!r}") for name, value in flags.items()]
    _, fields, _ = configured("train", ["gin_configs/runs/p_tuning.gin"], pairs)
    optimizer, scale = fields["optimizer"], fields["method"].row_scale
    end = at_the_end(type(optimizer).__name__, optimizer.learning_rate, scale)
    assert end["effective_rank"] > 5
    above = [r["steps"][LAST] for r in RECORDS if r["rate"] > optimizer.learning_rate]
    assert len(above) >= 4
    for other in above:
        assert other["effective_rank"] < end["effective_rank"]
        assert other["accuracy"] < end["accuracy"] + 2  # of 200 examples, one is half a point
