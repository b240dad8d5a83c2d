"""What gin files and flags come to, and every mistake in them as one line and exit code 2."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import gin
import pytest

from spot_jax.cli import configurables, gin_files
from spot_jax.cli.gin_checks import fits
from spot_jax.cli.gin_files import Macro, Reference, read
from spot_jax.cli.main import main
from spot_jax.cli.transfer import MACROS
from spot_jax.errors import SpotError

RUN = "gin_configs/runs/prompt_tuning.gin"
RUNS = sorted((gin_files.INSTALLED / "gin_configs" / "runs").glob("*.gin"))
FULL = {
    "MODEL_DIR": "'runs/x'",
    "INITIAL_CHECKPOINT_PATH": "'nowhere'",
    "MIXTURE_OR_TASK_NAME": "'bundled_sms_spam'",
    "TASK_FEATURE_LENGTHS": "{'inputs': 8, 'targets': 4}",
}


def as_flags(**values):
    return [f"--gin.{name}={value}" for name, value in values.items()]


def as_pairs(**values):
    return [(f"--gin.{name}={value}", f"{name} = {value}") for name, value in values.items()]


@pytest.fixture
def complaint(capsys, monkeypatch):
    """Runs `spot train` to its mistake: the one line, nothing on stdout, exit code 2."""

    from spot_jax.training import run as training

    @functools.wraps(training.train)
    def started(*args, **kwargs):
        raise AssertionError("training was reached")

    monkeypatch.setattr("spot_jax.training.run.train", started)

    def run(*arguments: str) -> str:
        assert main(["train", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("spot: ") and err.count("\n") == 1, err
        return err

    return run


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


# Reading.


def test_flags_win_over_the_file_and_a_file_over_its_includes(tmp_path):
    write(tmp_path / "base.gin", "A = 1\nB = 1\nC = 1\n")
    top = write(tmp_path / "top.gin", "B = 2\nC = 2\ninclude 'base.gin'\n")
    settings = read([top], [("--gin.C=3", "C = 3")], [str(tmp_path)])
    assert {name: settings.bindings[name].value for name in "ABC"} == {"A": 1, "B": 2, "C": 3}


def test_the_order_of_files_and_flags_is_nothing(tmp_path):
    first = write(tmp_path / "one.gin", "A = %B\nx.y = @z()\n")
    second = write(tmp_path / "two.gin", "B = 2\n")
    flags = [("--gin.C=3", "C = 3"), ("--gin.D=4", "D = 4")]
    assert read([first, second], flags).text() == read([second, first], flags[::-1]).text()


def test_text_is_gin_that_reads_back_as_the_same(tmp_path):
    text = "A = {'k': [1, -2.5, (None, True)], 's': \"it's\"}\na/b.c = @d/e()\nb.c = [%A, @e]\n"
    settings = read([write(tmp_path / "a.gin", text)])
    again = read([write(tmp_path / "b.gin", settings.text())])
    assert settings.text() == again.text()
    assert again.bindings["b.c"].value == [Macro("A"), Reference("e", False)]
    assert again.bindings["a/b.c"].scope == "a"


def test_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gin_files.find(RUN, []).is_file()
    write(tmp_path / "elsewhere" / "own.gin", "A = 1\n")
    assert gin_files.find("own.gin", ["elsewhere"]) == Path("elsewhere/own.gin")
    write(tmp_path / "own.gin", "A = 2\n")
    assert gin_files.find("own.gin", ["elsewhere"]) == Path("own.gin")


def test_a_loop_of_includes_is_refused(tmp_path):
    write(tmp_path / "a.gin", "include 'b.gin'\n")
    write(tmp_path / "b.gin", "include 'a.gin'\n")
    with pytest.raises(SpotError, match="includes itself"):
        read(["a.gin"], [], [str(tmp_path)])


# What comes of it.


def test_arguments_are_the_library_s_own_classes():
    from spot_jax.data.data_source import DataSource
    from spot_jax.training.config import StoredBackbone
    from spot_jax.training.run import train

    called, arguments, text = configurables.configured(
        "train", [RUN], as_pairs(**FULL, LEARNING_RATE="[0.1, 0.3]", MESH="'2x4'", PACK="True")
    )
    assert called is train
    assert type(arguments["data"]) is DataSource and arguments["data"].pack is True
    assert arguments["backbone"] == StoredBackbone("nowhere")
    assert arguments["optimizer"].learning_rate == [0.1, 0.3]
    assert (arguments["mesh"].data, arguments["mesh"].model) == (2, 4)
    assert arguments["train_steps"] == 30000
    assert "LEARNING_RATE = [0.1, 0.3]\n" in text


@pytest.mark.parametrize(
    ("text", "expected"), [("'a.b'", ("a.b",)), ("['a', 'b']", ("a", "b")), ("()", ())]
)
def test_a_task_module_as_t5x_names_it_or_several(text, expected):
    flags = as_pairs(**FULL, MIXTURE_OR_TASK_MODULE=text)
    assert configurables.configured("train", [RUN], flags)[1]["data"].modules == expected


def test_one_call_leaves_nothing_to_the_next():
    configurables.configured("train", [RUN], as_pairs(**FULL, PROMPT_LENGTH="7"))
    _, arguments, _ = configurables.configured("train", [RUN], as_pairs(**FULL))
    assert arguments["method"].length == 100


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_file_is_complete(path):
    settings = read([str(path)])
    required = [name for name, b in settings.macros.items() if b.value == gin_files.REQUIRED]
    values = FULL | {"TEXT_DIRECTORY": "'t'", "VOCABULARY": "'v'", "SOURCE_PROMPT": "'p'"}
    values |= {"PROMPTS": "['p', 'q']", "SUBSPACE": "'s'"}
    values |= {"TEMPLATE": "'{text} <prompt:2> {target}'"}
    flags = as_pairs(**{name: values[name] for name in required})
    verb = "transfer" if path.stem.startswith("spot_transfer") else "train"
    _, arguments, _ = configurables.configured(verb, [str(path)], flags)
    assert arguments
    header = path.read_text().split("\n\n")[0]
    assert f"spot {verb} --gin_file=gin_configs/runs/{path.name}" in header
    short = {macro: f"--{flag}=" for flag, macro in MACROS.items()} if verb == "transfer" else {}
    for name in required:
        given_in = (f"--gin.{name}=", short.get(name, "nowhere"))
        assert any(text in header for text in given_in), "its command gives what it needs"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_leaves_to_the_shared_parts_what_they_say(path):
    bindings = read([str(path)]).bindings
    assert "/parts/" in bindings["DataSource.task_feature_lengths"].where
    parts = re.findall(r"^include '(gin_configs/parts/.*)'", path.read_text(), re.MULTILINE)
    for key, shared in read(parts).bindings.items():
        if bindings[key].where.startswith(f"{path}:"):
            assert repr(bindings[key].value) != repr(shared.value), key


# What a run is of, not how it is tuned.
OF_THE_RUN = {"INITIAL_CHECKPOINT_PATH", "MIXTURE_OR_TASK_NAME", "PROMPTS", "SUBSPACE", "MESH"}
OF_THE_RUN |= {"WORD_VECTORS", "VOCABULARY", "FEATURE_CACHE", "EvaluationPlan.batch_size"}
FROM = {"Paper", "Code", "T5X", "Ours"}


def sources_of_values(header):
    """Where a header says that values are from: names by source, and what it says of ours."""
    text = " ".join(line.lstrip("# ") for line in header.splitlines())
    said = re.search(r"(?:^| )Values\. (.*)", text)
    assert said, "the header has a paragraph that begins with Values."
    parts = re.split(rf"(?:^|\. )({'|'.join(FROM)})([^:]*): ", f"{said[1]} ")[1:]
    assert parts, said[1]
    names = {}
    for source, words, part in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        assert source not in names, f"{source} stands twice"
        names[source] = set(re.findall(r"[A-Z][\w.]*\w", re.sub(r"\([^)]*\)", "", part)))
        if source == "Ours":
            assert "tried" in words, "where what is ours was tried, or that it was not"
    return names


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_says_where_each_of_its_values_is_from(path):
    text = path.read_text()
    names = sources_of_values(text.split("\n\n")[0])
    values = {
        name
        for name, binding in read([str(path)]).bindings.items()
        if binding.where.startswith(f"{path}:")
        and binding.value not in (None, gin_files.REQUIRED)
        and not isinstance(binding.value, Macro | Reference)
    }
    for name in values - OF_THE_RUN:
        assert sum(name in said for said in names.values()) == 1, f"{name}: paper, code or ours?"
    said_of = {name for said in names.values() for name in said}
    assert not {name for name in said_of if name.isupper() and "_" in name} - values, "not set here"


@pytest.mark.parametrize(
    "header",
    [
        "# A run.",
        "# Values. STEPS.",
        "# Values. Ours: STEPS.",
        "# Values. Paper: A_B. Paper: C_D.",
    ],
)
def test_a_header_without_sources_is_found(header):
    with pytest.raises(AssertionError):
        sources_of_values(header)


def test_what_a_file_sets_itself_takes_the_use_of_an_included_default(complaint, tmp_path):
    text = f"include '{RUN}'\nEvaluationPlan.examples = 5\n"
    file = write(tmp_path / "own.gin", text)
    _, arguments, _ = configurables.configured("train", [file], as_pairs(**FULL))
    assert arguments["evaluation"].examples == 5
    line = complaint(f"--gin_file={file}", *as_flags(**FULL, EVAL_EXAMPLES="7"))
    assert "EVAL_EXAMPLES is set (the command line)" in line
    file = write(tmp_path / "own.gin", f"{text}EVAL_EXAMPLES = 7\n")
    assert "EVAL_EXAMPLES is set" in complaint(f"--gin_file={file}", *as_flags(**FULL))


def test_a_user_s_module_can_register_more(tmp_path, monkeypatch):
    write(tmp_path / "my_optimizers.py", "import gin\n@gin.configurable\ndef mine(x): return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = f"import my_optimizers\ninclude '{RUN}'\ntrain.optimizer = @mine()\nmine.x = 5\n"
    file = write(tmp_path / "own.gin", text)
    _, arguments, _ = configurables.configured("train", [file], as_pairs(**FULL))
    assert arguments["optimizer"] == 5
    gin.clear_config()


# Mistakes, each one line.


def test_no_file_at_all(complaint):
    assert "--gin_file=gin_configs/runs/prompt_tuning.gin" in complaint("--gin.TRAIN_STEPS=3")


def test_a_file_that_does_not_exist(complaint):
    line = complaint("--gin_file=gin_configs/runs/promt_tuning.gin")
    assert "no gin file gin_configs/runs/promt_tuning.gin" in line
    assert "nearest are gin_configs/runs/prompt_tuning.gin" in line
    assert str(Path().absolute()) in line


def test_an_included_file_that_does_not_exist(complaint, tmp_path):
    file = write(tmp_path / "own.gin", "include 'gin_configs/models/t5_1_1_smal.gin'\n")
    assert "t5_1_1_small.gin" in complaint(f"--gin_file={file}")


def test_a_misspelt_macro(complaint):
    line = complaint(f"--gin_file={RUN}", *as_flags(**FULL, TRAIN_STEP="5"))
    assert "TRAIN_STEP is set (the command line)" in line
    assert "did you mean TRAIN_STEPS" in line


def test_a_macro_in_a_file_that_nothing_sets(complaint, tmp_path):
    file = write(tmp_path / "own.gin", f"include '{RUN}'\ntrain.train_steps = %TRAIN_STEP\n")
    line = complaint(f"--gin_file={file}", *as_flags(**FULL))
    assert "TRAIN_STEPS" in line


def test_all_missing_macros_are_named_at_once(complaint):
    line = complaint(f"--gin_file={RUN}", "--gin.MODEL_DIR='x'")
    left = {"INITIAL_CHECKPOINT_PATH", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS"}
    assert all(name in line and f"--gin.{name}=" in line for name in left)
    assert "--gin.MODEL_DIR" not in line


def test_an_unknown_configurable(complaint):
    line = complaint(f"--gin_file={RUN}", *as_flags(**FULL), "--gin.Adafacter.decay_rate=0.9")
    assert "nothing called Adafacter" in line and "did you mean Adafactor" in line


def test_an_unknown_parameter(complaint):
    line = complaint(f"--gin_file={RUN}", *as_flags(**FULL), "--gin.Adafactor.decay_rat=0.9")
    assert "Adafactor has no parameter decay_rat" in line and "did you mean decay_rate" in line


def test_a_setting_of_something_that_the_run_does_not_use(complaint):
    line = complaint(f"--gin_file={RUN}", *as_flags(**FULL), "--gin.AdamW.b1=0.5")
    assert "does not use AdamW" in line and "Adafactor" in line


@pytest.mark.parametrize("value", ["bundled_sms_spam", "10x", "[1, 2", "'open", "", "{'a' 1}"])
def test_a_value_that_is_not_python(complaint, value):
    flags = as_flags(**{**FULL, "MIXTURE_OR_TASK_NAME": value})
    line = complaint(f"--gin_file={RUN}", *flags)
    assert f"--gin.MIXTURE_OR_TASK_NAME={value} is not a Python value" in line
    if value == "bundled_sms_spam":
        assert "\"'bundled_sms_spam'\"" in line


def test_a_value_of_the_wrong_type(complaint):
    line = complaint(f"--gin_file={RUN}", *as_flags(**FULL, TRAIN_STEPS="'2000'"))
    assert "TRAIN_STEPS is '2000'" in line and "int is expected" in line


def test_a_flag_without_a_value(complaint):
    assert "--gin.NAME=VALUE" in complaint(f"--gin_file={RUN}", "--gin.TRAIN_STEPS", "5")


def test_a_file_that_is_not_gin(complaint, tmp_path):
    file = write(tmp_path / "own.gin", "A = 1\ntrain steps are 5\n")
    assert f"{file}:2 is not gin" in complaint(f"--gin_file={file}")
    (tmp_path / "bytes.gin").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in complaint(f"--gin_file={tmp_path / 'bytes.gin'}")


def test_two_files_that_disagree(complaint, tmp_path):
    first, second = (write(tmp_path / f"{n}.gin", f"TRAIN_STEPS = {n}\n") for n in (1, 2))
    line = complaint(f"--gin_file={first}", f"--gin_file={second}")
    assert f"1 ({first}:1)" in line and f"2 ({second}:1)" in line


def test_a_file_of_t5x(complaint, tmp_path):
    text = "from __gin__ import dynamic_registration\nimport __main__ as train_script\n"
    assert "gin_configs/runs/" in complaint(f"--gin_file={write(tmp_path / 't5x.gin', text)}")


def test_an_import_that_fails(complaint, tmp_path):
    file = write(tmp_path / "own.gin", f"import no_such_module\ninclude '{RUN}'\n")
    assert "no_such_module" in complaint(f"--gin_file={file}", *as_flags(**FULL))


def test_a_file_that_is_no_run(complaint):
    line = complaint("--gin_file=gin_configs/models/tiny.gin")
    assert "says nothing about train" in line and "gin_configs/runs" in line


def test_a_mesh_that_is_not_one(complaint):
    assert "DATAxMODEL" in complaint(f"--gin_file={RUN}", *as_flags(**FULL, MESH="'eight'"))


def test_bindings_flag_is_a_line_of_gin(complaint):
    line = complaint(f"--gin_file={RUN}", *as_flags(**FULL), "--gin_bindings", "TRAIN_STEP = 5")
    assert "TRAIN_STEP is set" in line


def test_names_are_checked_before_jax_is_imported():
    """A misspelt macro costs no start-up, so it is found in a process that never imports JAX."""
    code = (
        "import sys; from spot_jax.cli.main import main\n"
        f"code = main(['train', '--gin_file={RUN}', '--gin.TRAIN_STEP=1'])\n"
        "sys.exit(code if 'jax' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (None, int | None, True),
        ("1", int | None, False),
        ([1, 2], int | list[int], True),
        (["a"], int | list[int], False),
        ({"inputs": 1}, dict[str, int], True),
        (5, gin_files.Settings, False),
    ],
)
def test_values_and_type_hints(value, hint, expected):
    assert fits(value, hint) is expected


def test_an_included_file_may_stand_beside_and_begin_with_a_mark(tmp_path):
    (tmp_path / "beside.gin").write_text("TRAIN_STEPS = 3\n")
    path = tmp_path / "run.gin"
    path.write_bytes(b"\xef\xbb\xbfinclude 'beside.gin'\r\n")
    assert read([str(path)]).macros["TRAIN_STEPS"].value == 3


def test_brackets_without_end_are_one_line(complaint, tmp_path):
    path = tmp_path / "run.gin"
    path.write_text(f"TRAIN_STEPS = {'[' * 5000}{']' * 5000}\n")
    assert "too many brackets" in complaint(f"--gin_file={path}")
