"""Y-Tuning from the command line: train, eval, infer, and a file with a backbone alone."""

import io
import json

import numpy as np
import pytest
from tiny_text import VOCABULARY, store_backbone

from spot_jax.cli.main import main
from spot_jax.data.examples import Examples
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.t5.vocabulary import Vocabulary

WORDS = ["good", "bad"]


def command(directory, task, file="y_tuning", **macros):
    values = {
        "MODEL_DIR": str(directory / "run"),
        "INITIAL_CHECKPOINT_PATH": str(directory / "backbone"),
        "MIXTURE_OR_TASK_NAME": task,
        "TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 4},
        "FEATURE_CACHE": str(directory / "features"),
        "TRAIN_STEPS": 4,
        "EVAL_PERIOD": 2,
        "BATCH_SIZE": 8,
        **macros,
    }
    settings = [f"--gin.{name}={value!r}" for name, value in values.items()]
    return ["train", f"--gin_file=gin_configs/runs/{file}.gin", *settings]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on arrays, whose labels are given by hand."""
    directory = tmp_path_factory.mktemp("y_tuning")
    store_backbone(directory / "backbone")
    vocabulary, rng = Vocabulary(VOCABULARY), np.random.default_rng(0)
    answers = [[*vocabulary.encode(word), 1] for word in WORDS]
    for split in ("train", "validation"):
        texts = [rng.integers(3, 8000, rng.integers(3, 9)).tolist() for _ in range(24)]
        pairs = [([*text, 1], answers[text[0] % 2]) for text in texts]
        Examples.from_lists(pairs).save(directory / f"task-{split}.npz")
    task = str(directory / "task-{split}.npz")
    assert main(command(directory, task, LABELS=WORDS)) == 0
    return directory


def scored(capsys, *arguments):
    assert main(["eval", *map(str, arguments), "--split", "validation", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    return row


def test_eval_and_infer_are_what_training_saw(trained, capsys, monkeypatch):
    best = json.loads((trained / "run" / "result.json").read_text())["best"][0]
    capsys.readouterr()
    scored_run = scored(capsys, trained / "run")
    assert scored_run["metrics"]["accuracy"] == best["metrics"]["accuracy"]
    assert scored_run["loss"] == pytest.approx(best["metrics"]["loss"], rel=1e-5)
    # The file alone, on the backbone it was tuned on.
    file = trained / "run" / "prompts" / "best-0.safetensors"
    alone = scored(capsys, "--backbone", trained / "backbone", "--prompt", file)
    assert alone["metrics"] == scored_run["metrics"]

    monkeypatch.setattr("sys.stdin", io.StringIO("what a day\n\nnot again ...\n"))
    assert main(["infer", str(trained / "run")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["inputs"] for row in rows] == ["what a day", "not again ..."]
    assert {row["prediction"] for row in rows} <= set(WORDS)

    monkeypatch.setattr("sys.stdin", io.StringIO("what a day\n"))
    assert main(["infer", str(trained / "run"), "--labels", "good,fine"]) == 2
    assert "expected labels that were tuned (good, bad), found 'fine'" in capsys.readouterr().err


@pytest.mark.slow
def test_on_a_bundled_task_whose_labels_are_known(trained, tmp_path, capsys):
    (tmp_path / "backbone").symlink_to(trained / "backbone")
    assert main(command(tmp_path, "bundled_vader_tweets", SEEDS=[0, 1], FEATURES="mix")) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--split", "validation", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    best = json.loads((tmp_path / "run" / "result.json").read_text())["best"]
    for row, seen in zip(rows, best, strict=True):
        assert row["score"] == seen["score"]
    # An ensemble of what are no virtual tokens is refused, a generation task too.
    assert main(["eval", str(tmp_path / "run"), "--ensemble"]) == 2
    assert "score each alone" in capsys.readouterr().err
    other = {"MODEL_DIR": str(tmp_path / "other")}
    assert main(command(tmp_path, "mrqa_squad", **other)) == 2
    assert "it writes text" in capsys.readouterr().err


@pytest.mark.slow
def test_stsb_by_its_file(trained, tmp_path, capsys):
    """GLUE's one regression: 26 written scores are the labels, correlations the metrics."""
    import seqio
    from tfds_cases import without_bucket, write_tfds

    scores = [5.0 * i / 24 for i in range(25)]
    rows = [
        {"sentence1": f"a dog runs {i}", "sentence2": f"a dog ran {i}", "label": score, "idx": i}
        for i, score in enumerate(scores)
    ]
    with without_bucket():
        write_tfds(tmp_path / "tfds", "glue/stsb:2.0.0", ["train", "validation", "test"], rows)
    (tmp_path / "backbone").symlink_to(trained / "backbone")
    seqio.set_tfds_data_dir_override(str(tmp_path / "tfds"))
    try:
        arguments = command(tmp_path, "glue_stsb", "y_tuning_stsb", BATCH_SIZE=5)
        assert main(arguments) == 0
        (best,) = json.loads((tmp_path / "run" / "result.json").read_text())["best"]
        capsys.readouterr()
        row = scored(capsys, tmp_path / "run")
    finally:
        seqio.set_tfds_data_dir_override(None)
    assert {"pearson_corrcoef", "spearman_corrcoef"} <= set(row["metrics"])
    assert row["score"] == pytest.approx(best["score"], nan_ok=True)
    file = load_prompt(tmp_path / "run" / "prompts" / "best-0.safetensors")
    assert file.method["decoder"]["classes"] == 26
