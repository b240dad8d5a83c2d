"""A seqio task is cut and scored here as seqio itself cuts and scores it."""

import functools
import logging
from pathlib import Path

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")

import flax  # noqa: E402

import tasks  # noqa: E402
from spot_jax.data import loading, seqio_tasks  # noqa: E402
from spot_jax.data.batches import Batches, BatchShape, evaluation_batches, truncated  # noqa: E402
from spot_jax.data.examples import Examples  # noqa: E402
from spot_jax.data.sources import Shuffled  # noqa: E402
from spot_jax.data.virtual_tokens import TemplateTokens, VirtualTokens  # noqa: E402
from spot_jax.errors import SpotError  # noqa: E402
from spot_jax.evaluation.evaluate import measure  # noqa: E402
from spot_jax.metrics import Outputs  # noqa: E402
from spot_jax.t5.vocabulary import EOS, Vocabulary  # noqa: E402
from tasks.t5_features import OUTPUT_FEATURES  # noqa: E402

STEPS = seqio.preprocessors
ROWS = [
    {"inputs": "what colour has a red rose", "targets": "red", "number": 3},
    {"inputs": "the green leaf of the tree in the garden of my aunt", "targets": "green and so on"},
    {"inputs": "blood", "targets": "dark red", "number": 1},
]
# What a model may have written; the second one only is right with its example at hand.
TEXTS = ["red", "1 green", "blue"]
SCORES = np.array([-0.5, -2.0, -0.25], np.float32)


@pytest.fixture(scope="module")
def t5():
    return Vocabulary(Path(tasks.__file__).parent / "t5_spiece.model")


def register(name, rows=ROWS, *, end=STEPS.append_eos_after_trim, tokenize=STEPS.tokenize, **more):
    keys = sorted({key for row in rows for key in row})
    empty = {"number": 0}

    def dataset(split, shuffle_files=False, seed=None):
        columns = {key: [row.get(key, empty.get(key, "")) for row in rows] for key in keys}
        return tf.data.Dataset.from_tensor_slices(columns)

    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["validation"]),
        preprocessors=[tokenize, seqio.CacheDatasetPlaceholder(), end],
        output_features=OUTPUT_FEATURES,
        **more,
    )
    return name


def by_seqio(name, texts, scores, vocabulary, lengths=None):
    """The values that seqio's evaluator computes for the same outputs."""
    evaluator = seqio.Evaluator(
        name,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length=lengths,
    )
    ids = [[*vocabulary.encode(text), EOS] for text in texts]
    rows = [row + [0] * (max(map(len, ids)) - len(row)) for row in ids]
    predictions = list(enumerate(rows))
    metrics, _ = evaluator.evaluate(
        compute_metrics=True,
        predict_fn=lambda dataset: predictions,
        score_fn=lambda dataset: list(enumerate(scores.tolist())),
        predict_with_aux_fn=lambda dataset: (predictions, {"scores": scores.tolist()}),
    )
    return metrics.result()[name]


def by_us(name, texts, scores, vocabulary, lengths=None):
    loaded = loading.load_evaluation(name, "validation", vocabulary, lengths=lengths)
    (metrics,) = loaded.metrics
    return metrics.of_outputs(loaded.targets, Outputs(texts, scores, {"scores": scores}))


def bare(value):
    if isinstance(value, seqio.metrics.MetricValue):
        (value,) = [v for v in vars(value).values() if v is not None]
    return value


def with_its_number(text, example, is_target):
    """A postprocessor that needs its example: a prediction counts where its number is right."""
    assert example["inputs"].dtype == np.int32 and example["inputs"][-1] == EOS
    if is_target:
        return text, int(example["number"])
    return text, int(example["number"]) if "inputs_pretokenized" in example else None


def exact(targets, predictions):
    return {"exact": float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def values_of_every_kind(targets, predictions, extra=1):
    return {
        "int": 3,
        "zero": np.float32(0.5),
        "array": np.array([1.0, 2.0]),
        "scalar": seqio.metrics.Scalar(4.0),
        "text": seqio.metrics.Text("some *text*"),
        "histogram": seqio.metrics.Histogram(np.arange(3)),
        "none": None,
        "nan": float("nan"),
    }


def likelihood(targets, scores):
    assert isinstance(scores, np.ndarray)
    return {"likelihood": float(np.sum(scores)), "of": len(targets)}


def confidence(targets, predictions, aux_values):
    right = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"confidence": float(np.sum(np.where(right, aux_values["scores"], 0)))}


@flax.struct.dataclass
class FirstTokens(seqio.metrics.Metric):
    """A metric object: it sees ids, and the examples of the task."""

    total: float = 0.0
    model_output_type: seqio.metrics.ModelOutputType = seqio.metrics.ModelOutputType.PREDICTION

    @classmethod
    def from_model_output(
        cls, inputs, model_output, features, target_field_name="targets", mask=None, indices_2d=None
    ):
        targets = [example[target_field_name][0] for example in inputs]
        assert features[target_field_name].vocabulary.vocab_size
        return cls(total=float(np.sum(np.asarray(model_output)[:, 0] == targets)))

    def compute(self):
        return {"first_tokens": self.total}


def test_metrics_of_every_signature_and_value_are_seqios_own(t5, caplog):
    name = register(
        "every_kind",
        postprocess_fn=with_its_number,
        metric_fns=[exact, values_of_every_kind, likelihood, confidence],
        metric_objs=[FirstTokens()],
    )
    texts = ["red", "green", "dark red"]
    expected, actual = (by(name, texts, SCORES, t5) for by in (by_seqio, by_us))
    assert list(actual) == list(expected)
    for key, value in expected.items():
        np.testing.assert_equal(actual[key], bare(value), err_msg=key)
    assert actual["exact"] == pytest.approx(2 / 3) and actual["first_tokens"] == 3.0
    loaded = loading.load_evaluation(name, "validation", t5)
    with caplog.at_level(logging.INFO):
        numbers = measure(
            loaded.metrics, loaded.targets, Outputs(texts, SCORES, {"scores": SCORES})
        )
    keys = {"exact", "int", "zero", "scalar", "nan", "likelihood", "of", "confidence"}
    assert numbers.keys() == keys | {"first_tokens"}
    assert all(type(value) is float for value in numbers.values())
    assert "text: some *text*" in caplog.text and "none: None" in caplog.text
    assert loaded.metrics[0].needs_aux


def test_predictions_are_postprocessed_with_the_example_of_their_row(t5):
    name = register("numbered", postprocess_fn=with_its_number, metric_fns=[exact])
    half = seqio_tasks.load_evaluation(name, "validation", t5, rows=slice(0, None, 2))
    assert half.targets == [("red", 3), ("dark red", 1)]
    assert half.metrics[0].of_outputs(half.targets, Outputs(["red", "red"])) == {"exact": 0.5}
    assert not half.metrics[0].needs_aux


def test_what_a_metric_needs_and_there_is_not_is_said(t5):
    scored = register("scored", metric_fns=[likelihood])
    aux = register("with_aux", metric_fns=[confidence])
    for name, message in ((scored, "log-likelihoods of targets"), (aux, "auxiliary values")):
        loaded = loading.load_evaluation(name, "validation", t5)
        with pytest.raises(SpotError, match=f"a metric of {name} takes (the )?{message}"):
            measure(loaded.metrics, loaded.targets, Outputs(TEXTS))
    assert loading.has_metrics(scored) and loading.metric_fns(scored) == []


def broken(targets, predictions):
    return {"broken": predictions[7]}


def no_dictionary(targets, predictions):
    return 1.0


def odd_arguments(golds, texts):
    return {}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([broken], "metric broken of faulty failed: IndexError: list index out of range"),
        ([functools.partial(broken)], "metric broken of faulty failed"),
        ([no_dictionary], "metric no_dictionary of faulty to return values by name, found float"),
        ([exact, functools.partial(exact)], "names of their own in faulty, found two 'exact'"),
        ([odd_arguments], "a metric of faulty is none that seqio takes"),
    ],
)
def test_a_metric_that_fails_is_named(t5, metrics, message):
    name = register("faulty", metric_fns=metrics)
    with pytest.raises(SpotError, match=message):
        by_us(name, TEXTS, SCORES, t5)


def test_a_postprocessor_that_fails_on_a_target_is_named(t5):
    name = register("no_key", postprocess_fn=lambda text, example, is_target: example["label"])
    with pytest.raises(SpotError, match="postprocessor of no_key failed on target 'red'.*KeyError"):
        loading.load_examples(name, "validation", t5)


@pytest.mark.parametrize("end", [STEPS.append_eos, STEPS.append_eos_after_trim])
@pytest.mark.parametrize("by", ["us", "seqio"])
@pytest.mark.parametrize("length", [1, 4, 6, 40])
def test_text_is_cut_as_seqio_cuts_it(t5, end, by, length):
    plain = functools.partial(STEPS.tokenize, copy_pretokenized=True)
    name = register("cut", end=end, tokenize=STEPS.tokenize if by == "us" else plain)
    task = seqio.get_mixture_or_task(name)
    assert seqio_tasks._ends_in_tokenisation(task) == (by == "us")
    lengths = {"inputs": length, "targets": 2}
    whole = task.get_dataset(sequence_length=None, split="validation", shuffle=False)
    rows = list(task.get_dataset(sequence_length=lengths, split="validation", shuffle=False))
    examples = loading.load_examples(name, "validation", t5, lengths=lengths)
    shape = BatchShape(len(rows), length, 2)
    batch = next(evaluation_batches(examples, shape))
    for place, number in enumerate(batch["row_number"]):
        row = rows[number]
        for side, feature in (("encoder_input", "inputs"), ("decoder_target", "targets")):
            ids = batch[f"{side}_tokens"][place]
            assert ids[ids > 0].tolist() == row[feature].numpy().tolist()
    over = [sum(len(row[f]) > lengths[f] for row in whole) for f in ("inputs", "targets")]
    assert list(truncated(examples, shape)) == over


def test_cut_text_keeps_its_end_under_prompts_packing_and_on_disk(t5, tmp_path):
    name = register("cut_again")
    examples = loading.load_examples(name, "validation", t5)
    examples = Examples.load(examples.save(tmp_path / "e.npz"))
    ids = t5.encode(ROWS[1]["inputs"])
    expected = [*range(100_000, 100_003), *ids[:3], EOS]
    prompt = VirtualTokens(100_000, 3)
    write = Batches(Shuffled(examples, 0), BatchShape(3, 4, 4), write=prompt)
    assert expected in next(write)["encoder_input_tokens"].tolist()
    packed = Batches(Shuffled(examples, 0), BatchShape(1, 4, 4, pack=True,
                     packed_inputs_length=21, packed_targets_length=12), write=prompt)  # fmt: skip
    row = next(packed)["encoder_input_tokens"][0].tolist()
    assert str(expected)[1:-1] in str(row)
    assert write.truncated_inputs == packed.truncated_inputs > 0
    in_places = TemplateTokens(100_000, 1, 0, place=999, cut=998)
    text = np.array([999, *ids[:6], EOS], np.int32)
    assert in_places.write(text, 4, True).tolist() == [100_000, *ids[:3], EOS]
    assert in_places.write(text, 4).tolist() == [100_000, *ids[:4]]
