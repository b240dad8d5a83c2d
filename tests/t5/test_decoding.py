"""Greedy and beam search against other implementations' output and against trying everything."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.t5 import decoding
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import decode, encode, init_params, stack_layers

greedy = jax.jit(decoding.greedy, static_argnames=("config", "max_length"))
beam_search = jax.jit(
    decoding.beam_search, static_argnames=("config", "max_length", "beams", "alpha")
)

TINY = T5Config(
    vocab_size=5,
    emb_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=12,
    num_encoder_layers=1,
    num_decoder_layers=2,
    dropout_rate=0.0,
)
# The first two rows end soon, the third goes on and on.
INPUTS = np.array([[2, 3, 4, 1], [4, 2, 1, 0], [3, 1, 0, 0]], np.int32)
ENDING = np.array([[2, 3, 4, 1], [3, 3, 3, 4]], np.int32)


@functools.cache
def tiny_params():
    return init_params(jax.random.key(0), TINY)


@functools.partial(jax.jit, static_argnums=1)
def log_probs(params, config, encoder_tokens, targets):
    """Return log p of every token after the targets before it, [b, u, v], from whole sequences."""
    encoded = encode(params, config, encoder_tokens)
    inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    # As targets ones: all positions are real, though pad may be among the tokens written.
    real = jnp.ones_like(targets)
    return jax.nn.log_softmax(decode(params, config, encoded, encoder_tokens, inputs, real))


@pytest.fixture(scope="module")
def golden_case(golden_backbone, golden):
    config, params = golden_backbone
    z = np.load(golden / "golden.npz")
    ids = z["encoder_input_tokens"].astype(np.int32)
    virtual = np.tile(config.vocab_size + np.arange(len(z["prompt"]), dtype=np.int32), (3, 1))
    prompted = np.concatenate([virtual, ids], axis=1)
    inputs = {"minimal": (ids, None), "prompt": (prompted, jnp.asarray(z["prompt"]))}
    return config, params, inputs, z


@pytest.mark.parametrize("name", [pytest.param("minimal", marks=pytest.mark.slow), "prompt"])
def test_beams_and_greedy_equal_t5x(golden_case, name):
    config, params, inputs, z = golden_case
    ids, table = inputs[name]
    for beams in (1, 4):
        tokens, scores = beam_search(
            params, config, ids, table=table, beams=beams, max_length=6, alpha=0.6
        )
        assert tokens.shape == (3, beams, 6)
        np.testing.assert_array_equal(tokens[:, 0], z[f"{name}/beam{beams}_tokens"])
        np.testing.assert_allclose(scores[:, 0], z[f"{name}/beam{beams}_scores"], rtol=1e-5)
    # In these rows no eos comes second, so one beam is greedy search.
    best = greedy(params, config, ids, table=table, max_length=6)
    np.testing.assert_array_equal(best, z[f"{name}/beam1_tokens"])


@pytest.mark.slow
def test_enough_beams_find_what_trying_everything_finds():
    length, alpha = 3, 0.6
    words = [token for token in range(TINY.vocab_size) if token != 1]
    finished = [(*start, 1) for n in range(length) for start in itertools.product(words, repeat=n)]
    targets = np.array([s + (0,) * (length - len(s)) for s in finished], np.int32)
    places = np.arange(length)[None] < np.array([len(s) for s in finished])[:, None]
    # Twice 40 are kept at each step, and 16 live sequences of two words have 80 continuations.
    tokens, scores = beam_search(
        tiny_params(), TINY, INPUTS, beams=40, max_length=length, alpha=alpha
    )
    assert np.isneginf(scores[:, len(finished) :]).all()
    tokens, scores = tokens[:, : len(finished)], scores[:, : len(finished)]
    for row in range(len(INPUTS)):
        source = np.tile(INPUTS[row], (len(finished), 1))
        each = log_probs(tiny_params(), TINY, source, targets)
        total = (np.take_along_axis(each, targets[..., None], 2)[..., 0] * places).sum(axis=1)
        expected = total / ((5 + places.sum(axis=1)) / 6) ** alpha
        order = np.argsort(-expected)
        np.testing.assert_allclose(scores[row], expected[order], rtol=1e-5)
        np.testing.assert_array_equal(tokens[row], targets[order])


@pytest.mark.slow
def test_greedy_takes_the_most_likely_token_each_time():
    tokens = np.asarray(greedy(tiny_params(), TINY, INPUTS, max_length=8))
    best = jnp.argmax(log_probs(tiny_params(), TINY, INPUTS, tokens), axis=-1)
    ended = np.cumsum(np.pad(tokens[:, :-1], ((0, 0), (1, 0))) == 1, axis=1) > 0
    assert ended[:, -1].any() and len(np.unique(tokens)) > 2
    np.testing.assert_array_equal(tokens, np.where(ended, 0, best))


@pytest.mark.slow
def test_a_row_depends_neither_on_padding_nor_on_its_neighbours():
    padded = np.concatenate([INPUTS, np.zeros_like(INPUTS[:2])])
    alone = [INPUTS[i : i + 1] for i in range(len(INPUTS))]
    search = functools.partial(beam_search, tiny_params(), TINY, beams=3, max_length=6)
    tokens, scores = search(padded)
    for row, row_inputs in enumerate(alone):
        alone_tokens, alone_scores = search(row_inputs)
        np.testing.assert_array_equal(tokens[row], alone_tokens[0])
        np.testing.assert_allclose(scores[row], alone_scores[0], rtol=1e-5)
    assert (tokens[3:] == 0).all() and np.isneginf(scores[3:]).all()
    together = greedy(tiny_params(), TINY, padded, max_length=6)
    for row, row_inputs in enumerate(alone):
        apart = greedy(tiny_params(), TINY, row_inputs, max_length=6)
        np.testing.assert_array_equal(together[row], apart[0])
    assert (together[3:] == 0).all()


@pytest.mark.slow
def test_the_loop_ends_with_the_last_row(monkeypatch):
    steps = []

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return original(*args)

    original = decoding.decode_step
    monkeypatch.setattr(decoding, "decode_step", counted)
    search = jax.jit(functools.partial(decoding.greedy, config=TINY, max_length=40))
    tokens = np.asarray(search(tiny_params(), encoder_tokens=ENDING))
    jax.effects_barrier()
    ends = (tokens == 1).argmax(axis=1) + 1
    assert (tokens == 1).any(axis=1).all() and len(set(ends)) > 1
    assert len(steps) == max(ends)
    steps.clear()
    search(tiny_params(), encoder_tokens=np.zeros_like(ENDING)).block_until_ready()
    jax.effects_barrier()
    assert not steps


@pytest.mark.slow
def test_scanned_layers_decode_the_same():
    config = dataclasses.replace(TINY, scan_layers=True, remat=True)
    params = stack_layers(tiny_params(), TINY)
    tokens, scores = beam_search(params, config, INPUTS, beams=2, max_length=5)
    expected, expected_scores = beam_search(tiny_params(), TINY, INPUTS, beams=2, max_length=5)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


@pytest.mark.slow
def test_beams_share_the_encoders_keys_and_values():
    beams, length = 8, 61
    inputs = jnp.zeros((2, length), jnp.int32)
    encoded = jnp.zeros((2, length, TINY.emb_dim))
    search = functools.partial(decoding.beam_search, config=TINY, beams=beams, max_length=4)
    traced = jax.make_jaxpr(search)(tiny_params(), encoder_tokens=inputs, encoded=encoded)
    shapes = shapes_in(traced.jaxpr)
    copied = 2 * beams * length * TINY.num_heads * TINY.head_dim
    assert any(length in shape for shape in shapes)
    assert max(np.prod(shape) for shape in shapes if length in shape) < copied


def shapes_in(jaxpr):
    """Return the shapes of every intermediate result, those of inner functions too."""
    shapes = []
    for equation in jaxpr.eqns:
        shapes += [v.aval.shape for v in equation.outvars]
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                shapes += shapes_in(inner)
    return shapes


def test_impossible_sizes_are_refused():
    with pytest.raises(SpotError, match="found 0"):
        greedy(tiny_params(), TINY, INPUTS, max_length=0)
    with pytest.raises(SpotError, match="1 beam or more"):
        beam_search(tiny_params(), TINY, INPUTS, beams=0, max_length=3)
