"""Mixtures named by a plus: what is in them, and at which rates."""

import collections

import pytest
from tiny_text import VOCABULARY

from spot_jax.data import loading, seqio_registry
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.transfer.strategies import mixture


def test_a_mixture_holds_each_task_once_at_the_proportion_of_its_examples(tmp_path):
    name = mixture(["bundled_vader_tweets", "bundled_sms_spam", "bundled_vader_tweets"])
    assert name == "bundled_sms_spam+bundled_vader_tweets"
    assert loading.constituents(name) == ("bundled_sms_spam", "bundled_vader_tweets")
    source = loading.training_source(name, Vocabulary(VOCABULARY), 0)
    sizes = {task.name: task.num_input_examples("train") for task in seqio_registry.tasks_of(name)}
    whole = sum(sizes.values())
    assert source.rates == pytest.approx({task: n / whole for task, n in sizes.items()})
    # Spam has two answers and they are none of the tweets' three.
    vocabulary = Vocabulary(VOCABULARY)
    answers = collections.Counter(vocabulary.decode(source.next()[1].tolist()) for _ in range(400))
    spam = sum(answers[label] for label in loading.labels_of("bundled_sms_spam"))
    assert sum(answers.values()) == 400
    assert spam / 400 == pytest.approx(sizes["bundled_sms_spam"] / whole, abs=0.1)


def test_mixtures_within_a_mixture_come_as_their_tasks():
    name = mixture(["bundled_pair", "bundled_wordnet_hypernym", "bundled_sms_spam"])
    inner = set(loading.constituents("bundled_pair"))
    assert set(name.split("+")) == inner | {"bundled_wordnet_hypernym", "bundled_sms_spam"}
    assert name.count("bundled_wordnet_hypernym") == 1


def test_a_task_counts_with_no_more_than_the_limit():
    class Task:
        splits = ("train",)

        def __init__(self, size):
            self.size = size

        def num_input_examples(self, split):
            return self.size

    rates = [seqio_registry.proportional_rate(Task(size)) for size in (10, 2**19 + 1, None)]
    # Text of unknown size counts as a large task.
    assert rates == [10, 2**19, 2**19]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["bundled_sms_spam", "a-{split}.npz"], "needs seqio tasks, found the file a-"),
        (["bundled_sms_spam", "bundled_sms_spamm"], "found 'bundled_sms_spamm' .nearest: bundled"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(names, match):
    with pytest.raises(SpotError, match=match) as caught:
        mixture(names)
    assert "\n" not in str(caught.value)
