"""A prefix in the model: against numpy's and Hugging Face's attention, and its paths alike."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.decoding import beam_search, greedy
from spot_jax.t5.layers import relative_position_buckets
from spot_jax.t5.model import (
    decode,
    decode_step,
    encode,
    stack_layers,
    start_cache,
    unstack_layers,
)
from spot_jax.t5.prefix import (
    PLACES,
    check_places,
    prefix_of_words,
    prefix_shape,
    with_prefix,
)
from spot_jax.t5.scoring import rank_labels

# Heads x head_dim is not the width, as in `small`; encoder and decoder differ in depth.
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
ALL = ("cross", "encoder", "decoder")
TOKENS = np.array([[5, 9, 17, 3, 1], [8, 2, 1, 0, 0]], np.int32)
TARGETS = np.array([[7, 30, 1], [12, 1, 0]], np.int32)
INPUTS = np.array([[0, 7, 30], [0, 12, 0]], np.int32)


def weights():
    rng, flat = np.random.default_rng(0), {}
    for name, shape in parameter_shapes(CONFIG).items():
        scale = 0.1 if name.endswith("scale") else shape[0] ** -0.5
        array = scale * rng.normal(size=shape) + name.endswith("scale")
        flat[name] = jnp.asarray(array, jnp.float32)
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture(scope="module")
def params():
    return weights()


def drawn(places, seed=0, n=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *prefix_shape(CONFIG, P, places))).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def logits_of(params, config, places, prefix, batch=None):
    batch = {"tokens": TOKENS, "inputs": INPUTS, "targets": TARGETS} if batch is None else batch
    tokens, segments = batch["tokens"], batch.get("segments")
    tree = with_prefix(params, config, prefix, places)
    encoded = encode(tree, config, tokens, segment_ids=segments)
    return decode(
        tree,
        config,
        encoded,
        tokens,
        batch["inputs"],
        batch["targets"],
        encoder_segment_ids=segments,
        decoder_segment_ids=batch.get("target_segments"),
    )


# --- the formula in numpy, float64, one row at a time, no line shared with the model ---


def softmax_attention(queries, keys, values, bias):
    """Return softmax(q k + bias) v with [positions, heads, width], plain loops over heads."""
    out = np.zeros((len(queries), *values.shape[1:]))
    for head in range(queries.shape[1]):
        scores = queries[:, head] @ keys[:, head].T + bias[head]
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values[:, head]
    return out.reshape(len(queries), -1)


def norm(x, scale):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def heads(x):
    return x.reshape(len(x), CONFIG.num_heads, CONFIG.head_dim)


def attended(weights, x, source, bias, prefix):
    """Attend once: the prefix's keys and values first, with bias 0."""
    keys, values = (heads(source @ weights[n]["kernel"]) for n in ("key", "value"))
    if prefix is not None:
        keys, values = (np.concatenate(pair) for pair in zip(prefix, (keys, values), strict=True))
        bias = np.concatenate([np.zeros((*bias.shape[:2], P)), bias], axis=2)
    queries = heads(x @ weights["query"]["kernel"])
    return softmax_attention(queries, keys, values, bias) @ weights["out"]["kernel"]


def feed_forward(weights, x):
    a, b = x @ weights["wi_0"]["kernel"], x @ weights["wi_1"]["kernel"]
    gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    return gelu * b @ weights["wo"]["kernel"]


def position_bias(weights, length, bidirectional):
    rows = relative_position_buckets(
        np.arange(length)[:, None] - np.arange(length), 32, 128, bidirectional
    )
    return weights["relpos_bias"]["rel_embedding"][:, rows]


def reference(tree, prefixes, tokens, inputs):
    """Return logits of a row without padding; prefixes[place][layer] = (keys, values) or {}."""

    def prefix(place, i):
        return prefixes[place][i] if place in prefixes else None

    table = tree["token_embedder"]["embedding"]
    side, x = tree["encoder"], table[tokens]
    bias = position_bias(side, len(tokens), True)
    for i in range(CONFIG.num_encoder_layers):
        layer = side[f"layers_{i}"]
        y = norm(x, layer["pre_attention_layer_norm"]["scale"])
        x = x + attended(layer["attention"], y, y, bias, prefix("encoder", i))
        x = x + feed_forward(layer["mlp"], norm(x, layer["pre_mlp_layer_norm"]["scale"]))
    encoded = norm(x, side["encoder_norm"]["scale"])
    side, x, n = tree["decoder"], table[inputs], len(inputs)
    bias = position_bias(side, n, False) + np.where(np.tri(n), 0, -1e9)[None]
    none = np.zeros((CONFIG.num_heads, n, len(tokens)))
    for i in range(CONFIG.num_decoder_layers):
        layer = side[f"layers_{i}"]
        y = norm(x, layer["pre_self_attention_layer_norm"]["scale"])
        x = x + attended(layer["self_attention"], y, y, bias, prefix("decoder", i))
        y = norm(x, layer["pre_cross_attention_layer_norm"]["scale"])
        cross = layer["encoder_decoder_attention"]
        x = x + attended(cross, y, encoded, none, prefix("cross", i))
        x = x + feed_forward(layer["mlp"], norm(x, layer["pre_mlp_layer_norm"]["scale"]))
    return norm(x, side["decoder_norm"]["scale"]) @ side["logits_dense"]["kernel"]


def by_layer(rows, places):
    """Return prefixes[place][layer] from a file's rows, counted off one by one."""
    prefixes, at = {}, 0
    for place in places:
        prefixes[place] = []
        layers = CONFIG.num_encoder_layers if place == "encoder" else CONFIG.num_decoder_layers
        for _ in range(layers):
            keys, values = rows[at : at + P], rows[at + P : at + 2 * P]
            prefixes[place].append((heads(keys), heads(values)))
            at += 2 * P
    assert at == len(rows)
    return prefixes


WEIGHTS = np.random.default_rng(3).normal(size=(3, CONFIG.vocab_size)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=1)
def logits_and_gradient(params, places, prefix):
    def weighted(prefix):
        logits = logits_of(params, CONFIG, places, prefix)
        return jnp.sum(logits[0] * WEIGHTS), logits

    (_, logits), gradient = jax.value_and_grad(weighted, has_aux=True)(prefix)
    return logits, gradient


@pytest.mark.parametrize("places", [ALL, pytest.param(("decoder",), marks=pytest.mark.slow)])
def test_the_model_with_a_prefix_is_the_formula_and_so_is_its_gradient(places, params):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    prefix = drawn(places)
    logits, gradient = map(np.asarray, logits_and_gradient(params, places, prefix))

    def formula(rows, row=0):
        tokens, inputs = TOKENS[row][TOKENS[row] > 0], INPUTS[row][TARGETS[row] > 0]
        return reference(wide, by_layer(rows, places), tokens, inputs)

    rows = prefix[0].astype(np.float64)
    for row, length in enumerate((3, 2)):
        np.testing.assert_allclose(logits[row, :length], formula(rows, row), atol=1e-5)
    assert np.abs(reference(wide, {}, TOKENS[0], INPUTS[0]) - logits[0]).max() > 1e-2
    rng = np.random.default_rng(4)
    largest = np.abs(gradient).max()
    for _ in range(10):
        # Central differences in float64, each along one number of the prefix.
        i, j = rng.integers(len(rows)), rng.integers(rows.shape[1])
        ends = []
        for step in (1e-5, -1e-5):
            moved = rows.copy()
            moved[i, j] += step
            ends.append((formula(moved) * WEIGHTS).sum())
        expected = (ends[0] - ends[1]) / 2e-5
        assert abs(gradient[0, i, j] - expected) <= 1e-4 * largest


@pytest.mark.slow
def test_scanned_and_rematerialised_layers_compute_the_same(params):
    prefix = drawn(ALL)
    scanned = dataclasses.replace(CONFIG, scan_layers=True, remat=True)
    stacked = stack_layers(params, CONFIG)
    logits = logits_of(stacked, scanned, ALL, prefix)
    np.testing.assert_allclose(logits, logits_of(params, CONFIG, ALL, prefix), atol=1e-5)
    tree = with_prefix(stacked, scanned, prefix, ALL)
    expected = with_prefix(params, CONFIG, prefix, ALL)
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(tree, scanned), expected)


def each_alone(params, prefix):
    """Return the logits of both examples under each row's prefix alone: [n, 2, u, v]."""
    return np.stack([logits_and_gradient(params, ALL, row[None])[0] for row in prefix])


def test_packed_segments_share_the_prefix_of_their_row(params):
    prefix = drawn(ALL, n=2)
    row = {
        "tokens": [5, 9, 17, 3, 1, 8, 2, 1, 0],
        "segments": [1, 1, 1, 1, 1, 2, 2, 2, 0],
        "inputs": [0, 7, 30, 0, 12, 0],
        "targets": [7, 30, 1, 12, 1, 0],
        "target_segments": [1, 1, 1, 2, 2, 0],
    }
    packed = {name: np.array([x, x], np.int32) for name, x in row.items()}
    logits = logits_of(params, CONFIG, ALL, prefix, packed)
    assert np.isfinite(logits).all()
    for row, expected in enumerate(each_alone(params, prefix)):
        np.testing.assert_allclose(logits[row, :3], expected[0], atol=1e-5)
        np.testing.assert_allclose(logits[row, 3:5], expected[1, :2], atol=1e-5)
    assert np.abs(logits[0, :3] - logits[1, :3]).max() > 1e-2


@jax.jit
def step_by_step(params, prefix):
    tree = with_prefix(params, CONFIG, prefix, ALL)
    cache = start_cache(tree, CONFIG, encode(tree, CONFIG, TOKENS), TOKENS, 4)

    def step(cache, tokens_and_position):
        logits, cache = decode_step(tree, CONFIG, cache, *tokens_and_position)
        return cache, logits

    _, logits = jax.lax.scan(step, cache, (INPUTS.T, np.arange(3)))
    return jnp.moveaxis(logits, 0, 1)


def test_decoding_step_by_step_sees_what_training_sees(params):
    prefix, real = drawn(ALL, n=2), TARGETS > 0
    logits, expected = step_by_step(params, prefix), each_alone(params, prefix)
    for row in range(2):
        np.testing.assert_allclose(logits[row, real[row]], expected[row, row, real[row]], atol=1e-5)


LABELS = np.array([[7, 30, 1], [12, 1, 0]], np.int32)


@jax.jit
def searched(params, prefix):
    tree = with_prefix(params, CONFIG, prefix, ALL)
    beams, scores = beam_search(tree, CONFIG, TOKENS, max_length=3, beams=2, alpha=0.0)
    ranked = rank_labels(tree, CONFIG, TOKENS, LABELS)
    return greedy(tree, CONFIG, TOKENS, max_length=3), beams[:, 0], scores[:, 0], ranked


@pytest.mark.slow
def test_search_and_ranking_agree_with_scores(params):
    prefix = drawn(ALL, n=2)
    words, beams, scores, ranked = map(np.asarray, searched(params, prefix))

    def likelihoods(targets):
        inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
        # Every position is scored, whatever stands there.
        batch = {"tokens": TOKENS, "inputs": inputs, "targets": np.where(targets > 0, targets, 2)}
        return np.asarray(jax.nn.log_softmax(logits_of(params, CONFIG, ALL, prefix, batch)))

    def total(targets):
        chosen = np.take_along_axis(likelihoods(targets), targets[..., None], axis=2)[..., 0]
        return (chosen * (targets > 0)).sum(axis=1)

    best = likelihoods(words).argmax(axis=2)
    np.testing.assert_array_equal(np.where(words > 0, best, 0), words)
    np.testing.assert_allclose(total(beams), scores, atol=1e-5)
    for label in range(2):
        targets = np.broadcast_to(LABELS[label], (2, 3))
        np.testing.assert_allclose(total(targets), ranked[:, label], atol=1e-5)


@pytest.mark.slow
def test_words_give_the_keys_and_values_that_the_model_computes(params):
    words = np.array([[5, 9, 17], [30, 4, 6]], np.int32)
    prefix = prefix_of_words(params, CONFIG, words, ALL)
    assert prefix.shape == (2, *prefix_shape(CONFIG, P, ALL))
    stacked = dataclasses.replace(CONFIG, scan_layers=True)
    again = prefix_of_words(stack_layers(params, CONFIG), stacked, words, ALL)
    np.testing.assert_array_equal(prefix, again)
    # The first encoder layer's, by hand.
    layer = jax.tree.map(np.asarray, params["encoder"]["layers_0"])
    x = np.asarray(params["token_embedder"]["embedding"])[words[1]]
    x = norm(x, layer["pre_attention_layer_norm"]["scale"])
    expected = by_layer(np.asarray(prefix)[1], ALL)["encoder"][0]
    for name, rows in zip(("key", "value"), expected, strict=True):
        by_hand = heads(x @ layer["attention"][name]["kernel"])
        np.testing.assert_allclose(rows, by_hand, atol=1e-5)


@pytest.mark.parametrize("places", [(), ("encoder", "encoder"), ("deocder",)])
def test_places_are_those_there_are(places):
    with pytest.raises(SpotError, match=f"some of {', '.join(PLACES)}, each once; found"):
        check_places(places)
