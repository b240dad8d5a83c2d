"""How prompts begin, and what is tuned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import begin, from_rows

from spot_jax.errors import SpotError
from spot_jax.methods import initialisation
from spot_jax.methods.base import StoredPrompt, Task
from spot_jax.methods.initialisation import class_labels, sampled_vocabulary, text, uniform
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.config import T5Config

KEY = jax.random.key(0)
# Row i is i everywhere: a prompt's rows tell which they were.
EMBEDDING = jnp.broadcast_to(jnp.arange(6000.0)[:, None], (6000, 4))


@pytest.mark.parametrize("length", [1, 150])
def test_uniform_covers_the_papers_range(length):
    prompt = uniform(KEY, jnp.zeros((10, 512)), length)
    assert prompt.shape == (length, 512)
    assert prompt.dtype == jnp.float32
    assert -0.5 <= prompt.min() < -0.45
    assert 0.45 < prompt.max() <= 0.5


@pytest.mark.parametrize("length", [1, 150, 5000])
def test_sampled_rows_are_different_rows_of_the_first_5000(length):
    prompt = np.asarray(sampled_vocabulary(KEY, EMBEDDING, length))
    assert prompt.shape == (length, 4)
    assert (prompt == prompt[:, :1]).all()
    ids = prompt[:, 0].tolist()
    assert len(set(ids)) == length
    assert max(ids) < 5000
    if length == 5000:
        assert set(ids) == set(range(5000))


def test_a_small_vocabulary_is_drawn_from_whole_and_again_if_need_be():
    prompt = np.asarray(sampled_vocabulary(KEY, EMBEDDING[:20], 50))[:, 0]
    assert set(prompt.tolist()) <= set(range(20))
    assert len(set(prompt.tolist())) > 10


def test_prompts_differ_by_the_key_and_are_float32_whatever_the_backbone():
    half = EMBEDDING.astype(jnp.bfloat16)
    first, second = (sampled_vocabulary(jax.random.key(k), half, 9) for k in (1, 2))
    assert (first != second).any()
    assert first.dtype == jnp.float32


@pytest.mark.parametrize("length", [1, 2, 7])
def test_class_labels_are_means_of_their_pieces_then_the_fill(length):
    prompt = np.asarray(class_labels(KEY, EMBEDDING, length, ((10, 20), (5500,))))
    fill = np.asarray(sampled_vocabulary(KEY, EMBEDDING, length))
    assert prompt[:2, 0].tolist() == [15.0, 5500.0][:length]
    np.testing.assert_array_equal(prompt[2:], fill[2:])


@pytest.mark.parametrize("length", [1, 3, 6])
def test_text_is_its_pieces_in_order_then_the_fill(length):
    prompt = np.asarray(text(KEY, EMBEDDING, length, (7, 5, 7)))
    fill = np.asarray(sampled_vocabulary(KEY, EMBEDDING, length))
    assert prompt[:3, 0].tolist() == [7.0, 5.0, 7.0][:length]
    np.testing.assert_array_equal(prompt[3:], fill[3:])


def stored(rows):
    return StoredPrompt("prompt", PromptFile(np.asarray(rows, np.float32)))


def test_a_stored_prompt_is_taken_as_it_is():
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(initialisation.stored(stored(rows), EMBEDDING, 3), rows)


@pytest.mark.parametrize(
    ("start", "match"),
    [
        (lambda: initialisation.stored(stored(np.zeros((3, 4))), EMBEDDING, 5), r"\[3, 4\] where"),
        (lambda: initialisation.stored(stored(np.zeros((5, 6))), EMBEDDING, 5), r"\[5, 6\] where"),
        (lambda: class_labels(KEY, EMBEDDING, 5, ((3,), ())), "class label 1 has no pieces"),
        (lambda: text(KEY, EMBEDDING, 5, ()), "text that should initialise the prompt is empty"),
    ],
)
def test_what_cannot_begin_a_prompt_is_refused(start, match):
    with pytest.raises(SpotError, match=match) as caught:
        start()
    assert "\n" not in str(caught.value)


def test_a_prompt_needs_a_row_and_a_beginning_that_there_is():
    with pytest.raises(SpotError, match="at least 1 virtual token, not 0"):
        PromptTuning(0)
    with pytest.raises(SpotError, match="unknown prompt initialisation 'best'; expected class_lab"):
        PromptTuning(init="best")


def test_only_the_prompts_are_tuned_each_from_its_own_key():
    params = {"token_embedder": {"embedding": EMBEDDING}, "decoder": {"scale": jnp.ones(4)}}
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    tasks = [Task(), *from_rows(rows), Task()]
    keys = jax.random.split(KEY, 3)
    method = PromptTuning(5, "sampled_vocabulary")
    program, trainable, frozen = begin(method, params, T5Config(emb_dim=4), tasks, keys)
    assert jax.tree.map(jnp.shape, trainable) == {"prompt": (3, 5, 4)}
    assert frozen["decoder"]["scale"] is params["decoder"]["scale"]
    assert jax.tree.structure(frozen) == jax.tree.structure(params)
    starts = [sampled_vocabulary(keys[0], EMBEDDING, 5), rows]
    starts.append(sampled_vocabulary(keys[2], EMBEDDING, 5))
    np.testing.assert_array_equal(trainable["prompt"], np.stack(starts))
    assert np.any(starts[0] != starts[2])
    # Prompt i's row j stands at virtual id V + i * P + j.
    adapted = method.adapt_batch(trainable, frozen, program.config, {}, 3)
    np.testing.assert_array_equal(adapted.table[1 * 5 + 2], trainable["prompt"][1, 2])
    assert program.prompt_length(trainable, frozen) == 5
