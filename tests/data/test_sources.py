import itertools
import json
from collections import Counter

import numpy as np
import pytest

from spot_jax.data.examples import Examples
from spot_jax.data.sources import Mixture, Shuffled, Stream, mixing_rates
from spot_jax.errors import SpotError


def numbered(n, first=0):
    return Examples.from_lists([([first + i] * (1 + i % 3), [first + i, 1]) for i in range(n)])


def draw(source, n):
    return [int(source.next()[1][0]) for _ in range(n)]


def make(kind):
    if kind == "shuffled":
        return Shuffled(numbered(7), seed=3)
    if kind == "mixture":
        parts = {"a": Shuffled(numbered(7), 1), "b": Shuffled(numbered(5, 100), 2)}
        return Mixture(parts, {"a": 3.0, "b": 1.0}, seed=3)
    return Stream(lambda: itertools.cycle(numbered(7)))


@pytest.mark.parametrize("kind", ["shuffled", "mixture", "stream"])
@pytest.mark.parametrize("before", [0, 1, 6, 7, 8, 25])
def test_restore_goes_on_exactly_where_the_state_was_taken(kind, before):
    source = make(kind)
    draw(source, before)
    state = json.loads(json.dumps(source.state()))
    expected = draw(source, 20)
    other = make(kind)
    draw(other, 3)
    other.restore(state)
    assert draw(other, 20) == expected


def test_mixture_restores_across_its_blocks():
    source = make("mixture")
    draw(source, 4090)
    state, expected = source.state(), draw(source, 20)
    other = make("mixture")
    other.restore(state)
    assert draw(other, 20) == expected


def test_each_epoch_holds_every_example_once_in_an_order_of_its_own():
    order = draw(Shuffled(numbered(50), seed=0), 150)
    epochs = [order[:50], order[50:100], order[100:]]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert draw(Shuffled(numbered(50), seed=0), 150) == order
    assert draw(Shuffled(numbered(50), seed=1), 150) != order


def test_mixture_draws_at_its_rates_whatever_the_order_of_names():
    a, b = Shuffled(numbered(7), 1), Shuffled(numbered(5, 100), 2)
    drawn = draw(Mixture({"b": b, "a": a}, {"b": 1.0, "a": 3.0}, seed=3), 8000)
    assert drawn == draw(make("mixture"), 8000)
    assert abs(np.mean([number < 100 for number in drawn]) - 0.75) < 0.02


def test_rates_are_proportional_to_the_capped_sizes():
    rates = mixing_rates({"small": 100, "large": 2**20, "huge": 10**9})
    whole = 100 + 2**19 + 2**19
    assert rates == pytest.approx(
        {"small": 100 / whole, "large": 2**19 / whole, "huge": 2**19 / whole}
    )
    drawn = Counter(
        draw(
            Mixture(
                {"a": Shuffled(numbered(1), 0), "b": Shuffled(numbered(1, 9), 0)},
                mixing_rates({"a": 30, "b": 10**6}, maximum=10),
                0,
            ),
            2000,
        )
    )
    assert abs(drawn[0] - 1000) < 100


def test_mistakes_are_one_clear_line():
    with pytest.raises(SpotError, match="one rate for each task.*mismatch in b"):
        Mixture({"a": make("shuffled")}, {"a": 1.0, "b": 1.0}, 0)
    with pytest.raises(SpotError, match="rates that are not negative"):
        Mixture({"a": make("shuffled")}, {"a": 0.0}, 0)
    with pytest.raises(SpotError, match="tasks with examples"):
        mixing_rates({"a": 0})
    with pytest.raises(SpotError, match="mixture has changed"):
        make("mixture").restore({"draw": 0, "sources": {"a": {}, "c": {}}})
    with pytest.raises(SpotError, match="data has changed"):
        make("shuffled").restore({"epoch": 0, "index": 8})
    with pytest.raises(SpotError, match="endless stream of t, found its end after 7"):
        draw(Stream(lambda: iter(numbered(7)), name="t"), 8)
