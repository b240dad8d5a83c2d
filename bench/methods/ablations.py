"""Y-Tuning's ablations on what ships, a table a command.

    python -m bench.methods.ablations loss        # triplet or cross entropy
    python -m bench.methods.ablations per_label   # vectors a label: 1, 2, 4, 8
    python -m bench.methods.ablations init        # labels, vocabulary, uniform
    python -m bench.methods.ablations layers      # layers of the decoder: 1, 2, 3
    python -m bench.methods.ablations features    # the encoder's last layer, or a mix of all

A row is a value, a column a set; accuracy on test, mean and standard deviation over seeds. All else
is `YTuning`'s default, at one learning rate and number of steps, so that only the value differs.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.methods.others import y_way
from bench.methods.prompts import Candidate, tuned
from bench.methods.tasks import ROOT, TASKS, Bench
from bench.record import write
from spot_jax.files import aligned
from spot_jax.methods.y_tuning import YTuning

TABLES: Mapping[str, tuple[Any, ...]] = {
    "loss": ("triplet", "cross_entropy"),
    "per_label": (1, 2, 4, 8),
    "init": ("labels", "vocabulary", "uniform"),
    "layers": (1, 2, 3),
    "features": ("last", "mix"),
}
SETS = ("vader_movie", "clinc150", "banking77", "wordnet_supersense")
RATE = 1e-3


def table(bench: Bench, name: str, sets: Sequence[str]) -> list[dict[str, Any]]:
    """Return a record of each value and set; runs that are finished are not done again."""
    records = []
    for value in TABLES[name]:
        settings = {"cache": str(bench.directory / "features"), name: value}
        way = y_way({"": Candidate(YTuning(**settings))}, bench.y_steps, (RATE,))
        for task in sets:
            cell = tuned(bench, TASKS[task], f"ablation-{name}-{value}", way)
            record = {"value": value, "set": task, "accuracies": list(cell.accuracies)}
            records.append({**record, "trained": cell.trainable})
            print(records[-1], flush=True)
    return records


def text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as text: a row a value."""
    sets = list(dict.fromkeys(record["set"] for record in records))
    rows = [["", *sets, "mean"]]
    for value in dict.fromkeys(record["value"] for record in records):
        of = {r["set"]: r["accuracies"] for r in records if r["value"] == value}
        cells = []
        for name in sets:
            spread = statistics.stdev(of[name]) if len(of[name]) > 1 else 0.0
            cells.append(f"{statistics.fmean(of[name]):.1f} ({spread:.1f})")
        mean = statistics.fmean(statistics.fmean(of[name]) for name in sets)
        rows.append([str(value), *cells, f"{mean:.1f}"])
    return "\n".join(aligned(rows, left=(0,)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--tasks", nargs="+", default=list(SETS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--test", type=int, default=500, help="number of test examples at most")
    parser.add_argument("--directory", default="runs/ablations")
    parser.add_argument("--output", help="default: bench/results/y_tuning_TABLE.json")
    values = parser.parse_args(arguments)
    bench = Bench(
        Path(values.directory).resolve(),
        seeds=tuple(values.seeds),
        test=values.test,
        y_steps=values.steps,
    )
    records = table(bench, values.table, values.tasks)
    output = values.output or str(ROOT / f"bench/results/y_tuning_{values.table}.json")
    what = f"Y-Tuning by {values.table}: accuracy on test of each seed, {values.steps} steps"
    write(output, what, Path(bench.backbone), records)
    print(text(records))


if __name__ == "__main__":
    main()
