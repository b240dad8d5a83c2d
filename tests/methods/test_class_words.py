"""Words that begin a prompt where a task has no labels, or other ones."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.prompt_tuning import PromptTuning

# Row i is i everywhere: a prompt's rows tell which they were.
TABLE = jnp.broadcast_to(jnp.arange(6000.0)[:, None], (6000, 4))
BACKBONE = types.SimpleNamespace(params={"token_embedder": {"embedding": TABLE}})


class Words:
    """A vocabulary in which a word is as many pieces as letters, from 5000 on."""

    def encode(self, text):
        return [5000 + ord(letter) for letter in text]


def first_rows(method, count, **task):
    tree = method.start(jax.random.key(0), BACKBONE, Task(vocabulary=Words(), **task))
    return np.asarray(tree["prompt"])[:count, 0]


def mean(word):
    return 5000 + np.mean([ord(letter) for letter in word])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("super_glue_record", ("commonsense", "reasoning", "reading", "comprehension")),
        ("super_glue_wsc_no_prefix", ("commonsense", "pronoun", "resolution")),
    ],
)
def test_the_papers_words_begin_what_writes_free_text(name, words):
    rows = first_rows(PromptTuning(9), len(words), name=name)
    np.testing.assert_allclose(rows, [mean(word) for word in words], rtol=1e-6)


def test_words_of_ones_own_go_before_labels():
    method = PromptTuning(9, class_words=("ham", "spam"))
    rows = first_rows(method, 2, name="x", labels=("yes", "no"))
    np.testing.assert_allclose(rows, [mean("ham"), mean("spam")], rtol=1e-6)
    with pytest.raises(SpotError, match="class_words is a list of words, found the text 'ham'"):
        PromptTuning(9, class_words="ham")
    assert first_rows(PromptTuning(9), 9, name="free_text").max() < 5000
