"""Predictions of texts, objects and frames; probabilities; one prompt file as good as its run."""

import dataclasses
import json
import math
import pickle
import threading

import numpy as np
import pytest

import spot_jax as spot
from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.inference.calibration import calibration_error, temperature_of
from spot_jax.inference.prediction import Prediction
from spot_jax.inference.predictor import Predictor, load
from spot_jax.inference.rows import batch_sizes, pack, packed_sizes, single_width, width_of
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_use import PromptUse
from spot_jax.t5.scoring import label_matrix, rank_labels

TASK = "bundled_vader_tweets"
TEXTS = ["", "what a day", "not again, " * 9, "fine", ""]


@pytest.fixture(scope="module")
def predictor(world):
    return Predictor(open_tuned(world.run, prompts=world.prompts[:1]))


def test_a_prediction_is_its_text_and_more():
    prediction = Prediction("yes", {"no": 0.25, "yes": 0.75})
    assert prediction == "yes" and {prediction: 1}["yes"] == 1
    assert (prediction.label, prediction.probability) == ("yes", 0.75)
    assert type(prediction.label) is str
    assert repr(prediction) == "Prediction('yes', {'no': 0.25, 'yes': 0.75})"
    again = pickle.loads(pickle.dumps(prediction))
    assert again == prediction and again.probabilities == prediction.probabilities
    assert Prediction("free text").probability is None


def test_each_input_has_a_prediction_in_order(predictor):
    predictions = predictor.predict(TEXTS)
    assert len(predictions) == len(TEXTS) and predictions[0] == predictions[4]
    for text, prediction in zip(TEXTS, predictions, strict=True):
        alone = predictor.predict(text)
        assert alone == prediction
        assert list(alone.probabilities) == ["negative", "neutral", "positive"]
        assert math.isclose(sum(alone.probabilities.values()), 1, rel_tol=1e-6)
        np.testing.assert_allclose(
            [*alone.probabilities.values()], [*prediction.probabilities.values()], atol=1e-4
        )
    assert predictor.predict([]) == []
    assert predictor.predict([""]) == [predictions[0]]


def test_probabilities_are_those_of_the_labels_likelihoods(predictor):
    tuned, text = predictor.tuned, "what a day"
    (row,) = predictor.ready.rows(tuned.vocabulary, [f"text: {text}"])
    labels = label_matrix(tuned.vocabulary, predictor.search.labels)
    inference, config = predictor.ready.inference, tuned.backbone.config
    scores = rank_labels(inference.params, config, row.ids[None], labels, table=inference.table)[0]
    expected = np.exp(scores - np.max(scores)) / np.sum(np.exp(scores - np.max(scores)))
    prediction = predictor.predict(text)
    np.testing.assert_allclose([*prediction.probabilities.values()], expected, atol=1e-4)
    assert prediction == predictor.search.labels[int(np.argmax(expected))]
    assert predictor.predict(text, probabilities=False) == prediction


class Frame:
    """What pandas, polars and Arrow have in common is tested by what each is known by."""

    columns = ["text", "n"]

    def __init__(self, name):
        rows = [{"text": text, "n": 1} for text in TEXTS]
        setattr(self, name, lambda *orient: rows)


@pytest.mark.parametrize("name", ["to_dict", "to_dicts", "to_pylist"])
def test_frames_and_other_forms(predictor, name):
    expected = predictor.predict(TEXTS)
    assert predictor.predict(Frame(name)) == expected
    assert predictor.predict(text for text in TEXTS) == expected
    assert predictor.predict([{"inputs": f"text: {text}"} for text in TEXTS]) == expected
    assert predictor.predict(TEXTS, batch_size=2) == expected


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a", 3], "input 2: expected a text or a mapping of fields, found int"),
        (["a", {"txt": "b"}], "input 2 lacks the field text"),
        ([{"text": 5}], "input 1: expected text in the field text, found int"),
        (["\ud83d"], "input 1: the field 'text' holds half a surrogate pair"),
        (5, "found int"),
    ],
)
def test_inputs_that_are_refused(predictor, inputs, message):
    with pytest.raises(SpotError, match=message):
        predictor.predict(inputs)
    with pytest.raises(SpotError, match="batch_size"):
        predictor.predict(["a"], batch_size=0)


def test_threads_share_a_predictor(predictor):
    expected = predictor.predict(TEXTS)
    before, results = predictor.examples, []

    def work():
        results.append(predictor.predict(TEXTS))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8 and predictor.examples == before + 8 * len(TEXTS)


def test_batches_have_few_shapes_and_little_padding():
    assert batch_sizes(1, 100) == [1] and batch_sizes(3, 64) == [1, 1, 1]
    assert batch_sizes(70, 64) == [64, 8] and batch_sizes(40, 64) == [64]
    assert batch_sizes(9, 4) == [4, 4, 1] and batch_sizes(3, 64, multiple=2) == [2, 2]
    widths = [width_of(n) for n in range(1, 2000)]
    assert all(n <= width <= max(16, n * 1.5) for n, width in enumerate(widths, start=1))
    assert len(set(widths)) == 15
    single = [single_width(n) for n in range(1, 2000)]
    assert all(n <= width <= max(16, n + 8, n * 1.25) for n, width in enumerate(single, start=1))


def test_packed_rows_hold_every_text_once_within_their_tokens_and_nodes():
    rng = np.random.default_rng(0)
    lengths, nodes = rng.integers(20, 90, 64).tolist(), rng.integers(3, 8, 64).tolist()
    packed = pack(lengths, nodes, 128, 12)
    assert sorted(number for row in packed for number in row) == list(range(64))
    for row in packed:
        assert sum(lengths[n] for n in row) <= 128 and sum(nodes[n] for n in row) <= 12
    # Without the nodes nearly all of the room is used.
    assert 128 * len(pack(lengths, [0] * 64, 128, 12)) < 1.1 * sum(lengths)
    for rows in range(1, 100):
        sizes = packed_sizes(rows, 16)
        assert rows <= sum(sizes) <= rows * 8 / 7 and set(sizes) <= {1, 2, 4, 8, 16}


def test_a_temperature_makes_probabilities_as_often_right_as_they_say():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = [str(rng.choice(3, p=row)) for row in shares]

    def predictions(factor):
        sharp = shares**factor / (shares**factor).sum(axis=1, keepdims=True)
        return [Prediction(str(row.argmax()), dict(zip("012", row, strict=True))) for row in sharp]

    # Three times too sure: the temperature that mends it is 3.
    temperature = temperature_of(predictions(3), targets)
    assert 2.7 < temperature < 3.3
    assert calibration_error(predictions(3), targets) > 0.15
    assert calibration_error(predictions(3 / temperature), targets) < 0.03
    with pytest.raises(SpotError, match="at least 10"):
        temperature_of(predictions(1)[:9], targets[:9])
    with pytest.raises(SpotError, match="among the labels 0, 1, 2, found 'x'"):
        temperature_of(predictions(1)[:10], ["x"] * 10)


def test_a_run_is_calibrated_on_its_validation_split(world):
    plain = load(world.run)
    calibrated = load(world.run, calibrate="validation")
    temperature = calibrated.ready.temperature
    assert temperature != 1.0 and plain.ready.temperature == 1.0
    first, second = plain.predict("what a day"), calibrated.predict("what a day")
    assert first == second
    scaled = np.array([*first.probabilities.values()]) ** (1 / temperature)
    np.testing.assert_allclose([*second.probabilities.values()], scaled / scaled.sum(), rtol=1e-3)


def test_an_exported_prompt_is_all_that_predictions_need(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["prompts", "export", world.run, "tweets.safetensors", "--licence", "apache-2.0"]
    assert main([*command, "--calibrate", "validation"]) == 0
    capsys.readouterr()
    use = load_prompt("tweets.safetensors").use
    assert use.labels == ("negative", "neutral", "positive") and use.template == "text: {text}"
    assert use.lengths == {"inputs": 24, "targets": 4} and use.temperature != 1.0
    alone = spot.load("tweets.safetensors", backbone=world.backbone)
    run = load(world.run, calibrate="validation")
    for first, second in zip(alone.predict(TEXTS), run.predict(TEXTS), strict=True):
        assert first == second
        np.testing.assert_allclose(
            [*first.probabilities.values()], [*second.probabilities.values()], rtol=1e-5
        )
    (tmp_path / "texts.txt").write_text("what a day\nfine\n")
    files = ["--backbone", world.backbone, "--prompt", "tweets.safetensors"]
    assert main(["infer", *files, "--input", "texts.txt"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prediction"] for row in rows] == run.predict(["what a day", "fine"])
    assert main(["prompts", "card", "tweets.safetensors"]) == 0
    card = capsys.readouterr().out
    assert card.startswith("---\nlibrary_name: spot-jax\n") and "license: apache-2.0" in card


def test_a_prompt_of_an_old_run_gets_its_use_from_the_run(world, tmp_path):
    from spot_jax.inference.export import exported

    run = world.written("old", [TASK])
    path = run / "prompts" / "last-0.safetensors"
    dataclasses.replace(load_prompt(path), use=PromptUse()).save(path)
    assert load_prompt(path).use == PromptUse()
    file = exported(run, which="last")
    assert file.use.labels == ("negative", "neutral", "positive")
    assert file.use.template == "text: {text}" and "negative, neutral" in file.use.card


def test_exports_that_are_refused(world, two_tasks, tuned_weights, tmp_path, capsys):
    def complaint(*arguments):
        assert main(["prompts", "export", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert err.count("\n") == 1 and out == ""
        return err

    dest = tmp_path / "p.safetensors"
    assert "no run or file at" in complaint(tmp_path / "none", dest)
    assert "the run has 2 tasks" in complaint(two_tasks, dest, "--which", "last")
    assert "tuned the weights" in complaint(tuned_weights, dest)
    assert "short name" in complaint(world.run, dest, "--licence", "do what you want")
    assert not dest.exists()


def test_a_prompt_for_another_backbone_or_vocabulary_is_refused(world, tmp_path):
    with pytest.raises(SpotError, match="another backbone"):
        load(world.prompts[0], backbone=world.other)
    path = tmp_path / "other.safetensors"
    dataclasses.replace(load_prompt(world.prompts[0]), vocabulary="0" * 64).save(path)
    with pytest.raises(SpotError, match="another vocabulary"):
        load(path, backbone=world.backbone)


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": "ab"},
        {"labels": [1]},
        {"lengths": {"inputs": 0}},
        {"lengths": {"x": 5}},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"decoding": "sample"},
        {"beams": True},
        {"template": 5},
        [],
    ],
)
def test_a_use_that_is_damaged_is_refused(fields):
    with pytest.raises(ValueError):
        PromptUse.read(fields)


def test_a_use_is_read_back():
    use = PromptUse(("a", "b"), "x: {x}", True, {"inputs": 5, "targets": 2}, "rank", 2, 1.5, "mit")
    assert PromptUse.read(json.loads(json.dumps(use.fields()))) == use
    assert PromptUse().fields() == {} and PromptUse.read({"unknown": 1}) == PromptUse()
