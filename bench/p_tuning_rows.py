"""Whether the rows of P-Tuning's LSTM stay distinct on `mini`, by optimizer and learning rate.

    taskset -c 0 python bench/p_tuning_rows.py [--output bench/results/p_tuning_rows.json]

20 virtual tokens around the text of `bundled_vader_movie`, 600 steps of 8 examples. At steps 1,
200, 400 and 600: the effective rank of the rows (e to the entropy of the singular values'
shares), their mean cosine, their root mean square beside the embedding table's, and
accuracy on 200 validation examples. Runs of one optimizer are prompts of one program.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BACKBONE = ROOT / "backbones" / "mini"
TEMPLATE = "<prompt:10> {text:cut} <prompt:10> {target}"
RATES = {"AdamW": (1e-4, 1e-3), "Adafactor": (0.3,)}
STEPS = (200, 400, 600)


def effective_rank(rows: np.ndarray) -> float:
    """Return e to the entropy of the singular values' shares (Roy & Vetterli 2007)."""
    values = np.linalg.svd(rows, compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares + 1e-12))))


def figures(rows: np.ndarray, size: float) -> dict[str, float]:
    """Return what is measured of a prompt's rows."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    count = len(rows)
    cosine = (np.square(units.sum(axis=0)).sum() - count) / (count * (count - 1))
    return {
        "effective_rank": round(effective_rank(rows), 2),
        "mean_cosine": round(float(cosine), 3),
        "rms_over_embeddings": round(float(np.sqrt(np.mean(np.square(rows)))) / size, 2),
    }


def measured(directory: Path, kind: str) -> list[dict]:
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
    rates = RATES[kind]
    adam = AdamW(rates, b2=0.999, weight_decay=0.0)
    optimizer = adam if kind == "AdamW" else Adafactor(rates)
    result = train(
        model_dir=str(directory / kind),
        backbone=StoredBackbone(str(BACKBONE), dropout_rate=0.0),
        method=PTuning(TEMPLATE),
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
        records.append({"optimizer": kind, "rate": rate, "steps": steps})
        print(records[-1], flush=True)
    return records


def main() -> None:
    """Measure all and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=str(ROOT / "bench/results/p_tuning_rows.json"))
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as directory:
        results = [r for kind in RATES for r in measured(Path(directory), kind)]
    what = "rows of P-Tuning's LSTM by optimizer and rate: 20 rows, 600 steps of 8 examples"
    record.write(output, what, BACKBONE, results)


if __name__ == "__main__":
    main()
