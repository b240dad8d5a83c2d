"""Writes docs/tasks.md from the registry, the catalogue and the samples.

python -m tasks.papers.document            writes the page
python -m tasks.papers.document --check    says whether it is up to date (exit code 1 if not)
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import seqio
import tensorflow as tf

from spot_jax.data import verbalizers
from tasks import papers_tasks  # noqa: F401
from tasks.papers import samples_files
from tasks.papers.catalogue import CATALOGUE, PTUNING, base_of
from tasks.papers.crossfit_sets import gym
from tasks.papers.data_set import SPLITS, DataSet
from tasks.papers.fewglue_sets import DIRECTORY, PREFIX, SETS
from tasks.papers.lama_sets import RELATIONS
from tasks.papers.proportions import MAXIMUM, mixtures, rates
from tasks.papers.ptuning import PATTERNS
from tasks.papers.rows_files import LAYOUTS
from tasks.papers.sample_tensors import tensors

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
PAPERS = {
    "spot": "SPoT (Vu et al. 2022)",
    "lester": "Prompt Tuning (Lester et al. 2021)",
    "ptuning": "P-Tuning (Liu et al. 2021)",
    "ipt": "Intrinsic Prompt Tuning (Qin et al. 2021)",
}

HEAD = """\
# The papers' tasks

Made by `python -m tasks.papers.document`; do not edit.

`spot tasks list` prints this table, `spot tasks show NAME` the first examples of a set as text and
as pieces, `spot tasks check NAME` what of its data is missing on this machine. No module need be
named: `spot` finds these names by itself. Every `NAME` has `NAME_no_prefix`, without the task's
name in the text (Lester et al. 2021, section 3); C4 has no name in its text.

## Where the data come from

Nothing is downloaded. Sets of TFDS are read from `TFDS_DATA_DIR`, a path or a bucket, or from
`~/tensorflow_datasets`; `tfds build NAME/CONFIG:VERSION` prepares one. The others are files below
the directory, or bucket, that the environment variable `SPOT_DATA_DIR` names, looked at when they
are read:
"""

CACHING = f"""\
## Caching

A task of up to 2,000,000 examples is read and tokenised once, when a run begins, and held in
memory; a larger one is streamed. One core makes what a T5 1.1 base takes on 8 TPU cores (an
estimate: 2,084 examples a second of 64 pieces, 683 of 512) for all tasks but three:
`c4_prefix_lm` needs 1.6 cores, `gem_schema_guided_dialog` 1.3 and `multi_news` 1.1. To read a
training split into memory takes one core seconds for most sets and minutes for the largest
(Newsroom 17, DocNLI 8; all sets together 70); `bench/results/text_pipeline.json` has the figures.
Where that is too long, seqio's own command tokenises a task once for all runs, on Apache Beam.
Beam needs an older protobuf than the newest sentencepiece does: give it its own environment.

```
python3 -m venv .beam && . .beam/bin/activate
pip install . 'apache-beam[gcp,tfrecord]' 'sentencepiece<0.2.2'
seqio_cache_tasks --module_import=tasks.papers_tasks --tasks='^glue_mnli$,^squad$' \\
  --output_cache_dir=gs://BUCKET/cache --pipeline_options=--runner=DataflowRunner,...
```

`--pipeline_options=--runner=DirectRunner` works on this machine alone. `USE_CACHED_TASKS = True`
makes a run read the cache; it is found by a module of yours that says
`seqio.add_global_cache_dirs(["gs://BUCKET/cache"])` and that `MIXTURE_OR_TASK_MODULE` names. C4 is
cut anew by each run's lengths and has no cache; text as tokens in a file, `FILE.npy:prefix_lm`, is
the quick way there.

The cache holds ids, so it is of one vocabulary: T5's, which all T5 1.0, 1.1, LM-adapted and Flan
checkpoints have. A run with another one refuses the cache. `--tasks` takes regular expressions.

## Mixtures

Example-proportional with an artificial limit (SPoT, section 2.1.3): a task of n training examples
comes in proportion to min(n, {MAXIMUM:,}). The numbers are those above; where the data differ, a
run says so in one line.
"""


def page(forms: str | None = None) -> str:
    """Return the whole page; `forms` in the place of its section of forms, which takes seconds."""
    written = "\n".join(_forms()) if forms is None else forms
    return "\n".join(
        [HEAD, *_layouts(), "## Sets\n", *_sets(), "", written, CACHING, *_mixtures(), ""]
        + [*_fewglue(), "", *_crossfit(), "", *_lama(), ""]
    )


def form(name: str) -> str:
    """Return a task's form: its name and labels, then what it writes of its set's first sample."""
    labels = verbalizers.of(name) or ()
    shown = f"  [{', '.join(labels)}]" if 0 < len(labels) <= 5 else ""
    if name == "c4_prefix_lm":
        lines, targets = ["text up to a random place"], "the rest"
    else:
        inputs, targets = example(name)
        lines = inputs.splitlines()
    return "\n  ".join([name + shown, *lines, f"-> {' '.join(targets.splitlines())}"])


def example(name: str) -> tuple[str, str]:
    """Return the inputs and targets that a task writes of its first sample, by its own steps."""
    task = seqio.TaskRegistry.get(name)
    dataset = tf.data.Dataset.from_tensors(tensors(base_of(name)))
    for step in task.preprocessors:
        if step is seqio.preprocessors.tokenize:
            break
        dataset = step(dataset)
    row = next(dataset.as_numpy_iterator())
    return row["inputs"].decode("utf-8"), row["targets"].decode("utf-8")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _layouts() -> Iterator[str]:
    for layout in LAYOUTS.values():
        yield f"- {layout.describe()}"
    yield (
        "- crossfit/TASK/TASK_K_SAMPLE_{train,dev,test}.tsv as CrossFit's own script writes them: "
        "input, tab, answer, and after further tabs more right answers"
    )
    yield (
        "- lama/single_relations/P17.jsonl with template, and "
        "lama/fact-retrieval/original/P17/{train,dev,test}.jsonl with sub_label and obj_label, as "
        "P-Tuning's authors packed them\n"
    )
    yield "A `.tsv` of the first ones has a line of column names; in TSV nothing is quoted.\n"


def _sets() -> Iterator[str]:
    def row(item: DataSet) -> list[str]:
        splits = [
            f"{item.sizes[split]:,}" if split in item.labelled_splits else "" for split in SPLITS
        ]
        where = "files" if item.source == "files" else f"TFDS `{item.location}`"
        roles = f" ({', '.join(item.roles)})" if item.roles else ""
        used = ", ".join(PAPERS[paper].split(" (")[0] for paper in item.papers) + roles
        families = ", ".join(item.families)
        metrics = ", ".join(item.metrics) or "loss"
        return [f"`{item.name}`", item.title, where, *splits, metrics, families, used]

    head = ["task", "set", "source", *SPLITS, "metric", "mixtures", "paper"]
    yield from _table(head, map(row, CATALOGUE))
    yield ""
    yield (
        "Sizes are rows of the source. A checkpoint is chosen by the mean of a task's metrics. "
        "source and target are the roles in SPoT's transfer study, shift those in Lester's domain "
        "shift. Splits whose answers their makers keep back are left out.\n"
    )
    yield from (f"- `{item.name}`: {item.note}" for item in CATALOGUE if item.note)


def _forms() -> Iterator[str]:
    yield "## Forms\n"
    yield (
        "What each task writes of an invented row: inputs, and targets after an arrow; label words "
        "in brackets.\n"
    )
    yield "```"
    yield from (form(item.name) for item in CATALOGUE)
    yield "```\n"
    yield (
        "P-Tuning's patterns of SuperGLUE (PT-Fewshot): the answer belongs where `<extra_id_0>` "
        "stands, a virtual token where `<extra_id_99>` does, and what stands between two "
        "`<extra_id_98>` is cut where an example is too long. p_tuning.md says more.\n"
    )
    yield "```"
    yield from (form(name + PTUNING) for name in PATTERNS)
    yield "```\n"


def _mixtures() -> Iterator[str]:
    def row(name: str) -> list[str]:
        shares = sorted(rates(name).items(), key=lambda pair: (-pair[1], pair[0]))
        return [
            f"`{name}`",
            str(len(shares)),
            ", ".join(f"{task} {100 * rate:.2f}" for task, rate in shares),
        ]

    yield from _table(["mixture", "tasks", "per cent"], map(row, mixtures()))


def _crossfit() -> Iterator[str]:
    catalogue, split = gym(), gym().splits["random"]
    yield (
        f"## CrossFit's few-shot tasks (IPT)\n\n{len(catalogue.tasks)} tasks, each in "
        f"{len(catalogue.samples)} samples: NAME is sample 100, which IPT trains on; NAME_s13, "
        "NAME_s21, NAME_s42 and NAME_s87 are the others. The text is `[TASK] ` and the input; the "
        "target is the first answer. `part` is that of IPT's random split, mixed as "
        "`crossfit_random_train` and `crossfit_random_test` in proportion to the number of "
        "examples; other splits are mixed alike (`spot tasks list`).\n"
    )
    yield from _table(
        ["task", "k", "metric", "category", "part"],
        (
            [
                f"`{task.name}`",
                f"{task.k} a label" if task.per_label else str(task.k),
                task.metric,
                task.category,
                next(part for part, titles in split.items() if task.title in titles),
            ]
            for task in catalogue.tasks.values()
        ),
    )


def _fewglue() -> Iterator[str]:
    names = ", ".join(f"`{PREFIX}{name}{PTUNING}`" for name in SETS)
    folders = ", ".join(folder for folder, _ in SETS.values())
    yield (
        "## FewGLUE (P-Tuning)\n\n"
        f"{names}: SuperGLUE's sets with 32 examples, in P-Tuning's patterns. `train` is FewGLUE's "
        "(of WSC the true pairs), `validation` P-Tuning's dev32, `test` SuperGLUE's validation "
        f"split: `$SPOT_DATA_DIR/{DIRECTORY}/SET/{{train,dev32,val}}.jsonl` in SuperGLUE's own "
        f"JSON, SET being {folders}."
    )


def _lama() -> Iterator[str]:
    sample = samples_files.LAMA
    inputs = sample["template"].replace("[X]", sample["sub_label"]).replace("[Y]", "<extra_id_0>")
    yield (
        f"## LAMA (P-Tuning)\n\n{len(RELATIONS)} relations of T-REx, `lama_P17` and so on, and "
        "`lama` of all. The metric is precision_at_1. The relation's template is the input, with "
        f"the subject and a gap, such as `{inputs}`; the target is the object, "
        f"`{sample['obj_label']}`. `lama_P17_ptuning` and `lama_ptuning` have P-Tuning's template "
        "and answers of a restricted vocabulary: the words of lama/vocabulary.txt, one a line, or "
        "without that file the objects of the relation's own facts."
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    if list(arguments) not in ([], ["--check"]):
        raise SystemExit("usage: python -m tasks.papers.document [--check]")
    text = page()
    if not arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
    if not same:
        print(f"{PAGE} is not up to date; run python -m tasks.papers.document", file=sys.stderr)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
