"""`spot transfer`: its flags are short for macros of its run file."""

import pytest

from spot_jax.cli.main import main
from spot_jax.transfer import transfer as transfer_module

RUN = ["transfer", "--gin_file=gin_configs/runs/spot_transfer.gin"]
REQUIRED = [
    "--gin.MODEL_DIR='run'",
    "--gin.INITIAL_CHECKPOINT_PATH='backbone'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 2}",
]


@pytest.fixture
def called(monkeypatch):
    """The arguments that `transfer` was called with; it does nothing."""
    arguments = {}

    def transfer(
        *, model_dir, tuning, method, library, top_k, metric, embedding, report_split,
        operative_config="",
    ):  # fmt: skip
        arguments.update(locals())
        raise SystemExit(0)

    monkeypatch.setattr(transfer_module, "transfer", transfer)
    return arguments


def test_the_papers_setting_is_the_run_files(called):
    main([*RUN, *REQUIRED, "--target=boolq", "--library=lib"])
    tuning = called["tuning"]
    assert (called["method"], called["top_k"], called["metric"]) == (
        "best_of_top_k",
        3,
        "per_token",
    )
    assert (tuning.train_steps, tuning.source_steps) == (100_000, 2**18)
    assert (tuning.checkpoints.embedding_step, tuning.evaluation.period) == (10_000, 500)
    assert (tuning.optimizer.learning_rate, tuning.optimizer.weight_decay) == (0.3, 1e-5)
    assert not tuning.optimizer.parameter_scale
    assert (tuning.data.batch_size, tuning.backbone.dropout_rate) == (32, 0.1)
    assert (tuning.source_init, tuning.method.length) == ("sampled_vocabulary", 100)


def test_flags_are_short_for_macros(called):
    flags = ["--method=oracle", "--library=gs://lib", "--target=boolq", "--top_k=5"]
    main([*RUN, *REQUIRED, *flags, "--metric=average_tokens", "--embedding=e.safetensors"])
    actual = {name: called[name] for name in ("method", "library", "top_k", "metric", "embedding")}
    assert actual == {
        "method": "oracle",
        "library": "gs://lib",
        "top_k": 5,
        "metric": "average_tokens",
        "embedding": "e.safetensors",
    }
    assert called["tuning"].target == "boolq"
    # What was asked for is kept with the run.
    assert "METHOD = 'oracle'" in called["operative_config"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (RUN[:1], "needs a run to do: add --gin_file=gin_configs/runs/spot_transfer.gin"),
        ([*RUN, *REQUIRED], "leaves MIXTURE_OR_TASK_NAME to you"),
        ([*RUN, "--method=oracle", "--gin.METHOD='scratch'"], "two flags disagree about METHOD"),
        ([*RUN, "--top_k=many"], "--top_k: invalid int value: 'many'"),
    ],
)
def test_mistakes_are_one_line(arguments, line, capsys, called):
    assert main(arguments) == 2
    complaint = capsys.readouterr().err
    assert line in complaint and complaint.count("\n") == 1
    assert not called


def test_source_and_target_runs_are_the_papers(monkeypatch):
    from spot_jax.cli.configurables import configured

    def read(name, **macros):
        required = {"MODEL_DIR": "r", "INITIAL_CHECKPOINT_PATH": "b", "MIXTURE_OR_TASK_NAME": "t"}
        flags = {**required, "TASK_FEATURE_LENGTHS": {"inputs": 8, "targets": 2}, **macros}
        pairs = [(f"--gin.{key}", f"{key} = {value!r}") for key, value in flags.items()]
        return configured("train", [f"gin_configs/runs/{name}.gin"], pairs)[1]

    source, target = read("spot_source"), read("spot_target", SOURCE_PROMPT=["p", "q"])
    assert (source["train_steps"], target["train_steps"]) == (262_144, 100_000)
    assert source["checkpoints"].embedding_step == 10_000
    assert source["method"].init == "sampled_vocabulary"
    assert (target["method"].init, target["method"].copies) == ("prompt", 2)
    assert target["evaluation"].period == 500
    for run in (source, target):
        optimizer = run["optimizer"]
        assert (optimizer.learning_rate, optimizer.weight_decay) == (0.3, 1e-5)
        assert not optimizer.parameter_scale
        assert (run["data"].batch_size, run["backbone"].dropout_rate) == (32, 0.1)
        assert run["method"].length == 100 and run["evaluation"].metric is None
