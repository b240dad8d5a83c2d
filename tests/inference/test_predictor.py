"""Lines of text and JSON are predicted as the same texts in a split are; mistakes name the line."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spot_jax.cli import serve
from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.inference.export import prompt_of_run
from spot_jax.inference.predictor import Predictor, load, read_rows
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.library.exchange import write_prompt
from spot_jax.library.library import Library
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.training.run_info import TaskFacts
from tasks.bundled.reading import rows

TASK = "bundled_vader_tweets"
PAIR = TaskFacts("pair", ("no", "yes"), "text1: {text1} text2: {text2}")
BARE = TaskFacts("bare")


@pytest.fixture(scope="session")
def texts():
    return [row["text"] for row in rows("vader_tweets", "validation")]


@pytest.mark.parametrize("form", ["text", "json", "inputs"])
def test_lines_are_predicted_as_the_split_is(world, texts, form):
    tuned = open_tuned(world.run, prompts=world.prompts[:1])
    (scored,) = score(tuned, split="validation")
    assert len(set(scored.predictions)) > 1
    make = {
        "text": lambda text: text,
        "json": lambda text: json.dumps({"text": text, "number": 5}),
        "inputs": lambda text: json.dumps({"inputs": f"text: {text}"}),
    }[form]
    predictor = Predictor(tuned)
    answers = list(predictor([f"{make(text)}\n" for text in texts]))
    assert [row["prediction"] for row in answers] == scored.predictions
    assert (predictor.examples, predictor.truncated_inputs) == (404, scored.truncated_inputs)
    kept = {"text": {"text"}, "json": {"text", "number"}, "inputs": {"inputs"}}[form]
    assert set(answers[0]) == {*kept, "prediction"}


def test_predictions_come_before_the_input_ends(world, texts):
    predictor = Predictor(open_tuned(world.run), batch_size=2)
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield texts[0]

    answers = predictor(endless())
    first = next(answers)
    assert read <= 20 and first["prediction"] in ("negative", "neutral", "positive")


def test_of_several_prompts_for_a_task_the_best_predicts(world):
    tuned = open_tuned(world.run)
    scores = [load_prompt(prompt.name).metrics["score"] for prompt in tuned.prompts]
    assert Predictor(tuned).prompt is tuned.prompts[scores.index(max(scores))]


def test_a_run_of_two_tasks_is_asked_which(two_tasks):
    tuned = open_tuned(two_tasks)
    with pytest.raises(SpotError, match="the run has 2 tasks.*--task NAME"):
        Predictor(tuned)
    predictor = Predictor(tuned, task="bundled_gap_coref")
    assert Path(predictor.prompt.name).stem == "last-1" and predictor.search.labels == ("no", "yes")
    with pytest.raises(SpotError, match="nearest: bundled_gap_coref"):
        Predictor(tuned, task="gap_coref")


def test_labels_can_be_fewer_but_no_others(world):
    tuned = open_tuned(world.run)
    answers = list(Predictor(tuned, labels=["neutral", "negative"])(["good", "bad", "so so"]))
    assert {row["prediction"] for row in answers} <= {"neutral", "negative"}
    with pytest.raises(SpotError, match=r"'postive' is none of the 3 labels.*nearest: positive"):
        Predictor(tuned, labels=["postive", "negative"])
    with pytest.raises(SpotError, match="two different labels"):
        Predictor(tuned, labels=["negative"])
    with pytest.raises(SpotError, match="labels are for ranking"):
        Predictor(tuned, labels=["negative", "neutral"], decoding="greedy")


def test_what_lines_come_to():
    assert list(read_rows(['{"text1": "a", "text2": "{b}"}', "", " "], PAIR)) == [
        ({"text1": "a", "text2": "{b}"}, "text1: a text2: {b}")
    ]
    assert list(read_rows(["as it is\r\n"], BARE)) == [({"inputs": "as it is"}, "as it is")]
    # Only the first line decides, so a text may begin with a brace.
    assert list(read_rows(["a", "{b"], BARE))[1] == ({"inputs": "{b"}, "{b")
    assert list(read_rows(["{b"], BARE, "text")) == [({"inputs": "{b"}, "{b")]


MARK = "\ufeff".encode()


@pytest.mark.parametrize(
    ("raw", "form"),
    [
        (b'{"text1": "caf\xc3\xa9", "text2": "b"}\n', "auto"),
        (b'{"text1": "caf\xc3\xa9", "text2": "b"}\n', "jsonl"),
        (b'text2,text1\n"b","caf\xc3\xa9"\n', "csv"),
        (b"text1\ttext2\r\ncaf\xc3\xa9\tb\r\n", "tsv"),
    ],
)
@pytest.mark.parametrize("mark", [b"", MARK], ids=["bare", "marked"])
def test_bytes_are_utf8_with_or_without_a_mark(raw, form, mark):
    ((fields, text),) = read_rows(io.BytesIO(mark + raw), PAIR, form)
    assert fields == {"text1": "café", "text2": "b"} and text == "text1: café text2: b"
    ((fields, text),) = read_rows(io.BytesIO(mark + "ein Käse".encode()), BARE, "text")
    assert text == "ein Käse"


@pytest.mark.parametrize(
    ("lines", "task", "expected"),
    [
        (["", '{"text1": "a", "text2": "b"}', '{"text1": '], PAIR, "line 3 is not JSON"),
        (['{"inputs": "a"}', "[1]"], PAIR, "line 2: expected a JSON object, found list"),
        (['{"text1": "a"}'], PAIR, r"line 1 lacks the field text2.*found text1"),
        (['{"text": "a"}'], BARE, "line 1 lacks the field inputs"),
        (['{"text1": "a", "text2": 5}'], PAIR, "line 1: expected text in the field text2"),
        (["plain"], PAIR, "line 1: pair has the fields text1, text2; give a JSON object"),
        (["{text"], BARE, "line 1 begins as JSON does and is none.*--format text"),
        ([b"caf\xe9"], BARE, "line 1: expected text in UTF-8, found byte 0xe9 at place 3"),
        (["a", b"b\xff"], BARE, "line 2: expected text in UTF-8, found byte 0xff"),
        (["\ufeffa".encode("utf-16-le")], BARE, "found UTF-16; convert it"),
        (['{"inputs": "\\ud83d"}'], BARE, "line 1: the field 'inputs' holds half a surrogate"),
        (['{"inputs": "a", "x": "\\ud83d"}'], BARE, "the field 'x' holds half a surrogate"),
        (['{"inputs": "a", "prediction": "b"}'], BARE, "line 1 has a field 'prediction' of its"),
        (['{"a": ' + "[" * 100_000], BARE, "line 1 begins as JSON does and is none"),
    ],
)
def test_lines_that_are_refused(lines, task, expected):
    with pytest.raises(SpotError, match=expected):
        list(read_rows(lines, task))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("text1,text2\na\n", "line 2: expected 2 fields as in the first line, found fewer"),
        ("text1,text2\na,b,c\n", "line 2: expected 2 fields as in the first line, found more"),
        ('text1,text2\n"a,b\n', "is no row of a table"),
        ("text1\na\n", "line 2 lacks the field text2"),
    ],
)
def test_tables_that_are_refused(raw, expected):
    with pytest.raises(SpotError, match=expected):
        list(read_rows(io.StringIO(raw), PAIR, "csv"))


def test_the_command_s_mistakes(world, capsys, monkeypatch, tmp_path):
    def complaint(*arguments, text=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["infer", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("spot: ") and err.count("\n") == 1, err
        return err

    assert "the input has no lines" in complaint(world.run, text="\n \n")
    assert "line 2 is not JSON" in complaint(world.run, text='{"text": "a"}\n{"text": \n')
    assert "lacks the field text" in complaint(world.run, text='{"txt": "a"}\n')
    assert "none.txt" in complaint(world.run, "--input", str(tmp_path / "none.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in complaint(world.run, "--input", str(tmp_path / "bytes.txt"))
    assert "none of the 3 labels" in complaint(world.run, "--labels", "postive, negative")
    other = ["--backbone", world.other, "--prompt", world.prompts[0]]
    assert "another backbone" in complaint(*other, text="a\n")
    assert "no run directory" in complaint(str(tmp_path / "none"), text="a\n")


def test_neither_tensorflow_nor_seqio_is_needed(world):
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['seqio'] = None\n"
        "from spot_jax.cli.main import main\n"
        "sys.exit(main(['infer', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, world.run, "--labels", "negative,neutral"],
        input="what a day\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["text"] == "what a day" and row["prediction"] in ("negative", "neutral")


def test_a_peft_adapter_is_taken_wherever_a_prompt_is(world, texts, tmp_path, capsys):
    prompt = prompt_of_run(world.run)
    prompt.save(tmp_path / "prompt.safetensors")
    adapter = tmp_path / "adapter"
    write_prompt(prompt, adapter, "peft")
    paths = [tmp_path / "prompt.safetensors", adapter, adapter / "adapter_model.safetensors"]
    expected, *others = (load(p, backbone=world.backbone).predict(texts[:20]) for p in paths)
    assert len({p.label for p in expected}) > 1
    for predictions in others:
        assert [p.label for p in predictions] == [p.label for p in expected]
    tuned = open_tuned(backbone=world.backbone, prompts=[adapter])
    served = list(serve._prompts([str(adapter), str(paths[0])], tuned))
    assert [name for name, _ in served] == ["adapter", "prompt"]
    library = ["--library", str(tmp_path / "library")]
    assert main(["prompts", "add", str(adapter), *library]) == 0
    assert main(["prompts", "add", str(paths[0]), *library]) == 0
    assert len(Library(tmp_path / "library").entries()) == 1  # they are one prompt
    method = PromptTuning(length=len(prompt.rows), init="prompt", prompt=str(adapter))
    method.check_source()
    (source,) = method.sources(tuned.backbone, 1)
    np.testing.assert_array_equal(source.file.rows, prompt.rows)
