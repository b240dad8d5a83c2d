"""SPoT from the command line, on the tasks that ship and a tiny backbone: every kind of source, a
library, a search, and each way to transfer."""

import json

import pytest
from tiny_text import store_backbone

from spot_jax.cli.main import main
from spot_jax.methods.prompt_forms import load_prompt

TARGET = "bundled_vader_tweets"
PARAGRAPH = "A paragraph of plain text, number {i}, long enough to be cut into an input and a rest."


def settings(directory, backbone, **macros):
    values = {
        "MODEL_DIR": str(directory),
        "INITIAL_CHECKPOINT_PATH": str(backbone),
        "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4},
        "TRAIN_STEPS": 2,
        "EMBEDDING_STEP": 1,
        "EVAL_PERIOD": 1,
        "EVAL_EXAMPLES": 24,
        "PROMPT_LENGTH": 3,
        "BATCH_SIZE": 8,
        "DROPOUT_RATE": 0.0,
        **macros,
    }
    return [f"--gin.{name}={value!r}" for name, value in values.items()]


@pytest.mark.slow
def test_from_sources_of_every_kind_to_a_target(tmp_path, capsys):
    backbone = store_backbone(tmp_path / "backbone")
    library = str(tmp_path / "library")
    text = tmp_path / "text"
    text.mkdir()
    lines = [PARAGRAPH.format(i=i) for i in range(400)]
    (text / "a.txt").write_text("\n".join(lines))
    sources = {
        "task": {"MIXTURE_OR_TASK_NAME": "bundled_sms_spam"},
        "text": {"MIXTURE_OR_TASK_NAME": "prefix_lm", "TEXT_DIRECTORY": str(text)},
        "mixture": {"MIXTURE_OR_TASK_NAME": "bundled_vader_movie+bundled_sms_spam"},
        "leak": {"MIXTURE_OR_TASK_NAME": "bundled_sentiment"},
    }
    for name, macros in sources.items():
        run = tmp_path / name
        source = ["--gin_file=gin_configs/runs/spot_source.gin"]
        assert main(["train", *source, *settings(run, backbone, **macros)]) == 0
        assert main(["prompts", "add", str(run), "--library", library]) == 0
    best = load_prompt(tmp_path / "mixture" / "prompts" / "best-0.safetensors")
    assert best.tasks == ("bundled_sms_spam", "bundled_vader_movie")
    # Each task of a mixture is scored by itself, by the labels that are its own.
    scores = [best.metrics[f"{task}/score"] for task in best.tasks]
    assert best.metrics["score"] == pytest.approx(sum(scores) / 2)
    capsys.readouterr()

    search = ["prompts", "search", "--library", library, "--task", TARGET, "--json"]
    output = ["--output_dir", str(tmp_path / "search"), "--backbone", backbone]
    assert main([*search, *output]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {match["task"] for match in result["matches"]} == {
        macros["MIXTURE_OR_TASK_NAME"] for name, macros in sources.items() if name != "leak"
    }
    assert any(f"1 that have seen {TARGET}" in note for note in result["notes"])

    transfer = ["transfer", "--gin_file=gin_configs/runs/spot_transfer.gin"]
    common = settings(tmp_path / "transfer", backbone, SOURCE_STEPS=2, TEXT_DIRECTORY=str(text))
    for method in ("scratch", "best_of_top_k", "weighted_average", "multitask_mixture", "oracle"):
        flags = [f"--method={method}", "--top_k=2", f"--library={library}", f"--target={TARGET}"]
        assert main([*transfer, *flags, *common]) == 0
        out = capsys.readouterr().out
        assert f"{TARGET} by {method}:" in out and "chosen on validation, scored on test" in out
        assert ("retrieved by per_token:" in out) == (method != "scratch")
