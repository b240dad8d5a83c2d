"""The papers' two studies by their shipped files, on `mini` and small data in the papers' forms.

What is asked for is what a user types: the file, the backbone, and the macros that make it small.
Data sets are written where the files look for them, with texts that ship.
"""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.subspace.results import SubspaceResults
from spot_jax.studies.transfer.results import TransferResults
from tasks.bundled import reading

ROOT = Path(__file__).parents[2]
ROWS = 16
"""Number of rows of every split."""


def flags(study, **macros):
    settings = {"STUDY_DIR": str(study), "INITIAL_CHECKPOINT_PATH": "backbones/mini", **macros}
    return [f"--gin.{name}={value!r}" for name, value in settings.items()]


def texts(name, split="train", labels=None):
    """(text, label) of rows that ship, two of each label in turn, so that halves have both."""
    rows = reading.rows(name, split)
    labels = labels or sorted({row["label"] for row in rows})
    (field, *_) = reading.find(name).fields
    of = [[(r[field], r["label"]) for r in rows if r["label"] == label] for label in labels]
    pairs = [zip(each[::2], each[1::2], strict=False) for each in of]
    return [row for pair in zip(*pairs, strict=False) for two in pair for row in two]


def digests(study):
    """What is on disk, without locks and compiled programs."""
    return {
        str(path.relative_to(study)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(study.rglob("*"))
        if path.is_file() and path.name not in ("lock", ".lock") and "compiled" not in path.parts
    }


def spot(arguments, **options):
    """A process of the command, from the repository's root as its header says."""
    command = [sys.executable, "-m", "spot_jax.cli.main", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes, **options)


def lines_of(arguments):
    """What the command writes, once it has ended well."""
    with spot(arguments) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return out.splitlines()


def done_in_spite_of_a_kill(arguments, study, after):
    """Kill a study after so many jobs with another under way, go on, and ask for it again.

    The number of prompts of each job is returned.
    """
    with spot(arguments) as process:
        while (
            len(list(study.glob("jobs/*/result.json"))) < after
            or len(list(study.glob("jobs/*/run"))) <= after
        ):
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (study / "results.json").exists()
    done = {path: path.stat().st_mtime_ns for path in study.glob("jobs/*/result.json")}

    assert lines_of(arguments)[-1] == str(study / "index.html")
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    jobs = len(list(study.glob("jobs/*/result.json")))
    assert 0 < len(done) < jobs

    before = digests(study)
    first, *rest = lines_of(arguments)
    assert f"{study}: {jobs} jobs" in first and first.endswith(f", {jobs} jobs done")
    assert rest == [str(study / "results.json"), str(study / "index.html")]
    assert digests(study) == before

    *listed, last = lines_of([*arguments, "--jobs"])[1:]
    assert last == f"{jobs} of {jobs} done"
    return {line.split()[0]: int(line.split()[-1]) for line in listed}


def table(study, name):
    with (study / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """C4, SST-2 and MRPC as TFDS has them, and CR as a file; each of a few rows that ship."""
    from tfds_cases import without_bucket, write_tfds

    from tasks.papers.catalogue import BY_NAME

    root = tmp_path_factory.mktemp("data")
    good_or_bad = ["negative", "positive"]
    movies = texts("vader_movie", labels=good_or_bad)[:ROWS]
    pairs = reading.rows("bible_paraphrase", "train")[:ROWS]
    rows = {
        "c4_prefix_lm": [{"text": text * 8} for text, _ in movies],
        "glue_sst2": [
            {"sentence": text, "label": good_or_bad.index(label)} for text, label in movies
        ],
        "glue_mrpc": [
            {"sentence1": row["text1"], "sentence2": row["text2"], "label": number % 2}
            for number, row in enumerate(pairs)
        ],
    }
    with without_bucket():
        for name, items in rows.items():
            item = BY_NAME[name]
            splits = dict.fromkeys(item.splits.get(split, split) for split in item.sizes)
            write_tfds(root, item.location, splits, items)
    reviews = texts("vader_amazon", labels=good_or_bad)
    (root / "cr").mkdir()
    for number, split in enumerate(("train", "validation")):
        chosen = reviews[number * ROWS : (number + 1) * ROWS]
        lines = [json.dumps({"sentence": text, "label": label}) for text, label in chosen]
        (root / "cr" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_spots_study_from_its_file(tfds_directory, tmp_path, monkeypatch):
    """Its sources and targets cut to two each: text and a task, a file and a set of TFDS."""
    study = tmp_path / "study"
    sources, targets = ["c4_prefix_lm", "glue_sst2"], ["cr", "glue_mrpc"]
    arguments = [
        *("study", "--gin_file=gin_configs/studies/spot_paper.gin"),
        *flags(
            study,
            SOURCES=sources,
            TARGETS=targets,
            SEEDS=[0, 1],
            SOURCE_STEPS=4,
            TARGET_STEPS=2,
            EMBEDDING_STEP=1,
            EVAL_PERIOD=2,
            BATCH_SIZE=4,
            PROMPT_LENGTH=4,
            TASK_FEATURE_LENGTHS={"inputs": 24, "targets": 8},
            TOP_K=[2],
            SOURCE_VALIDATION_EXAMPLES=8,
            PROMPTS_AT_ONCE=2,
        ),
    ]
    for name in ("TFDS_DATA_DIR", "SPOT_DATA_DIR"):
        monkeypatch.setenv(name, str(tfds_directory))
    jobs = done_in_spite_of_a_kill(arguments, study, 5)

    # Every prompt of the grid: 2 sources, and of a target 1 without a prompt, 2 seeds from scratch,
    # from each source, from an average and from a mixture.
    assert sum(jobs.values()) == 2 * 2 + 2 * (1 + 2 + 2 * 2 + 2 + 2)
    results = TransferResults.read(study)
    keys = [(s.target, s.method, s.source, s.k, s.seed) for s in results.scores]
    assert len(keys) == len(set(keys)) == 2 * (2 + 2 * 2 + 2 + 2)
    assert all(0 <= score.test <= 100 for score in results.scores)
    # GLUE's test answers are hidden: half of the 16 rows chooses, the other half reports.
    assert {score.test % 12.5 for score in results.scores if score.target == "cr"} == {0.0}
    for baseline in (results.majority, results.no_prompt):
        assert set(baseline) == set(targets)
    assert results.majority["cr"] == 50.0
    assert results.split == "test, or half of validation where test has no answers"
    # A mixture's prompt is the final one of as many steps as a source's.
    mixed = list(study.glob("jobs/multitask_mixture-*/run/prompts/best-*.safetensors"))
    assert [load_prompt(path).ancestry[0]["step"] for path in mixed] == [4] * 4
    for name in ("methods", "transfer", "targets", "prompts"):
        assert table(study, name), name
    methods = {row["method"] for row in table(study, "methods")}
    assert {"majority", NO_PROMPT, "scratch", "weighted_average", "multitask_mixture"} <= methods
    assert len(table(study, "transfer")) == 4 and len(table(study, "prompts")) >= 4
    assert (study / "figures" / "transfer.svg").stat().st_size > 1000
    page = (study / "index.html").read_text()
    assert "SPoT, section 3" in page and "no prompt" in page.lower()


@pytest.fixture(scope="module")
def crossfit_directory(tmp_path_factory):
    """Two training tasks of the paper in two samples and a held-out one, in CrossFit's files."""
    from tasks.papers import crossfit_sets

    root = tmp_path_factory.mktemp("crossfit")
    good_or_bad = ["negative", "positive"]
    content = {
        "glue-sst2": texts("vader_movie", labels=good_or_bad),
        "sms_spam": texts("sms_spam"),
        "rotten_tomatoes": texts("vader_amazon", labels=good_or_bad),
    }
    for title, rows in content.items():
        task = crossfit_sets.gym().tasks[title]
        for sample in (100, 21):
            for stem in crossfit_sets.STEMS.values():
                chosen, rows = rows[:ROWS], rows[ROWS:]
                path = root / "crossfit" / title / f"{title}_{task.k}_{sample}_{stem}.tsv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{' '.join(t.split())}\t{a}\n" for t, a in chosen))
    return root


@pytest.mark.slow
def test_the_study_of_subspaces_from_its_file(crossfit_directory, tmp_path, monkeypatch):
    """Two of its 100 training tasks and one of the 20, one dimension of each kind of subspace."""
    study = tmp_path / "study"
    train, held_out = ["crossfit_glue_sst2", "crossfit_sms_spam"], "crossfit_rotten_tomatoes"
    arguments = [
        *("intrinsic", "ist", "--gin_file=gin_configs/studies/intrinsic_paper.gin"),
        *flags(
            study,
            TRAIN_TASKS=train,
            TEST_TASKS={"test": [held_out]},
            SUBSETS=[],
            SUBSET_DIMENSIONS=[],
            DIMENSIONS=[2],
            FASTFOOD_DIMENSIONS=[3],
            SEEDS=[0],
            PROMPT_LENGTH=4,
            TASK_FEATURE_LENGTHS={"inputs": 24, "targets": 6},
            DTYPE="float32",
            PROMPT_STEPS=2,
            MSF_STEPS=2,
            IST_STEPS=2,
            FASTFOOD_STEPS=2,
            MODEL_STEPS=1,
            PROMPT_BATCH_SIZE=4,
            PROMPTS_AT_ONCE=5,
        ),
    ]
    monkeypatch.setenv("SPOT_DATA_DIR", str(crossfit_directory))
    jobs = done_in_spite_of_a_kill(arguments, study, 4)

    tasks = [*train, *(f"{task}_s21" for task in train), held_out]
    assert {f"{kind}-{task}" for kind in ("prompts", NO_PROMPT) for task in tasks} <= set(jobs)
    results = SubspaceResults.read(study)
    settings = [(score.setting, score.subspace) for score in results.scores]
    assert {key: settings.count(key) for key in settings} == {
        ("train_msf", "found"): 2,
        ("test_msf", "found"): 1,
        ("train_same_ist", "found"): 2,
        ("train_diff_ist", "found"): 2,
        ("test_ist", "found"): 1,
        ("test_ist", "random"): 1,
        ("test_ist", "fastfood"): 1,
        ("test_second", "found"): 1,
    }
    assert all(0 <= score.test <= 100 for score in results.scores)
    methods = [reference.method for reference in results.references]
    assert methods.count("prompt_tuning") == methods.count("model_tuning") == len(tasks)
    for baseline in (results.majority, results.no_prompt):
        assert set(baseline) == set(tasks)
    # Proj and Proj_b of d = 2 from prompts of 4 x 256, as docs/intrinsic.md counts them.
    assert results.trained["subspace 2"] == (1024 + 1) * 2 + 769 * 1024 + 768 * 3
    groups = {row["subspace"] for row in table(study, "relative")}
    assert {"found", "random", "fastfood", NO_PROMPT, "majority"} <= groups
    assert {path.stem for path in (study / "tables").iterdir()} >= {"relative", "trained"}
    assert (study / "figures" / "scores.svg").stat().st_size > 1000
    assert "Intrinsic subspaces of 100 few-shot tasks" in (study / "index.html").read_text()
