"""Whether the rows of P-Tuning's LSTM stay distinct on `mini`, by optimizer and learning rate.

    taskset -c 0 python bench/p_tuning_rows.py
    taskset -c 0 python bench/p_tuning_rows.py --optimizers AdamW --rates 1e-4 3e-4 --row_scale 3

20 virtual tokens around the text of `bundled_vader_movie`, 600 steps of 8 examples. At steps 1,
200, 400 and 600: the effective rank of the rows (e to the entropy of the shares of the singular
values, and of their squares), their mean cosine, their root mean square beside the embedding
table's, and accuracy on 200 validation examples. Runs of one optimizer are prompts of one program;
records of other optimizers, rates and row scales that are in the output stay. Adafactor is without
parameter scale, as prompts have it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BACKBONE = ROOT / "backbones" / "mini"
TEMPLATE = "<prompt:10> {text:cut} <prompt:10> {target}"
RATES = {"AdamW": (1e-4, 3e-4, 1e-3), "Adafactor": (1e-4, 1e-3, 0.3)}
STEPS = (200, 400, 600)


def effective_rank(rows: np.ndarray, power: int = 1) -> float:
    """Return e to the entropy of the shares of the singular values (Roy & Vetterli 2007).

    Args:
        rows: prompt [P, d].
        power: power of the singular values: 2 is of the variance's shares, which is lower.
    """
    values = np.linalg.svd(rows, compute_uv=False) ** power
    shares = values / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares + 1e-12))))


def figures(rows: np.ndarray, size: float) -> dict[str, float]:
    """Return what is measured of a prompt's rows."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    count = len(rows)
    cosine = (np.square(units.sum(axis=0)).sum() - count) / (count * (count - 1))
    return {
        "effective_rank": round(effective_rank(rows), 2),
        "effective_rank_of_squares": round(effective_rank(rows, 2), 2),
        "mean_cosine": round(float(cosine), 3),
        "rms_over_embeddings": round(float(np.sqrt(np.mean(np.square(rows)))) / size, 2),
    }


def measured(directory: Path, kind: str, rates: tuple[float, ...], row_scale: float) -> list[dict]:
    """Tune with every rate of an optimizer, and return a record for each."""
    from spot_jax.data.data_source import DataSource
    from spot_jax.methods.p_tuning import PTuning
    from spot_jax.methods.prompt_forms import load_prompt
    from spot_jax.t5.backbone import load_backbone
    from spot_jax.training.checkpoints import CheckpointPlan
    from spot_jax.training.config import EvaluationPlan, StoredBackbone
    from spot_jax.training.optimizers import Adafactor, AdamW
    from spot_jax.training.run import train

    table = np.asarray(load_backbone(BACKBONE).params["token_embedder"]["embedding"], np.float32)
    size = float(np.sqrt(np.mean(np.square(table))))
    adam = AdamW(rates, b2=0.999, weight_decay=0.0)
    optimizer = adam if kind == "AdamW" else Adafactor(rates)
    result = train(
        model_dir=str(directory / kind),
        backbone=StoredBackbone(str(BACKBONE), dropout_rate=0.0),
        method=PTuning(TEMPLATE, row_scale=row_scale),
        data=DataSource("bundled_vader_movie", {"inputs": 32, "targets": 8}, batch_size=8),
        optimizer=optimizer,
        train_steps=STEPS[-1],
        evaluation=EvaluationPlan(STEPS[0], examples=200, batch_size=100),
        checkpoints=CheckpointPlan(STEPS[-1], prompt_steps=(1, *STEPS)),
        progress=False,
    )
    from spot_jax.training.metrics_log import read_metrics

    accuracies = {
        line["step"]: line["validation/accuracy"]
        for line in read_metrics(result.directory)
        if "validation/accuracy" in line
    }
    records = []
    for i, rate in enumerate(rates):
        steps = {}
        for step in (1, *STEPS):
            file = load_prompt(result.directory / "prompts" / f"step-{step}-{i}.safetensors")
            steps[str(step)] = figures(file.rows, size)
            if step in accuracies:
                steps[str(step)]["accuracy"] = round(float(np.atleast_1d(accuracies[step])[i]), 1)
        case = {"optimizer": kind, "rate": rate, "row_scale": row_scale}
        records.append({**case, "steps": steps})
        print(records[-1], flush=True)
    return records


def main() -> None:
    """Measure what is asked for and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", default=str(ROOT / "bench/results/p_tuning_rows.json"))
    parser.add_argument("--optimizers", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--rates", nargs="+", type=float, help="default: several of each optimizer")
    parser.add_argument("--row_scale", type=float, default=1.0, help="`PTuning.row_scale`")
    arguments = parser.parse_args()
    output = Path(arguments.output)
    results = json.loads(output.read_text())["results"] if output.exists() else []
    for kind in arguments.optimizers:
        rates = tuple(arguments.rates or RATES[kind])
        with tempfile.TemporaryDirectory() as directory:
            records = measured(Path(directory), kind, rates, arguments.row_scale)
        done = [(new["optimizer"], new["rate"], new["row_scale"]) for new in records]
        keys = ("optimizer", "rate", "row_scale")
        results = [*(o for o in results if tuple(o[k] for k in keys) not in done), *records]
        what = "rows of P-Tuning's LSTM by optimizer and rate: 20 rows, 600 steps of 8 examples"
        record.write(str(output), what, BACKBONE, results)


if __name__ == "__main__":
    main()
