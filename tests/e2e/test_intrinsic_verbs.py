"""Intrinsic subspaces from the command line: found, tuned in, scored, used, and begun from."""

import io
import json

import pytest
from tiny_text import store_backbone

from spot_jax.cli.main import main
from spot_jax.methods.prompt_forms import load_prompt

PROMPT = {"PROMPT_LENGTH": 3, "EvaluationPlan.examples": 24}
SUBSPACE = {"WARMUP_STEPS": 1, "EVAL_EXAMPLES": 24}
TASKS = ["bundled_vader_tweets", "bundled_sms_spam"]


def prompt_of(run, i=0, which="best"):
    return str(run / "prompts" / f"{which}-{i}.safetensors")


@pytest.mark.slow
def test_a_subspace_from_stored_prompts_to_predictions(tmp_path, capsys, monkeypatch):
    backbone = store_backbone(tmp_path / "backbone")

    def train(file, name, **macros):
        settings = {
            "MODEL_DIR": str(tmp_path / name),
            "INITIAL_CHECKPOINT_PATH": backbone,
            "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4},
            "TRAIN_STEPS": 2,
            "EVAL_PERIOD": 1,
            "EvaluationPlan.batch_size": 8,
            "DROPOUT_RATE": 0.0,
            **(PROMPT if file == "prompt_tuning" else SUBSPACE),
            **macros,
        }
        flags = [f"--gin.{key}={value!r}" for key, value in settings.items()]
        assert main(["train", f"--gin_file=gin_configs/runs/{file}.gin", *flags]) == 0
        return tmp_path / name

    def scored(*arguments):
        """What `spot eval` says, checked against what training wrote."""
        capsys.readouterr()
        flags = ["--split", "validation", "--examples", "24", "--json"]
        assert main(["eval", *arguments, *flags]) == 0
        return json.loads(capsys.readouterr().out)

    def inferred(*arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO("what a day\nnot again ...\n"))
        capsys.readouterr()
        assert main(["infer", *arguments]) == 0
        return [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]

    stored = train("prompt_tuning", "stored", MIXTURE_OR_TASK_NAME=TASKS)
    msf = train(
        "intrinsic_msf",
        "msf",
        MIXTURE_OR_TASK_NAME=TASKS,
        PROMPTS=[prompt_of(stored, i) for i in range(2)],
        BATCH_SIZE=2,
    )
    subspace = str(msf / "prompts" / "subspace-best-0.safetensors")
    runs = {
        "msf": msf,
        "ist": train("intrinsic_ist", "ist", MIXTURE_OR_TASK_NAME=TASKS, SUBSPACE=subspace),
        "fastfood": train("fastfood", "fastfood", MIXTURE_OR_TASK_NAME=TASKS[0], DIM=4),
    }
    for run in runs.values():
        for i, row in enumerate(scored(str(run))):
            metrics = load_prompt(prompt_of(run, i)).metrics
            assert {**row["metrics"], "loss": row["loss"], "score": row["score"]} == metrics
        # One file with a backbone is as good as the run.
        alone = ["--prompt", prompt_of(run), "--backbone", backbone]
        lengths = ["--inputs_length", "16", "--targets_length", "4"]
        (by_file,) = scored(*alone, *lengths)
        assert by_file["score"] == pytest.approx(load_prompt(prompt_of(run)).metrics["score"])
        labels = ["negative", "neutral", "positive"]
        for source in ([*alone, "--labels", ",".join(labels)], [str(run), "--task", TASKS[0]]):
            answers = inferred(*source)
            assert len(answers) == 2 and set(answers) <= set(labels)

    # The paper's second stage: prompt tuning goes on from what IST found.
    source = prompt_of(runs["ist"])
    both = train(
        "prompt_tuning",
        "second",
        MIXTURE_OR_TASK_NAME=TASKS[0],
        PROMPT_INIT="prompt",
        SOURCE_PROMPT=source,
    )
    second = load_prompt(prompt_of(both))
    assert [ancestor["file"] for ancestor in second.ancestry] == [source]
