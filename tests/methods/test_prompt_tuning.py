"""How prompts begin, and what is tuned."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.methods.prompt_tuning import (
    ArrayInit,
    ClassLabelInit,
    PromptTuning,
    SampledVocabularyInit,
    TextInit,
    UniformInit,
)
from spot_jax.t5.config import T5Config

KEY = jax.random.key(0)
# Row i is i everywhere: a prompt's rows tell which they were.
EMBEDDING = jnp.broadcast_to(jnp.arange(6000.0)[:, None], (6000, 4))


@pytest.mark.parametrize("length", [1, 150])
def test_uniform_covers_the_papers_range(length):
    prompt = UniformInit()(KEY, jnp.zeros((10, 512)), length)
    assert prompt.shape == (length, 512)
    assert prompt.dtype == jnp.float32
    assert -0.5 <= prompt.min() < -0.45
    assert 0.45 < prompt.max() <= 0.5


@pytest.mark.parametrize("length", [1, 150, 5000])
def test_sampled_rows_are_different_rows_of_the_first_5000(length):
    prompt = np.asarray(SampledVocabularyInit()(KEY, EMBEDDING, length))
    assert prompt.shape == (length, 4)
    assert (prompt == prompt[:, :1]).all()
    ids = prompt[:, 0].tolist()
    assert len(set(ids)) == length
    assert max(ids) < 5000
    if length == 5000:
        assert set(ids) == set(range(5000))


def test_a_small_vocabulary_is_drawn_from_whole_and_again_if_need_be():
    prompt = np.asarray(SampledVocabularyInit()(KEY, EMBEDDING[:20], 50))[:, 0]
    assert set(prompt.tolist()) <= set(range(20))
    assert len(set(prompt.tolist())) > 10


def test_prompts_differ_by_the_key_and_are_float32_whatever_the_backbone():
    half = EMBEDDING.astype(jnp.bfloat16)
    one, other = (SampledVocabularyInit()(jax.random.key(k), half, 9) for k in (1, 2))
    assert (one != other).any()
    assert one.dtype == jnp.float32


@pytest.mark.parametrize("length", [1, 2, 7])
def test_class_labels_are_means_of_their_pieces_then_the_fill(length):
    init = ClassLabelInit(((10, 20), (5500,)))
    prompt = np.asarray(init(KEY, EMBEDDING, length))
    fill = np.asarray(SampledVocabularyInit()(KEY, EMBEDDING, length))
    assert prompt[:2, 0].tolist() == [15.0, 5500.0][:length]
    np.testing.assert_array_equal(prompt[2:], fill[2:])


@pytest.mark.parametrize("length", [1, 3, 6])
def test_text_is_its_pieces_in_order_then_the_fill(length):
    prompt = np.asarray(TextInit((7, 5, 7))(KEY, EMBEDDING, length))
    fill = np.asarray(SampledVocabularyInit()(KEY, EMBEDDING, length))
    assert prompt[:3, 0].tolist() == [7.0, 5.0, 7.0][:length]
    np.testing.assert_array_equal(prompt[3:], fill[3:])


def test_an_array_is_taken_as_it_is():
    given = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(ArrayInit(given)(KEY, EMBEDDING, 3), given)


@pytest.mark.parametrize(
    ("init", "match"),
    [
        (ArrayInit(np.zeros((3, 4), np.float32)), r"\[3, 4\] where \[5, 4\]"),
        (ArrayInit(np.zeros((5, 6), np.float32)), r"\[5, 6\] where \[5, 4\]"),
        (ClassLabelInit(((3,), ())), "class label 1 has no pieces"),
        (TextInit(()), "text that should initialise the prompt is empty"),
    ],
)
def test_what_cannot_begin_a_prompt_is_refused(init, match):
    with pytest.raises(SpotError, match=match) as caught:
        init(KEY, EMBEDDING, 5)
    assert "\n" not in str(caught.value)


def test_a_method_needs_a_row_and_a_prompt():
    with pytest.raises(SpotError, match="at least 1 virtual token, not 0"):
        PromptTuning(T5Config(), 0)
    with pytest.raises(SpotError, match="an initialiser for each prompt"):
        PromptTuning(T5Config(), 5, ())


def test_only_the_prompts_are_tuned_each_from_its_own_key():
    params = {"token_embedder": {"embedding": EMBEDDING}, "decoder": {"scale": jnp.ones(4)}}
    inits = (SampledVocabularyInit(), UniformInit(), SampledVocabularyInit())
    method = PromptTuning(T5Config(), 5, inits)
    keys = jax.random.split(KEY, 3)
    trainable, frozen = method.init(keys, types.SimpleNamespace(params=params))
    assert jax.tree.map(jnp.shape, trainable) == {"prompt": (3, 5, 4)}
    assert frozen["decoder"]["scale"] is params["decoder"]["scale"]
    assert jax.tree.structure(frozen) == jax.tree.structure(params)
    for init, key, prompt in zip(inits, keys, trainable["prompt"], strict=True):
        np.testing.assert_array_equal(prompt, init(key, EMBEDDING, 5))
    # Prompt i's row j stands at virtual id V + i * P + j.
    table = method.prompt_table(trainable)
    np.testing.assert_array_equal(table[1 * 5 + 2], trainable["prompt"][1, 2])
