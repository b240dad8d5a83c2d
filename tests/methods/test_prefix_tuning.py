"""Prefixes: how they begin, what is counted, folded, stored and averaged."""

import ast
import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from method_cases import begin

from spot_jax.errors import SpotError
from spot_jax.library import similarity
from spot_jax.library.exchange import write_prompt
from spot_jax.library.library import Library
from spot_jax.methods.base import StoredPrompt, Task
from spot_jax.methods.prefix_tuning import Layout, PrefixTuning, rows_of_words
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.stored import ensemble_of, inference_of, virtual_tokens
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.prefix import prefix_shape
from spot_jax.transfer.strategies import average

# Heads x head_dim (12) is not the width (10).
CONFIG = T5Config(
    vocab_size=40,
    emb_dim=10,
    num_heads=3,
    head_dim=4,
    mlp_dim=12,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
P = 3
BOTH = ("encoder", "decoder")
KEYS = jax.random.split(jax.random.key(0), 2)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    flat = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes().items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def shapes():
    return parameter_shapes(CONFIG)


LAYOUT = Layout(CONFIG, P, BOTH)
NORMAL = PrefixTuning(P, "normal")
MLP = PrefixTuning(P, "normal", hidden=5)


def file_of(rows, places=BOTH, length=P, **fields):
    method = {"name": "PrefixTuning", "length": length, "places": list(places)}
    return PromptFile(np.asarray(rows, np.float32), method=method, **fields)


def drawn(seed=0, places=BOTH, length=P):
    shape = prefix_shape(CONFIG, length, places)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def published():
    """Every published size, as gin_configs/models has it."""
    for path in sorted((Path(__file__).parents[2] / "gin_configs" / "models").glob("*t5_*.gin")):
        bindings = re.findall(r"^T5Config\.(\w+) = (.*)$", path.read_text(), re.MULTILINE)
        yield pytest.param(T5Config(**{n: ast.literal_eval(v) for n, v in bindings}), id=path.stem)


@pytest.mark.parametrize("config", list(published()))
@pytest.mark.parametrize("hidden", [None, 512])
def test_trainable_numbers_are_the_formulas_for_every_published_size(config, hidden):
    method = PrefixTuning(20, "normal", places=("encoder", "decoder", "cross"), hidden=hidden)
    trainable = jax.eval_shape(lambda: begin(method, {"token_embedder": 0}, config)[1])
    inner = config.num_heads * config.head_dim
    total = 0
    for layers in (config.num_encoder_layers, *[config.num_decoder_layers] * 2):
        if hidden is None:
            total += 2 * 20 * layers * inner
        else:
            # Embedding, Linear, Linear of P-Tuning v2's code, with T5's inner width.
            total += 20 * config.emb_dim + (config.emb_dim + 1) * hidden
            total += (hidden + 1) * layers * 2 * inner
    assert count(trainable) == total
    assert {x.shape[0] for x in jax.tree.leaves(trainable)} == {1}


def test_small_has_fewer_numbers_in_its_heads_than_its_width():
    sizes = {p.id: p.values[0] for p in published()}
    small = sizes["t5_1_1_small"]
    assert prefix_shape(small, 20, BOTH) == (2 * 20 * 16, 384)
    assert small.emb_dim == 512
    assert (
        prefix_shape(sizes["t5_11b" if "t5_11b" in sizes else "t5_xxl"], 1, ("cross",))[1] == 16384
    )


def test_normal_is_of_its_scale_and_prefixes_differ(params):
    _, trainable, _ = begin(PrefixTuning(P, "normal", scale=0.1), params, CONFIG, 2)
    prefix = np.asarray(trainable["prefix"])
    assert prefix.shape == (2, *prefix_shape(CONFIG, P, BOTH))
    assert 0.08 < prefix.std() < 0.12
    assert (prefix[0] != prefix[1]).any()


def test_words_begin_as_what_the_model_computes_for_them(params):
    pair = zip(KEYS, ((7, 9, 11, 13), (7,)), strict=True)
    by_word, filled = (np.asarray(rows_of_words(key, params, LAYOUT, ids)) for key, ids in pair)
    # The encoder's first keys are of position-free embeddings: word by word.
    layer = params["encoder"]["layers_0"]
    x = np.asarray(params["token_embedder"]["embedding"])[[7, 9, 11]]
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6)
    x = x * np.asarray(layer["pre_attention_layer_norm"]["scale"])
    expected = x @ np.asarray(layer["attention"]["key"]["kernel"])
    np.testing.assert_allclose(by_word[:P], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(filled[0], expected[0], rtol=1e-4, atol=1e-4)
    assert np.abs(filled[1:P] - expected[1:]).max() > 0.1

    class Words:
        def encode(self, text):
            return [len(text)]

    # The pieces of a task's labels, or of a text, and none otherwise.
    task = Task(labels=("7 chars", "nine char"), vocabulary=Words())
    for method, ids in (
        (PrefixTuning(P, "class_labels"), (7, 9)),
        (PrefixTuning(P, "text", text="7 chars"), (7,)),
        (PrefixTuning(P), ()),
    ):
        _, trainable, _ = begin(method, params, CONFIG, [task], KEYS[:1])
        expected = rows_of_words(KEYS[0], params, LAYOUT, ids)
        np.testing.assert_array_equal(trainable["prefix"][0], expected)


def numpy_mlp(weights, layout):
    """Rows of the MLP by plain loops: place, layer, keys then values, position."""
    rows, width = [], layout.shape[1]
    for place in layout.places:
        mlp = jax.tree.map(lambda x: np.asarray(x, np.float64), weights[place])
        hidden = np.tanh(mlp["embedding"] @ mlp["first"]["kernel"] + mlp["first"]["bias"])
        out = hidden @ mlp["second"]["kernel"] + mlp["second"]["bias"]
        for part in range(out.shape[1] // width):
            rows += [out[p, part * width : (part + 1) * width] for p in range(layout.length)]
    return np.stack(rows)


def test_an_mlp_is_folded_to_its_rows_and_kept_beside_them(params, tmp_path):
    method, trainable, frozen = begin(MLP, params, CONFIG, 1, KEYS[:1])
    file = method.file(trainable, frozen, 0)
    mlp = jax.tree.map(lambda x: x[0], trainable["prefix"])
    np.testing.assert_allclose(file.rows, numpy_mlp(mlp, LAYOUT), atol=1e-6)
    (beside,) = method.companions(trainable, frozen, 0, file).values()
    beside.save(tmp_path / "mlp.safetensors")
    # It can be used as it is, and gone on with: bit for bit the same MLP.
    read = load_prompt(tmp_path / "mlp.safetensors")
    np.testing.assert_array_equal(read.rows, file.rows)
    tasks = [Task(source=StoredPrompt("mlp", read))]
    again = begin(MLP, params, CONFIG, tasks)[1]["prefix"]
    jax.tree.map(np.testing.assert_array_equal, again, trainable["prefix"])
    rows = begin(NORMAL, params, CONFIG, tasks)[1]["prefix"]
    np.testing.assert_array_equal(rows[0], file.rows)
    with pytest.raises(SpotError, match="without its MLP cannot go on being reparameterised"):
        begin(MLP, params, CONFIG, [Task(source=StoredPrompt("rows", file))])


def test_an_mlp_begins_as_pytorch_would(params):
    """Embeddings standard normal, weights and biases uniform within 1 / sqrt(inputs)."""
    method = PrefixTuning(200, "normal", hidden=64, width=100)
    mlp = jax.tree.map(lambda x: np.asarray(x[0]), begin(method, params, CONFIG)[1]["prefix"])
    for place in BOTH:
        assert mlp[place]["embedding"].std() == pytest.approx(1.0, abs=0.02)
        for layer, inputs in (("first", 100), ("second", 64)):
            for leaf in mlp[place][layer].values():
                assert np.abs(leaf).max() <= inputs**-0.5
                assert leaf.std() == pytest.approx((3 * inputs) ** -0.5, rel=0.15)


@functools.cache
def losses_and_gradients(method):
    return jax.jit(jax.value_and_grad(method.loss, has_aux=True))


@pytest.mark.slow
def test_prefixes_in_one_batch_have_the_losses_and_gradients_of_each_alone(params):
    both, together, frozen = begin(NORMAL, params, CONFIG, 2, KEYS)
    tokens = np.random.default_rng(0).integers(3, 40, (4, 5)).astype(np.int32)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.pad(tokens[:, :2], ((0, 0), (1, 0))),
        "decoder_target_tokens": tokens[:, :3],
        "decoder_loss_weights": np.ones((4, 3), np.float32),
    }
    assignment = {"row_prompt": np.array([0, 0, 1, 1]), "row_number": np.array([0, 1, 0, 1])}
    (_, metrics), grads = losses_and_gradients(both)(
        together, frozen, {**batch, **assignment}, None
    )
    alone = begin(NORMAL, params, CONFIG)[0]
    for i in range(2):
        part = jax.tree.map(lambda x, i=i: x[i : i + 1], together)
        rows = {name: x[2 * i : 2 * i + 2] for name, x in batch.items()}
        (_, expected), gradient = losses_and_gradients(alone)(part, frozen, rows, None)
        np.testing.assert_allclose(metrics["loss"][i], expected["loss"][0], rtol=1e-5)
        scale = np.abs(gradient["prefix"]).max()
        np.testing.assert_allclose(grads["prefix"][i], gradient["prefix"][0], atol=1e-5 * scale)


@pytest.mark.slow
def test_dropout_takes_whole_keys_of_the_prefix_from_a_head(params):
    """As those of the text: with one row, a value that is dropped in a head has no gradient."""
    length = 16
    config, method = dataclasses.replace(CONFIG, dropout_rate=0.5), PrefixTuning(length, "normal")
    tokens = np.random.default_rng(0).integers(3, 40, (1, 5)).astype(np.int32)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.pad(tokens[:, :2], ((0, 0), (1, 0))),
        "decoder_target_tokens": tokens[:, :3],
        "decoder_loss_weights": np.ones((1, 3), np.float32),
    }
    program, trainable, frozen = begin(method, params, config)
    dropped = []
    for keys in (KEYS[:1], None):
        _, gradient = losses_and_gradients(program)(trainable, frozen, batch, keys)
        rows = np.asarray(gradient["prefix"][0]).reshape(3, 2, length, 3, 4)  # layers, key or value
        zero = rows[:, 1] == 0
        np.testing.assert_array_equal(zero, zero[..., :1].repeat(4, axis=-1))
        dropped.append(zero[..., 0].mean())
    assert 0.3 < dropped[0] < 0.7 and dropped[1] == 0


def test_a_file_gives_back_what_predictions_ran_with(params, tmp_path):
    for settings in (NORMAL, MLP):
        method, trainable, frozen = begin(settings, params, CONFIG)
        method.file(trainable, frozen, 0).save(tmp_path / "prefix.safetensors")
        file = load_prompt(tmp_path / "prefix.safetensors")
        inference = inference_of(params, CONFIG, file)
        assert inference.table is None
        assert virtual_tokens(file) == (0, "before")
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            inference.params,
            method.infer(trainable, frozen, 0).params,
        )


def test_a_member_of_an_ensemble_is_the_prefix_alone(params):
    files = [file_of(drawn(seed)) for seed in range(2)]
    ensemble = ensemble_of(params, CONFIG, files, 3).params
    for i, file in enumerate(files):
        alone = PrefixTuning.read(file, params, CONFIG).params
        for path in (
            ("encoder", "layers_1", "attention"),
            ("decoder", "layers_0", "self_attention"),
        ):
            whole, member = ensemble, alone
            for name in path:
                whole, member = whole[name], member[name]
            # Examples repeated for every member: rows 0, 2 and 4 are the first's.
            assert whole["prefix_value"].shape[0] == 6
            for row in range(i, 6, 2):
                np.testing.assert_array_equal(whole["prefix_value"][row], member["prefix_value"][0])
    virtual = PromptFile(np.zeros((2, 10), np.float32), method={"name": "PromptTuning"})
    with pytest.raises(SpotError, match="of prefixes alone, found PrefixTuning and PromptTuning"):
        ensemble_of(params, CONFIG, [files[0], virtual], 3)
    longer = file_of(drawn(0, length=4), length=4)
    with pytest.raises(SpotError, match=r"found 3 in encoder\+decoder, 4 in"):
        ensemble_of(params, CONFIG, [files[0], longer], 3)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            file_of(np.zeros((18, 16))),
            r"\[18, 16\] cannot .* \[18, 12\] is expected for length 3",
        ),
        (file_of(np.zeros((24, 12))), r"shape \[24, 12\] .* \[18, 12\] is expected"),
        (file_of(np.zeros((18, 12)), places=("deocder",)), "each once; found 'deocder'"),
        (
            PromptFile(np.zeros((18, 12), np.float32)),
            "expected a prefix, found a prompt of unknown",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_backbone_is_refused(file, message, params):
    with pytest.raises(SpotError, match=message):
        PrefixTuning.read(file, params, CONFIG)


def test_prefixes_are_kept_found_and_averaged(tmp_path):
    files = [
        file_of(drawn(seed), backbone="b" * 64, task=f"task{seed}", step=5, seed=seed)
        for seed in range(3)
    ]
    library = Library(tmp_path / "library")
    for file in files:
        library.add(file, file)
    ranked = library.rank(drawn(1), metric="per_token", backbone="b" * 64)
    assert [match.entry.task for match in ranked][0] == "task1"
    assert ranked[0].similarity == pytest.approx(similarity.per_token(drawn(1), drawn(1)))
    stored = library.load(ranked[0].entry)[0]
    np.testing.assert_array_equal(stored.prompt, drawn(1))
    mean = average(files[:2], [0.25, 0.75], ["a", "b"])
    np.testing.assert_allclose(mean.prompt, 0.25 * drawn(0) + 0.75 * drawn(1), atol=1e-6)
    assert virtual_tokens(mean) == (0, "before")
    assert mean.rows.shape == (18, 12) and mean.method["places"] == list(BOTH)
    # As many rows of the same width, in another place: not to be mixed.
    other = file_of(drawn(0), places=("encoder", "cross"))
    with pytest.raises(SpotError, match="prompts of one kind, found ways of use"):
        average([files[0], other], [1.0, 1.0], ["a", "b"])
    for form in ("t5x", "peft"):
        with pytest.raises(SpotError, match="expected rows of virtual tokens, found .* PrefixTun"):
            write_prompt(stored, tmp_path / "out", form)


def test_impossible_prefixes_are_refused():
    for fields, message in (
        ({"length": 0}, "a prefix has at least 1 key a layer, not 0"),
        ({"places": ("encoder", "encoder")}, "each once; found 'encoder', 'encoder'"),
    ):
        with pytest.raises(SpotError, match=message):
            PrefixTuning(**{"length": P, **fields})
