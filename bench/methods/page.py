"""docs/methods.md, from the results."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.methods import summary
from bench.methods.others import FOUND_FROM
from bench.methods.results import Cell, MethodResults
from bench.methods.tasks import SETTINGS_FROM, TASKS
from bench.methods.ways import METHODS
from spot_jax.files import write_whole
from spot_jax.studies.bootstrap import Estimate
from spot_jax.studies.engine.job import NO_PROMPT

HEAD = """# All methods on the tasks that ship

<!-- needs hours on two cores -->
```
{command}
```

Accuracy on test, mean and standard deviation over {seeds} seeds, with
[`backbones/mini`](mini.md), which has seen no label of any of the sets. "No prompt" is the bare
backbone on the text, decoded as with a prompt. All numbers of this page are from
[bench/results/methods.json](../bench/results/methods.json); the command does what is missing there
and writes the page anew.
"""

NOTES = """## How

- The first {test:,} test examples of a set, or all where it has fewer. Checkpoints are chosen on
  the first {validation} of validation, settings on those of {settings_from} with the first seed,
  for every set; the last table names them.
- The commonest label is that of the training split. The SVM reads whole texts: words and pairs of
  words, TF-IDF, the fields of a pair joined; C is chosen on the whole validation split.
- The label that is most likely is the answer.
- Prompt tuning, SPoT and intrinsic prompt tuning have {steps} updates; P-Tuning, prefixes, LoRA and
  IA3 have {prefix_steps}, so their rows are of less training; Y-Tuning has {y_steps} on features
  that are computed once.
{of_methods}
- Training time is that of the updates alone, without compiling, evaluating and choosing settings,
  for one seed; where seeds are tuned in one program they share its time.
- Trained numbers are those of one seed. The SVM's are its weights.
"""

# What is said of a method where the page has its row.
OF_METHODS = {
    "model_tuning": """\
- Model tuning is T5X's Adafactor (factored, scaled by the parameters) with a warm-up and a linear
  fall of the rate, about 32 examples a step, fewer where texts are long, without dropout. It has
  300 updates on every set; the best of three checkpoints is kept.""",
    "multitask_model_tuning": """\
- After a mixture, model tuning begins from one model that all eleven sets were tuned on together;
  that model's own time is not counted, and it is of one seed.""",
    "spot": """\
- SPoT's target begins from one prompt of the source, the first seed's. Sources are of the same
  family where it has another set, for the rest a set of another kind.""",
    "ist_5": """\
- Subspaces of intrinsic prompt tuning were found from one prompt of each of {found_from}, so there
  the task's own prompt is behind its d numbers, the paper's "same data"; {held_out} are held
  out.""",
    "y_tuning_triplet": "- Y-Tuning's time is without the making of its features.",
}


def render(results: MethodResults) -> str:
    """Return the whole page; of what is not done there is nothing on it."""
    settings = results.settings
    parts = [
        HEAD.format(
            command="\n".join(results.commands) or results.command,
            seeds=len(results.seeds),
        ),
        _accuracies(results, "Accuracy", _all(results)),
        _lines(results),
        _costs(results),
        NOTES.format(
            test=settings.get("test", 0),
            validation=settings.get("validation", 0),
            settings_from=_wrapped(SETTINGS_FROM),
            **{name: settings.get(name, 0) for name in ("steps", "prefix_steps", "y_steps")},
            of_methods=_of_methods(results),
        ),
        _choices(results),
        _machine(results),
    ]
    return "\n".join(part for part in parts if part)


def _of_methods(results: MethodResults) -> str:
    held_out = [name for name in TASKS if name not in FOUND_FROM]
    names = {
        "found_from": ", ".join(map(_wrapped, FOUND_FROM)),
        "held_out": ", ".join(map(_wrapped, held_out)),
    }
    shown = _methods(results, _all(results))
    return "\n".join(note.format(**names) for name, note in OF_METHODS.items() if name in shown)


def write(results: MethodResults, path: Path) -> None:
    """Write the page in one move."""
    write_whole(path, render(results))


def _all(results: MethodResults) -> list[str]:
    """Return sets of which something is done."""
    begun = {cell.task for cell in results.cells}
    return [name for name in TASKS if name in begun]


def _methods(results: MethodResults, tasks: Sequence[str]) -> list[str]:
    return [name for name in METHODS if any(results.get(task, name) for task in tasks)]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body, ""])


def _accuracies(results: MethodResults, title: str, tasks: Sequence[str]) -> str:
    if not tasks:
        return ""
    methods = _methods(results, tasks)
    shared = [task for task in tasks if all(results.get(task, method) for method in methods)]
    over = {"mean": tasks}
    if shared and len(shared) < len(tasks):
        over = {f"mean of {len(tasks)}": tasks, f"mean of the {len(shared)} of all rows": shared}
    rows = [["method", *(_wrapped(task) for task in tasks), *over]]
    for method in methods:
        cells = [results.get(task, method) for task in tasks]
        means = (summary.mean(results, method, some) for some in over.values())
        numbers = ("" if pair is None else _number(*pair) for pair in means)
        rows.append([METHODS[method].title, *map(_cell, cells), *numbers])
    return f"## {title}\n\n{_table(rows)}"


def _wrapped(task: str) -> str:
    return task.replace("_", " ")


def _cell(cell: Cell | None) -> str:
    return "" if cell is None else _number(cell.mean, cell.sd)


def _number(value: float, spread: float | None) -> str:
    spreads = spread is not None and not math.isnan(spread)
    return f"{value:.1f} ± {spread:.1f}" if spreads else f"{value:.1f}"


def _lines(results: MethodResults) -> str:
    """Return the table's result in sentences."""
    tasks = _all(results)
    sentences = []
    means = {name: summary.mean(results, name, tasks) for name in METHODS}
    if (bare := means[NO_PROMPT]) and (label := means["majority"]):
        sentences.append(
            f"- Without a prompt the mean of the {len(tasks)} sets is {bare[0]:.1f}, with the "
            f"commonest label {label[0]:.1f}: {_signed(bare[0] - label[0])} points."
        )
    if (svm := means["svm"]) and (model := means["model_tuning"]):
        sentences.append(
            f"- Model tuning has {model[0]:.1f} on the mean of the {len(tasks)} sets, the SVM "
            f"{svm[0]:.1f}: {_signed(model[0] - svm[0])} points."
        )
    share = summary.closed(results, tasks)
    if share is not None:
        by_task = {task: summary.closed(results, [task]) for task in tasks}
        shares = {task: s for task, s in by_task.items() if s is not None}
        parts = ", ".join(f"{_wrapped(task)} {_percent(s)}" for task, s in shares.items())
        third = sum(s >= 0.3 for s in shares.values())
        sentences.append(
            "- Prompt tuning closes "
            f"{_percent(share)} of the distance from the commonest label to model tuning, on the "
            f"means, and at least 30% on {third} of {len(shares)} sets: {parts}."
        )
    sentences += _changes(results, NO_PROMPT, "no prompt", tasks)
    sentences += _changes(results, "prompt_tuning", "prompt tuning", tasks)
    return "## In words\n\n" + "\n".join(sentences) + "\n" if sentences else ""


def _changes(results: MethodResults, against: str, name: str, tasks: list[str]) -> list[str]:
    """Compare each tuned method with another, in one sentence; none if nothing is done of it."""
    parts = []
    for key, method in METHODS.items():
        both = [t for t in tasks if results.get(t, key) and results.get(t, against)]
        moved = summary.change(results, key, against, both)
        if method.seeded and key != against and moved is not None:
            some = f", on {len(both)}" if len(both) < len(tasks) else ""
            parts.append(f"{method.title}{some} {_signed(moved.mean)}{_edges(moved)}")
    if not parts:
        return []
    return [
        f"- Against {name}, over all sets unless it is said on how many, in points with 95% "
        f"bootstrap intervals over sets and seeds: {'; '.join(parts)}."
    ]


def _edges(moved: Estimate) -> str:
    """Return the ends of the interval between sets; of one set it has none."""
    if math.isnan(moved.low):
        return ""
    return f" ({_signed(moved.low)} to {_signed(moved.high)})"


def _signed(value: float) -> str:
    return f"{value:+.1f}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f}%"


def _costs(results: MethodResults) -> str:
    tasks = _all(results)
    rows = [["method", "trained numbers", "training, s", "by set, s"]]
    for method in _methods(results, tasks):
        cells = [cell for task in tasks if (cell := results.get(task, method))]
        if method in ("majority", NO_PROMPT):
            continue
        numbers = sorted({cell.trainable for cell in cells})
        count = f"{numbers[0]:,}" + (f" to {numbers[-1]:,}" if len(numbers) > 1 else "")
        times = [cell.seconds for cell in cells]
        rows.append(
            [
                METHODS[method].title,
                count,
                f"{statistics.fmean(times):.1f}",
                f"{min(times):.1f} to {max(times):.1f}",
            ]
        )
    return f"## What is trained, and how long\n\n{_table(rows)}" if rows[1:] else ""


def _choices(results: MethodResults) -> str:
    tasks = _all(results)
    methods = [m for m in _methods(results, tasks) if m not in ("majority", NO_PROMPT)]
    rows = [["set", *(METHODS[method].title for method in methods)]]
    for task in tasks:
        cells = [results.get(task, method) for method in methods]
        rows.append([_wrapped(task), *("" if c is None else _chosen(c) for c in cells)])
    return f"## What validation chose\n\n{_table(rows)}" if methods else ""


def _chosen(cell: Cell) -> str:
    parts = []
    for name, value in cell.chosen.items():
        if name in ("recipe", "source"):
            parts.append(f"from {_wrapped(value)}" if name == "source" else str(value))
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _machine(results: MethodResults) -> str:
    machine = results.machine
    if "cores" not in machine:
        return ""
    seconds = sum(cell.whole_seconds for cell in results.cells)
    beside = "".join(f" {note}" for note in results.notes)
    return (
        f"Machine: {machine['cores']} cores, JAX {machine['jax']}. All cells together took "
        f"{seconds / 60:.0f} minutes, choosing and evaluating included.{beside}\n"
    )
