"""Runs of Y-Tuning: exact resume, N as alone, a backbone that training never meets."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from method_cases import begin

from spot_jax.data import cached_features
from spot_jax.data.cached_features import T5Features
from spot_jax.data.data_source import DataSource
from spot_jax.data.examples import Examples
from spot_jax.data.feature_batches import FeatureBatches, LabelledFeatures
from spot_jax.data.feature_cache import FeatureStore
from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.y_tuning import YTuning
from spot_jax.t5.config import T5Config
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training import run as run_module
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import AdamW
from spot_jax.training.step import init_state, train_step

WORDS = ("good", "bad")
VOCABULARY = Path(__file__).parents[2] / "tasks" / "mini_spiece.model"


@pytest.fixture(scope="module")
def labelled(worded, tmp_path_factory):
    """A task whose answer is one of two words, as arrays; the second task has odd answers."""
    directory = tmp_path_factory.mktemp("labelled")
    vocabulary = Vocabulary(VOCABULARY)
    answers = [[*vocabulary.encode(word), 1] for word in WORDS]
    for name, seed in (("one", 0), ("two", 1)):
        for split in ("train", "validation"):
            rng = np.random.default_rng(seed)
            texts = [rng.integers(3, 8000, rng.integers(3, 9)).tolist() for _ in range(24)]
            pairs = [([*text, 1], answers[text[0] % 2]) for text in texts]
            Examples.from_lists(pairs).save(directory / f"{name}-{split}.npz")
    return directory


@pytest.fixture
def run(worded, labelled, tmp_path_factory):
    """Runs of the first task; options replace what stands here."""

    def go(directory, steps, *, tasks="one", recipe=(), rate=1e-2, dropout=0.1, **options):
        names = [str(labelled / f"{task}-{{split}}.npz") for task in np.atleast_1d(tasks)]
        settings = {"heads": 2, "mlp_dim": 8, "labels": WORDS, "cache": str(labelled / "cache")}
        return worded.train(
            directory,
            steps,
            backbone=StoredBackbone(worded.backbone, dropout_rate=dropout),
            method=YTuning(**{**settings, **dict(recipe)}),
            data=DataSource(names, {"inputs": 8, "targets": 2}, batch_size=6),
            optimizer=AdamW(rate),
            **options,
        )

    return go


def stored(result, i=0):
    file = load_prompt(result.directory / "prompts" / f"last-{i}.safetensors")
    assert file.prompt is None
    return dict(file.tensors)


@pytest.mark.slow
def test_in_parts_as_in_one_and_without_the_backbone(run, tmp_path, monkeypatch):
    plans = {"evaluation": EvaluationPlan(period=4), "checkpoints": CheckpointPlan(period=3)}
    encoded, trees = [], []
    encode, step_of = T5Features.__call__, run_module.train_step

    def encoding(self, tokens):
        encoded.append(len(tokens))
        return encode(self, tokens)

    def stepping(*arguments):
        step = step_of(*arguments)

        def watched(state, frozen, batch):
            trees.append((jax.tree.leaves(frozen), set(batch)))
            return step(state, frozen, batch)

        return watched

    monkeypatch.setattr(T5Features, "__call__", encoding)
    monkeypatch.setattr(run_module, "train_step", stepping)
    both = functools.partial(run, tasks=["one", "two"], rate=(1e-2, 2e-2), seeds=[3, 4], **plans)
    whole = both(tmp_path / "whole", 8)
    # r d + 8 d² + 2 d f + 3 d + d, with r = 3, d = 16, f = 8.
    assert encoded and whole.trainable == 48 + 2048 + 256 + 48 + 16
    # No step and no evaluation had a weight of the backbone or a token to encode.
    assert all(not leaves for leaves, _ in trees)
    assert trees[0][1] == {"features", "feature_lengths", "label"}
    encoded.clear()
    both(tmp_path / "parts", 5)
    again = both(tmp_path / "parts", 8)
    assert (again.step, again.examples, again.best) == (8, whole.examples, whole.best)
    for i in (0, 1):
        expected = stored(whole, i)
        for name, array in stored(again, i).items():
            np.testing.assert_array_equal(array, expected[name])
    losses = [
        [(line["step"], line["train/loss"]) for line in read_metrics(d) if "train/loss" in line]
        for d in (whole.directory, again.directory)
    ]
    assert losses[0] == losses[1]
    assert not encoded, "the caches of the first run serve the others"


@pytest.mark.slow
def test_runs_together_are_those_alone(run, tmp_path):
    rates, seeds = (1e-2, 2e-2), [3, 4]
    both = run(tmp_path / "both", 6, tasks=["one", "two"], rate=rates, seeds=seeds)
    for i, task in enumerate(("one", "two")):
        alone = run(tmp_path / task, 6, tasks=task, rate=rates[i], seeds=seeds[i])
        for name, array in stored(alone).items():
            np.testing.assert_allclose(array, stored(both, i)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_begins_from_a_stored_decoder(run, tmp_path):
    first = run(tmp_path / "first", 2, evaluation=EvaluationPlan(period=0))
    path = str(tmp_path / "first" / "prompts" / "last-0.safetensors")
    begun = {"init": "prompt", "prompt": path}
    second = run(tmp_path / "second", 1, recipe=begun, rate=1e-30)
    for name, array in stored(second).items():
        np.testing.assert_array_equal(array, stored(first)[name])
    assert load_prompt(second.prompts[0]).ancestry[0]["file"] == path
    with pytest.raises(SpotError, match="has layer_0/mlp_in of shape"):
        run(tmp_path / "third", 1, recipe={**begun, "mlp_dim": 4})


@pytest.mark.slow
def test_a_learnt_mix_of_layers(run, tmp_path):
    result = run(tmp_path / "run", 3, recipe={"features": "mix", "per_label": 2})
    tensors = stored(result)
    assert tensors["decoder/mix"].shape == (1, 2) and np.abs(tensors["decoder/mix"]).max() > 1e-3
    assert tensors["labels"].shape == (5, 16)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recipe": {"labels": None}}, "this task has none: it writes text"),
        ({"recipe": {"labels": ("good",)}}, "give two labels or more"),
        ({"recipe": {"labels": ("good", "fine")}}, "'bad' is none of the 2 labels"),
        ({"recipe": {"rebuild": False, "cache": "nowhere"}}, "whole features of .* found nothing"),
        ({"recipe": {"init": "text"}}, "labels, vocabulary, uniform, prompt; found 'text'"),
        ({"recipe": {"features": "first"}}, "YTuning.features is 'first'; choose last, mix"),
    ],
)
def test_what_a_run_refuses(options, says, run, tmp_path):
    with pytest.raises(SpotError, match=says) as caught:
        run(tmp_path / "run", 1, **options)
    assert "\n" not in str(caught.value)


def test_tasks_of_one_program_have_as_many_labels(worded):
    from spot_jax.training.sharding import MeshShape, make_mesh

    loaded = StoredBackbone(worded.backbone).load(make_mesh(MeshShape(1, 1)))
    vocabulary = Vocabulary(loaded.vocabulary_path)
    with pytest.raises(SpotError, match="as many labels, found 2 and 3"):
        tasks = [Task(labels=words, vocabulary=vocabulary) for words in (WORDS, ("a", "b", "c"))]
        Program.of(YTuning(heads=2), loaded, tasks)


def test_a_mixture_has_no_cache(run, tmp_path, monkeypatch):
    class Endless:
        pass

    monkeypatch.setattr(
        cached_features.loading, "training_source", lambda *args, **options: Endless()
    )
    with pytest.raises(SpotError, match="a mixture or a stream without end"):
        run(tmp_path / "run", 1)


@pytest.mark.slow
def test_any_encoder_of_tokens_plugs_in(tmp_path):
    """An encoder that is no T5, from its features on disk to a label decoder that has learnt."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(64, 2, 12)).astype(np.float32)

    class Embeddings:
        mark = {"backbone": "a table of vectors"}
        layers, width = 2, 12

        def __call__(self, tokens):
            return table[tokens]

    # The answer is which half of the vocabulary a text is written in.
    labels = rng.integers(0, 2, 200).astype(np.int32)
    texts = [rng.integers(3 + 30 * half, 33 + 30 * half, 6).tolist() for half in labels]
    examples = Examples.from_lists([(text, [1]) for text in texts])
    features = FeatureStore(tmp_path, Embeddings()).of("halves", "train", examples, 8)
    cut = np.zeros(len(texts), np.int32)
    batches = FeatureBatches([LabelledFeatures(features, labels, cut)], [0], 32)
    config = T5Config(vocab_size=64, emb_dim=12, num_encoder_layers=1, dropout_rate=0.0)
    method = YTuning(heads=3, mlp_dim=24, features="mix", init="uniform")
    keys = jax.random.split(jax.random.key(0), 1)
    tasks = [Task(labels=WORDS, vocabulary=Vocabulary(VOCABULARY))]
    params = {"token_embedder": {"embedding": table[:, 0]}}
    program, trainable, frozen = begin(method, params, config, tasks, keys)
    tx = AdamW(1e-2).transformation(1e-2)
    state, step = init_state(trainable, tx, keys), train_step(program, tx, dropout=False)
    losses = []
    for _ in range(60):
        state, metrics = step(state, frozen, next(batches))
        losses.append(float(metrics["loss"][0]))
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
