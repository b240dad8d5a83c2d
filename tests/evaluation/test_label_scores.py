"""Predictions of a method that scores labels: the best one, among those asked for, and its loss."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import Search, evaluate, predict
from spot_jax.metrics import accuracy
from spot_jax.t5.config import T5Config


class Letters:
    """A text's ids are its characters' places in the alphabet, from 3 on."""

    def encode(self, text):
        return [ord(letter) - ord("a") + 3 for letter in text]

    def decode(self, ids):
        raise AssertionError("nothing is written")


@dataclass(frozen=True)
class Given:
    """The first token says which row of `params` the scores are."""

    labels: tuple[str, ...] = ("ab", "ac", "b")

    def __call__(self, params, config, batch):
        return params[batch["encoder_input_tokens"][:, 0]]

    def losses(self, scores, gold):
        return jnp.take_along_axis(scores, gold[:, None], axis=1)[:, 0]


SCORES = jnp.asarray([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [0.0, 5.0, 4.0]])


def batches(targets=(), rows=2):
    """Three examples in batches of two; the fourth row only fills."""
    tokens = np.array([[0], [1], [2], [0]], np.int32)
    for start in (0, 2):
        here = slice(start, start + rows)
        batch = {"encoder_input_tokens": tokens[here], "row_valid": np.arange(4)[here] < 3}
        if targets:
            batch["decoder_target_tokens"] = np.array([*targets, targets[0]], np.int32)[here]
        yield batch


def predicted(targets=(), labels=()):
    search, config = Search(labels=labels), T5Config()
    return predict(SCORES, config, batches(targets), Letters(), search=search, scorer=Given())


def test_the_best_label_of_all_and_of_some():
    assert predicted().texts == ["ab", "b", "ac"] and predicted().loss is None
    # In another order, and without some: by name, not by number.
    assert predicted(labels=("b", "ab")).texts == ["ab", "b", "b"]
    with pytest.raises(SpotError, match=r"were tuned \(ab, ac, b\), found 'c'") as caught:
        predicted(labels=("ab", "c"))
    assert "\n" not in str(caught.value)


def test_rows_that_came_by_length_are_in_order_again():
    mixed = list(batches())
    order = np.array([2, 0, 1, 3], np.int32)
    tokens, valid = (
        np.concatenate([batch[name] for batch in mixed])[order]
        for name in ("encoder_input_tokens", "row_valid")
    )
    rows = [
        {
            "encoder_input_tokens": tokens[here],
            "row_valid": valid[here],
            "row_number": order[here],
        }
        for here in (slice(0, 2), slice(2, 4))
    ]
    search = Search(labels=Given().labels)
    result = predict(SCORES, T5Config(), rows, Letters(), search=search, scorer=Given())
    assert result.texts == ["ab", "b", "ac"]


def test_the_loss_is_that_of_the_rows_whose_label_is_known():
    # "ab", "b", and one that is no label; the row that fills has no part.
    assert predicted([[3, 4, 1], [4, 1, 0], [9, 1, 0]]).loss == pytest.approx((3.0 + 3.0) / 2)
    # Targets that are cut after one token: two labels begin so, one does alone.
    assert predicted([[3], [4], [4]]).loss == pytest.approx((3.0 + 4.0) / 2)


def test_metrics_compare_with_the_tasks_targets():
    targets = ["ab", "ab", "ac"]
    result = evaluate(SCORES, T5Config(), batches(), Letters(), targets, [accuracy], scorer=Given())
    assert result.metrics["accuracy"] == pytest.approx(200 / 3)
