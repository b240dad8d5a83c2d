"""Mistakes on the command line: one line, exit code 2, before long work starts."""

import pytest

from spot_jax.cli.main import main

RUN = "--gin_file=gin_configs/runs/prompt_tuning.gin"
RIGHT = {
    "MODEL_DIR": "'{tmp}/run'",
    "INITIAL_CHECKPOINT_PATH": "'backbones/mini'",
    "MIXTURE_OR_TASK_NAME": "'bundled_vader_tweets'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 16, 'targets': 4}",
}


@pytest.fixture
def complaint(capsys):
    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("spot: ") and err.count("\n") == 1, (out, err)
        assert len(err) < 1100
        return err

    return run


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LEARNING_RATE", "0", "above 0"),
        ("LEARNING_RATE", "-1", "above 0"),
        ("LEARNING_RATE", "1e400", "inf is no number to compute with"),
        ("DROPOUT_RATE", "-0.1", "from 0 below 1"),
        ("DROPOUT_RATE", "1.0", "from 0 below 1"),
        ("DROPOUT_RATE", "2", "from 0 below 1"),
        ("BATCH_SIZE", "-4", "batch_size is -4"),
        ("BATCH_SIZE", "3000000000", "batch_size is 3000000000"),
        ("PROMPT_LENGTH", "100000000", "length is 100000000"),
        ("SEEDS", "-1", "SEEDS is -1"),
        ("SEEDS", "[0, 4294967296]", "SEEDS is 4294967296"),
        ("TRAIN_STEPS", "10**30", "TRAIN_STEPS"),
        ("EVAL_PERIOD", "-1", "period is -1"),
        ("MODEL_DIR", "''", "MODEL_DIR is empty"),
        ("MODEL_DIR", "'s3://bucket/run'", "checkpoints cannot be in s3://"),
        ("MODEL_DIR", "'a\\x00b'", "cannot write the run directory"),
        ("INITIAL_CHECKPOINT_PATH", "''", "path of the backbone is empty"),
        ("MIXTURE_OR_TASK_NAME", "''", "expected the name of a task"),
        ("MIXTURE_OR_TASK_NAME", "[]", "expected the name of a task"),
        ("TASK_FEATURE_LENGTHS", "{'inputs': '16', 'targets': 4}", "TASK_FEATURE_LENGTHS"),
        ("TASK_FEATURE_LENGTHS", "{'inputs': 16.0, 'targets': 4}", "TASK_FEATURE_LENGTHS"),
        ("TASK_FEATURE_LENGTHS", "{'inputs': 16, 'targets': 4, 'x': 1}", "'x'"),
        ("SOURCE_PROMPT", "'/nope'", "which begins from no file"),
        ("RANDOM_SEED", "0", "T5X's RANDOM_SEED is SEEDS here"),
        ("PROMPT_FILE", "'x'", "is SOURCE_PROMPT"),
        ("LEARNING_RATE", "[]", "or a list of at least one"),
        ("SEEDS", "[]", "or a list of at least one"),
        ("INITIAL_CHECKPOINT_PATH", "'/dev/null'", "no stored backbone there"),
        ("INITIAL_CHECKPOINT_PATH", "'nope://x'", "cannot be reached"),
        ("INITIAL_CHECKPOINT_PATH", "'gs:///x'", "names no bucket"),
        ("MIXTURE_OR_TASK_NAME", "'bundled_sms_span'", "nearest: bundled_sms_spam"),
        ("TEXT_DIRECTORY", "'/nope'", "/nope: does not exist"),
    ],
)
def test_a_setting_out_of_its_range(name, value, expected, complaint, tmp_path):
    settings = {**RIGHT, name: value}
    flags = [
        f"--gin.{key}={item.replace('{tmp}', str(tmp_path))}" for key, item in settings.items()
    ]
    assert expected in complaint("train", RUN, *flags)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("eval", ""), "RUN_DIR is empty"),
        (("eval", "run", "--task", "a", ""), "--task is empty"),
        (("eval", "run", "--output", "{tmp}"), "a directory; give the name of a file"),
        (("eval", "run", "--output", "{tmp}/file/x"), "is a file, not a directory"),
        (("prompts", "add", "", "--library", "{tmp}/l"), "is empty"),
        (("convert", "nope://x", "{tmp}/d"), "cannot be reached"),
        (("convert", "", "{tmp}/d"), "SOURCE is empty"),
        (("report", ""), "STUDY_DIR is empty"),
        (("study", "--from_paper", "--output_dir", ""), "--output_dir is empty"),
        (("study", "--from_paper", "--output_dir", "{tmp}/file"), "File exists"),
        (("tasks", "show", "bundled_sms_spam", "--examples", "-1"), "--examples is -1"),
        (("tasks", "show", "bundled_sms_spam", "--vocabulary", ""), "--vocabulary is empty"),
        (("convert", "a\0b", "{tmp}/d"), "give the place of"),
        (("convert", "gs:///x", "{tmp}/d"), "names no bucket"),
        (("convert", "backbones/mini", "nope://x"), "cannot be reached"),
        (
            ("train", "--coordinator_address=x", "--process_count=2", "--process_id=0"),
            "HOST:PORT of process 0",
        ),
        (("tasks", "show", "bundled_sms_spam", "--inputs", "-1"), "--inputs"),
    ],
)
def test_an_argument_that_makes_no_sense(arguments, expected, complaint, tmp_path):
    (tmp_path / "file").write_text("")
    assert expected in complaint(*(word.replace("{tmp}", str(tmp_path)) for word in arguments))


def test_what_is_quoted_is_cut(complaint, tmp_path):
    path = tmp_path / "run.gin"
    path.write_text("train.x = [" + "1, " * 100_000 + "\n")
    complaint("train", f"--gin_file={path}")


def test_steps_as_t5x_counts_them_are_asked_about(tmp_path):
    from spot_jax.errors import SpotWarning
    from spot_jax.methods.prompt_tuning import PromptTuning
    from spot_jax.training.checkpoints import CheckpointPlan
    from spot_jax.training.run import _check_steps

    with pytest.warns(SpotWarning, match="was 50,000 meant"):
        _check_steps(1_150_000, CheckpointPlan(), PromptTuning())


def test_what_the_chosen_method_does_not_take_is_not_taken_from_the_command_line(complaint):
    run = "--gin_file=gin_configs/runs/p_tuning_mini.gin"
    line = complaint("train", run, "--gin.MODEL_DIR='x'", "--gin.PROMPT_LENGTH=50")
    assert "PROMPT_LENGTH is set on the command line, but nothing that train uses" in line


def test_names_that_ship_are_refused_without_seqio(monkeypatch):
    import sys

    from spot_jax.data import loading
    from spot_jax.errors import SpotError

    monkeypatch.delitem(sys.modules, "seqio", raising=False)
    loading.check_names(["bundled_sms_spam", "bundled_sms_spam+bundled_clinc150", "x.npz"])
    loading.check_names(["mine"], ["my_tasks"])
    with pytest.raises(SpotError, match="found 'sst2_' .nearest: "):
        loading.check_names(["bundled_sms_spam+sst2_"])
    assert "seqio" not in sys.modules
