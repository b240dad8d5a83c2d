"""Evaluation among 150 labels, by a search and by scoring all: `python -m bench.labels`.

A prompt is tuned on clinc150 for some steps, as scores of labels that are nearly alike are the
search's worst case. Test examples are then predicted in turn by `rank_labels`, which decodes every
label after every text as evaluation did before there was a search, and by `choose_label`, which
evaluation does now; the tree of labels is what predictions with probabilities do. Predictions must
be the same. Results go to bench/results/labels.json.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import write
from bench.turns import in_turn

ROOT = Path(__file__).parents[1]
MINI = ROOT / "backbones" / "mini"
NAME, LENGTH, TEXT = "clinc150", 20, 32


def tuned_prompt(directory: Path, steps: int) -> Path:
    """Tune a prompt and return its file."""
    import spot_jax as spot
    from spot_jax.cli.demo import rows_file
    from spot_jax.training.optimizers import Adafactor

    data = f"{rows_file(directory, NAME)}?text=text&label=label&split=split"
    result = spot.train(
        model_dir=str(directory / "run"),
        backbone=spot.StoredBackbone(str(MINI), dropout_rate=0.0),
        method=spot.PromptTuning(length=LENGTH, init="class_labels"),
        data=spot.DataSource(data, {"inputs": TEXT, "targets": 12}, batch_size=32),
        optimizer=Adafactor(learning_rate=0.3),
        train_steps=steps,
    )
    return Path(result.prompts[0])


def measure(prompt: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Measure the ways in turn, on the first `rows` test examples."""
    import jax
    import jax.numpy as jnp

    import spot_jax as spot
    from spot_jax.t5.label_trees import label_tree, score_labels
    from spot_jax.t5.scoring import choose_label, label_matrix, rank_labels
    from spot_jax.t5.target import Jitted
    from tasks.bundled.reading import rows as rows_of

    predictor = spot.load(prompt, backbone=MINI)
    tuned, ready = predictor.tuned, predictor.ready
    config, vocabulary = tuned.backbone.config, tuned.vocabulary
    params, table = ready.inference.params, ready.inference.table
    test = rows_of(NAME, "test")
    test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:rows]]
    ids = [row.ids for row in ready.rows(vocabulary, [f"text: {row['text']}" for row in test])]
    tokens = np.zeros((len(ids), LENGTH + TEXT), np.int32)
    for row, each in zip(tokens, ids, strict=True):
        row[: len(each)] = each
    matrix = label_matrix(vocabulary, ready.labels)
    tree = label_tree(matrix)

    every = Jitted(lambda x: jnp.argmax(rank_labels(params, config, x, matrix, table=table), 1))
    best = Jitted(lambda x: choose_label(params, config, x, matrix, table=table)[0])
    scored = Jitted(lambda x: jnp.argmax(score_labels(params, config, x, tree, table=table), 1))
    ways = {"every": every, "best": best, "tree": scored}
    chosen = {name: np.asarray(way(tokens)) for name, way in ways.items()}
    gold = np.array([ready.labels.index(row["label"]) for row in test])
    seconds = in_turn(
        {name: lambda way=way: jax.block_until_ready(way(tokens)) for name, way in ways.items()},
        repeats,
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "labels": len(ready.labels),
        "nodes": int(tree.tokens.shape[1]),
        "tokens_of_labels": int(np.sum(matrix > 0)),
        "examples": len(ids),
        "accuracy": 100 * float(np.mean(chosen["best"] == gold)),
        "same_predictions": {
            name: int(np.sum(chosen[name] == chosen["every"])) for name in ("best", "tree")
        },
        "seconds": medians,
        "ratio": {name: medians[name] / medians["every"] for name in ("best", "tree")},
        "all_seconds": seconds,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("bench.labels", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[100], help="of tuning the prompt")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default=str(ROOT / "bench" / "results" / "labels.json"))
    values = parser.parse_args(arguments)
    results = []
    for steps in values.steps:
        with tempfile.TemporaryDirectory() as directory:
            prompt = tuned_prompt(Path(directory), steps)
            results.append({"steps": steps, **measure(prompt, values.rows, values.repeats)})
        print(results[-1], flush=True)
        write(values.output, "the best of clinc150's 150 labels", MINI, results)


if __name__ == "__main__":
    main()
