import threading

import pytest

from spot_jax.data.batches import Batches, BatchShape
from spot_jax.data.examples import Examples
from spot_jax.data.prefetch import Prefetched
from spot_jax.data.sources import Shuffled
from spot_jax.errors import SpotError

PAIRS = [([5 + i] * (1 + i % 7), [9, 1]) for i in range(23)]


def batches():
    shape = BatchShape(3, 5, 2, pack=True, packed_inputs_length=9)
    return Batches(Shuffled(Examples.from_lists(PAIRS), 1), shape)


def same(batch, other):
    return all((batch[name] == other[name]).all() for name in other)


def test_what_is_made_ahead_is_what_comes_and_no_place_runs_ahead():
    before = set(threading.enumerate())
    ahead, expected = Prefetched(batches(), ahead=3), batches()
    for _ in range(7):
        assert same(next(ahead), next(expected))
        assert ahead.state() == expected.state()
        counts = [(x.examples, x.truncated_inputs, x.truncated_targets) for x in (ahead, expected)]
        assert counts[0] == counts[1]
    place = ahead.state()
    later = [next(ahead) for _ in range(4)]
    ahead.restore(place)
    assert all(same(next(ahead), batch) for batch in later)
    ahead.close()
    for _ in range(4):
        next(expected)
    assert same(next(ahead), next(expected))
    ahead.close()
    begun = set(threading.enumerate()) - before
    assert "batches" not in [thread.name for thread in begun]


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for():
    class Broken(Batches):
        def __next__(self):
            if self.examples > 20:
                raise SpotError("no more")
            return super().__next__()

    plain = batches()
    ahead = Prefetched(Broken(plain.source, plain.shape))
    with pytest.raises(SpotError, match="no more"):
        for _ in range(20):
            next(ahead)
    assert ahead.examples > 20
