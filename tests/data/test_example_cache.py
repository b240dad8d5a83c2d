"""Examples in the cache are read once, and held no longer than asked for."""

import pytest

from spot_jax.data import example_cache as module
from spot_jax.data.example_cache import cached, examples_cached
from spot_jax.data.examples import Examples


@pytest.fixture
def read():
    """Makes readers of ten tokens, and counts their calls."""
    calls = []

    def reader(name):
        def make():
            calls.append(name)
            return Examples.from_lists([([1] * 8, [2, 3])])

        return cached(name, make)

    reader.calls = calls
    return reader


def test_within_the_block_and_only_there_examples_are_read_once(read):
    read("a"), read("a")
    with examples_cached():
        first = read("a")
        with examples_cached():
            assert read("a") is first
        assert read("a") is first
        read("b")
    read("a")
    assert read.calls == ["a", "a", "a", "b", "a"]


def test_what_is_too_much_to_hold_is_not_cached_and_the_last_used_stay(read, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 20)
    with examples_cached():
        assert cached("none", lambda: None) is None
        for name in ("a", "b", "a", "c"):
            read(name)
        assert read.calls == ["a", "b", "c"]
        # "b" had to go, "a" was used after it.
        read("a"), read("c"), read("b")
    assert read.calls == ["a", "b", "c", "b"]
