import threading

import numpy as np
import pytest
from etils import epath

from spot_jax.data.examples import Example, Examples
from spot_jax.data.shared_examples import Hosts, Share, SharedExamples, dealt, shared_examples
from spot_jax.errors import SpotError
from spot_jax.files import read_object

HOSTS = 3


def whole(n=50, highest=9):
    draw = np.random.default_rng(0)
    pairs = [
        Example(*(np.append(draw.integers(2, highest, k), 1).astype(np.int32) for k in ks), True)
        for ks in draw.integers(0, 9, (n, 2))
    ]
    return Examples.from_lists(pairs, task="a task")


def read_together(directory, examples, count=HOSTS, most=1000):
    barrier, results = threading.Barrier(count, timeout=10), [None] * count

    def host(index):
        hosts = Hosts(index, count, epath.Path(directory), lambda words: barrier.wait())
        part = (examples[i] for i in range(index, len(examples), count))
        way = (
            lambda: Share(part, {}),
            lambda facts: dealt([each["count"] for each in facts]),
        )
        place = epath.Path(directory) / "split"
        results[index] = shared_examples(hosts, place, [way], "a task", most)

    threads = [threading.Thread(target=host, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("highest", [9, 100_000])
def test_shares_are_read_as_the_whole_is(highest, tmp_path):
    examples = whole(highest=highest)
    results = read_together(tmp_path, examples)
    numbers = np.random.default_rng(1).permutation(len(examples))[:30]
    for result in results:
        assert isinstance(result, SharedExamples) and len(result) == len(examples)
        for lengths, expected in zip(result.lengths, examples.lengths, strict=True):
            np.testing.assert_array_equal(lengths, expected)
        for side in ("inputs", "targets"):
            for length in (1, 4, 20):
                actual = result.gather(side, numbers, length)
                for a, b in zip(actual, examples.gather(side, numbers, length), strict=True):
                    np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(result[7][0], examples[7][0])
        with pytest.raises(SpotError, match="expected token ids below 3"):
            result.check_ids(3, "a task")
    # What a host holds is its share and no more.
    size = read_object(tmp_path / "split" / "share-1.json", "")["count"]
    assert size == len(range(1, len(examples), HOSTS))
    # Another number of hosts finds it again, whatever the data is now.
    again = read_together(tmp_path, whole(n=3), count=2)
    np.testing.assert_array_equal(
        again[0].gather("inputs", numbers, 9)[0], examples.gather("inputs", numbers, 9)[0]
    )
    (tmp_path / "split" / "share-0.json").unlink()
    with pytest.raises(SpotError, match="a share of its examples is gone; remove that directory"):
        read_alone(tmp_path)


def read_alone(directory):
    hosts = Hosts(0, 1, epath.Path(directory), lambda words: None)
    way = (lambda: pytest.fail("read anew"), lambda facts: dealt([x["count"] for x in facts]))
    shared_examples(hosts, epath.Path(directory) / "split", [way], "a task", 1000)


def test_a_split_that_is_too_large_is_not_held(tmp_path):
    assert read_together(tmp_path, whole(), most=20) == [None] * HOSTS
