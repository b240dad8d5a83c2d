"""Imports TensorFlow: kept in one file."""

import functools
import itertools
import json
import types
from pathlib import Path

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")

from spot_jax.data import (  # noqa: E402
    loading,
    seqio_tasks,
    verbalizers,  # noqa: E402
)
from spot_jax.data.data_source import DataSource  # noqa: E402
from spot_jax.data.seqio_registry import set_directories  # noqa: E402
from spot_jax.data.seqio_tasks import (  # noqa: E402
    import_module,
    load_evaluation,
    load_examples,
    metric_fns,
    register_text,
    require,
    splits,
    target_texts,
    tasks_of,
    training_source,
)
from spot_jax.data.sources import Mixture, Shuffled, Stream, mixing_rates  # noqa: E402
from spot_jax.errors import SpotError  # noqa: E402
from spot_jax.evaluation.scored_task import load_task  # noqa: E402
from spot_jax.metrics import accuracy  # noqa: E402
from spot_jax.t5.vocabulary import Vocabulary  # noqa: E402
from spot_jax.training import validation  # noqa: E402
from spot_jax.training.config import EvaluationPlan  # noqa: E402
from spot_jax.training.sharding import MeshShape, make_mesh  # noqa: E402
from tasks import bundled_tasks  # noqa: E402
from tasks.bundled import reading  # noqa: E402
from tasks.bundled.sets import SETS  # noqa: E402
from tasks.t5_features import OUTPUT_FEATURES  # noqa: E402

FEATURES = ("inputs", "targets")
TASKS = Path(bundled_tasks.__file__).parent
COLOURS = [("a red rose", "red"), ("a green leaf", "green"), ("blood", "red"), ("grass", "green")]


@pytest.fixture(scope="module")
def mini():
    return Vocabulary(TASKS / "mini_spiece.model")


@pytest.fixture(scope="module")
def t5():
    return Vocabulary(TASKS / "t5_spiece.model")


def register(name, rows, *, preprocessors=None, **options):
    """A task over rows of (inputs, targets) in memory; a second one of the name replaces it."""

    def dataset(split, shuffle_files=False, seed=None):
        kept = rows if split == "train" else []
        sides = list(zip(*kept, strict=True)) or [[], []]
        return tf.data.Dataset.from_tensor_slices(
            {key: tf.constant(side, tf.string) for key, side in zip(FEATURES, sides, strict=True)}
        )

    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    tokenise = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["train", "empty"]),
        preprocessors=tokenise if preprocessors is None else preprocessors,
        output_features=OUTPUT_FEATURES,
        **options,
    )


def same(first, second):
    return all(
        a.tolist() == c.tolist() and b.tolist() == d.tolist()
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("name", ["sms_spam", "gap_coref_16shot"])
@pytest.mark.parametrize("which", ["mini", "t5"])
def test_a_task_is_read_with_the_backbones_vocabulary(name, which, request):
    vocabulary = request.getfixturevalue(which)
    examples = load_examples(f"bundled_{name}", "train", vocabulary)
    assert same(examples, reading.examples(name, "train", vocabulary))
    assert len(load_examples(f"bundled_{name}", "train", vocabulary, limit=5)) == 5


def test_our_tokenisation_is_seqios_and_the_registered_vocabulary_is_not_needed(mini):
    register("quick", COLOURS)
    # A partial is not recognised as the plain step, so this goes through all of seqio's pipeline.
    slow = [
        functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=True),
        seqio.preprocessors.append_eos,
    ]
    register("slow", COLOURS, preprocessors=slow)
    assert seqio_tasks._ends_in_tokenisation(require("quick"))
    assert not seqio_tasks._ends_in_tokenisation(require("slow"))
    quick, slow = (load_evaluation(name, "train", mini) for name in ("quick", "slow"))
    assert same(quick.examples, slow.examples)
    assert quick.targets == slow.targets == ["red", "green", "red", "green"]
    assert quick.fields == slow.fields
    assert mini.decode(quick.examples[0][0]) == "a red rose"


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(SpotError, match=r"found 'bundled_sms_span' \(nearest: bundled_sms_spam,"):
        require("bundled_sms_span")
    with pytest.raises(SpotError, match=r"module no_such_module .*ModuleNotFoundError"):
        loading.import_modules(["tasks.bundled_tasks", "no_such_module"])
    with pytest.raises(SpotError, match=r"module no_such_module .*ModuleNotFoundError"):
        import_module("no_such_module")


def test_empty_and_missing_splits_are_refused(mini):
    register("half", COLOURS)
    with pytest.raises(SpotError, match="examples in split 'empty' of half, found none"):
        load_examples("half", "empty", mini)
    with pytest.raises(SpotError, match="examples in split 'empty' of half, found none"):
        training_source("half", mini, 0, split="empty")
    with pytest.raises(SpotError, match=r"a split of half \(train, empty\), found 'test'"):
        load_examples("half", "test", mini)


def test_a_label_outside_the_verbalizers_is_refused(mini):
    register("colours", [*COLOURS, ("sky", "blue")])
    verbalizers.register("colours", ["red", "green"])
    with pytest.raises(SpotError, match="labels of colours, found 'blue'"):
        load_examples("colours", "train", mini)
    with pytest.raises(SpotError, match="labels of colours, found 'blue'"):
        training_source("colours", mini, 0)


def test_targets_are_postprocessed_as_the_metrics_need(mini):
    register(
        "shouted",
        COLOURS,
        postprocess_fn=lambda text, example, is_target: (text.upper(), is_target),
    )
    assert target_texts("shouted", "train", mini, limit=2) == [("RED", True), ("GREEN", True)]


def test_a_mixture_comes_at_seqios_rates(mini):
    source = training_source("bundled_sentiment", mini, 0)
    assert isinstance(source, Mixture)
    names = [f"bundled_vader_{part}" for part in ("amazon", "movie", "tweets")]
    sizes = {name: SETS[name.removeprefix("bundled_")].sizes["train"] for name in names}
    assert source.rates == pytest.approx(mixing_rates(sizes))
    assert [task.name for task in tasks_of("bundled_sentiment")] == names
    assert sorted(splits("bundled_sentiment")) == ["test", "train", "validation"]
    again = training_source("bundled_sentiment", mini, 0)
    drawn = [source.next() for _ in range(30)]
    assert same(drawn, [again.next() for _ in range(30)])
    again.restore(source.state())
    assert same([source.next()], [again.next()])


def test_a_large_task_is_streamed_the_same_each_time(mini):
    few = training_source("bundled_sms_spam_16shot", mini, 0)
    assert isinstance(few, Shuffled) and len(few.examples) == 32
    original, resumed = (
        training_source("bundled_sms_spam_16shot", mini, 7, maximum_in_memory=10) for _ in range(2)
    )
    assert isinstance(original, Stream)
    drawn = [original.next() for _ in range(70)]  # more than two epochs
    resumed.restore({"count": 40})
    assert same(drawn[40:50], [resumed.next() for _ in range(10)])
    assert drawn[0][0].dtype == np.int32
    all_inputs = {tuple(inputs.tolist()) for inputs, _ in few.examples}
    assert {tuple(inputs.tolist()) for inputs, _ in drawn} <= all_inputs
    assert not same(drawn[:32], few.examples)


def test_every_bundled_task_has_metrics_and_verbalizers():
    for name, item in SETS.items():
        for task in (f"bundled_{name}", f"bundled_{name}_16shot"):
            assert verbalizers.of(task) == item.labels
            first, *_ = metric_fns(task)
            assert list(first([item.labels[0]], [item.labels[0]]).values()) in ([1.0], [100.0])
        assert require(f"bundled_{name}").num_input_examples("train") == item.sizes["train"]
    families = {f"bundled_{item.family}" for item in SETS.values()} | {"bundled_all"}
    assert families <= set(seqio.MixtureRegistry.names())


def test_text_that_is_not_utf8_is_left_out_and_counted(tmp_path, caplog):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(SpotError, match=r"found none \(2 in another encoding\).*iconv"):
        register_text(tmp_path, prefix="u_")
    (tmp_path / "good.txt").write_text("a line\n")
    register_text(tmp_path, prefix="u_")
    assert f"2 files in {tmp_path} are not UTF-8" in caplog.text


def test_text_tasks_use_the_one_numpy_implementation(mini, tmp_path):
    lines = [f"Line number {i} of the text, which says {i * i}." for i in range(400)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    for _ in range(2):  # registering again replaces the tasks
        assert register_text(tmp_path, prefix="t_") == ("t_span_corruption", "t_prefix_lm")
    lengths = {"inputs": 32, "targets": 12}
    examples = load_examples("t_span_corruption", "train", mini, lengths=lengths)
    assert examples.longest()[0] == 32
    for inputs, targets in itertools.islice(examples, 5):
        assert mini.sentinel(0) in inputs and targets[0] == mini.sentinel(0)
    source = training_source("t_prefix_lm", mini, 0, lengths=lengths)
    assert max(len(source.next()[1]) for _ in range(100)) == 12
    with pytest.raises(SpotError, match="expected the length of inputs"):
        training_source("t_prefix_lm", mini, 0)
    with pytest.raises(SpotError, match="found none at"):
        register_text(tmp_path / "none")


def test_a_cache_must_be_there(mini):
    with pytest.raises(SpotError, match="in seqio's cache, found nothing there"):
        load_examples("bundled_sms_spam", "train", mini, use_cached=True)


FAULTS = {
    "missing": (None, "no.tsv"),
    "blank line": (b"a\tb\n\nc\td\n", "after 0 examples"),
    "extra column": (b"a\tb\tc\n", "after 0 examples"),
    "latin-1": (b"caf\xe9\tb\n", "found byte 0xe9 at place 3"),
}


def parse_tsv(lines):
    """Rows of two columns, as t5's preprocessor of that name makes them."""
    import tensorflow as tf

    def fields(line):
        defaults = [tf.constant([""]), tf.constant([""])]
        columns = tf.io.decode_csv(line, defaults, field_delim="\t", use_quote_delim=False)
        return dict(zip(("inputs", "targets"), columns, strict=True))

    return lines.map(fields)


@pytest.mark.parametrize("fault", FAULTS)
def test_data_at_fault_are_one_line_with_the_task(fault, mini, tmp_path):
    content, expected = FAULTS[fault]
    path, name = tmp_path / "no.tsv", "at_fault"
    if content is not None:
        path.write_bytes(content)
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({"train": str(path)}),
        preprocessors=[
            parse_tsv,
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features=OUTPUT_FEATURES,
    )
    for read in (load_examples, lambda *args: training_source(*args[:1], mini, 0)):
        with pytest.raises(SpotError, match=expected) as caught:
            read(name, "train", mini)
        assert "\n" not in str(caught.value) and name in str(caught.value)
        assert len(str(caught.value)) < 500


def test_a_rate_by_a_size_that_nobody_knows_is_one_line(mini):
    register("sizeless", COLOURS)
    if "by_size" in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove("by_size")
    seqio.MixtureRegistry.add("by_size", [("sizeless", seqio.mixing_rate_num_examples)])
    with pytest.raises(SpotError, match="rate of sizeless in by_size cannot be computed") as caught:
        training_source("by_size", mini, 0)
    assert "\n" not in str(caught.value)


def test_evaluation_reads_the_cache_and_not_the_source(mini, tmp_path, monkeypatch):
    def source(split, shuffle_files, seed=None):
        raise AssertionError("the cache was passed by")

    name = "a_task_with_a_cache"
    if name not in seqio.TaskRegistry.names():
        vocabulary = seqio.SentencePieceVocabulary(str(mini.path), extra_ids=mini.extra_ids)
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(source, splits=["validation"]),
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.CacheDatasetPlaceholder(),
                seqio.preprocessors.append_eos,
            ],
            output_features={f: seqio.Feature(vocabulary) for f in ("inputs", "targets")},
            metric_fns=[accuracy],
        )
    folder = tmp_path / name
    folder.mkdir()
    features = {f: {"shape": [None], "dtype": "int32"} for f in ("inputs", "targets")}
    info = {"num_shards": 1, "features": features, "seqio_version": seqio.__version__}
    (folder / "info.validation.json").write_text(json.dumps(info))
    (folder / "stats.validation.json").write_text(json.dumps({"examples": 1}))
    (folder / "COMPLETED").touch()
    with tf.io.TFRecordWriter(str(folder / "validation.tfrecord-00000-of-00001")) as writer:
        ids = {"inputs": mini.encode("it was good"), "targets": mini.encode("yes")}
        lists = {f: tf.train.Int64List(value=value) for f, value in ids.items()}
        feature = {f: tf.train.Feature(int64_list=value) for f, value in lists.items()}
        record = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(record.SerializeToString())
    set_directories(None, [str(tmp_path)])
    lengths = {"inputs": 16, "targets": 4}
    task = load_task(name, "validation", mini, lengths=lengths, use_cached=True)
    (example,) = task.examples
    assert task.targets == ["yes"]
    assert example[0].tolist() == [*mini.encode("it was good"), 1]
    asked = []
    monkeypatch.setattr(
        validation,
        "load_tasks",
        lambda *names, **options: asked.append(options["use_cached"]) or [],
    )
    parts = types.SimpleNamespace(
        vocabulary=mini,
        mesh=make_mesh(MeshShape(1, 1)),
        names=[name],
        backbone=types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=mini.size)),
        prompt_length=0,
        method=types.SimpleNamespace(placement="before"),
    )
    data = DataSource(name, lengths, use_cached_tasks=True)
    validation.Validation(parts, data, EvaluationPlan())
    assert asked == [True]
