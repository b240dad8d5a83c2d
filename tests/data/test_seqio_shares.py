"""Imports TensorFlow. Hosts are threads here, and wait for one another as processes do."""

import threading
from pathlib import Path

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")

from spot_jax.data.batches import Batches, BatchShape  # noqa: E402
from spot_jax.data.seqio_tasks import training_source  # noqa: E402
from spot_jax.data.shared_examples import Hosts  # noqa: E402
from spot_jax.data.virtual_tokens import VirtualTokens  # noqa: E402
from spot_jax.errors import SpotError  # noqa: E402
from spot_jax.t5.vocabulary import Vocabulary  # noqa: E402
from tasks import bundled_tasks  # noqa: E402
from tasks.t5_features import OUTPUT_FEATURES  # noqa: E402

HOSTS, ROWS = 4, 8
SHAPE = BatchShape(ROWS, 12, 3, pack=True, packed_inputs_length=40, packed_targets_length=9)
# More than the sixteen that are read in turn; some end before others, and one has no row.
FILES = [37, 5, 16, 0, 33, 21, 64, 1, *range(20, 32)]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(Path(bundled_tasks.__file__).parent / "mini_spiece.model")


def as_pair(row):
    words = tf.strings.split(row["text"], "\t")
    return {"inputs": words[0], "targets": words[1]}


def register(name, directory, *, steps=(), after_trim=False, files=FILES):
    """A task over lines in several files, "some words<tab>a word"."""
    draw = np.random.default_rng(0)
    for i, count in enumerate(files):
        lines = [
            f"{' '.join(draw.choice(['a', 'good', 'bad', 'film'], draw.integers(1, 20)))}\t{i} {n}"
            for n in range(count)
        ]
        (directory / f"part-{i:02}.txt").write_text("".join(f"{line}\n" for line in lines))
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    ends = seqio.preprocessors
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource(
            {"train": str(directory / "part-*.txt")}, num_input_examples={"train": sum(files)}
        ),
        preprocessors=[
            lambda dataset: dataset.map(lambda line: {"text": line}),
            lambda dataset: dataset.map(as_pair),
            *steps,
            ends.tokenize,
            ends.append_eos_after_trim if after_trim else ends.append_eos,
        ],
        output_features=OUTPUT_FEATURES,
    )
    return name


def on_hosts(do, count=HOSTS):
    """What `do` returns on each of several hosts."""
    barrier, results = threading.Barrier(count, timeout=60), [None] * count

    def run(index):
        try:
            results[index] = do(index, lambda words: barrier.wait())
        except BaseException as error:
            results[index] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def batches_of(name, vocabulary, hosts=None, rows=None):
    source = training_source(name, vocabulary, 3, hosts=hosts)
    return Batches(source, SHAPE, write=VirtualTokens(vocabulary.size, 2), host_rows=rows)


def shared(name, vocabulary, directory, count=HOSTS, number=20):
    def do(index, wait):
        part = ROWS // count
        hosts = Hosts(index, count, directory, wait)
        rows = slice(index * part, (index + 1) * part)
        batches = batches_of(name, vocabulary, hosts, rows)
        return [next(batches) for _ in range(number)], batches.state()

    results = on_hosts(do, count)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return results


def check_same(name, vocabulary, results):
    alone = batches_of(name, vocabulary)
    for number in range(len(results[0][0])):
        expected = next(alone)
        for feature in expected:
            parts = [batches[number][feature] for batches, _ in results]
            np.testing.assert_array_equal(np.concatenate(parts), expected[feature])
    assert all(state == alone.state() for _, state in results)


@pytest.mark.slow
def test_batches_of_shares_by_file_are_those_of_one_process(vocabulary, tmp_path):
    (tmp_path / "data").mkdir()
    name = register("in_files", tmp_path / "data")
    check_same(name, vocabulary, shared(name, vocabulary, tmp_path / "tokens"))
    # By file: each host has its own alone.
    (directory,) = (tmp_path / "tokens").iterdir()
    sizes = [len(np.load(directory / f"share-{i}.lengths.npy")[0]) for i in range(HOSTS)]
    assert sizes == [sum(FILES[i::HOSTS]) for i in range(HOSTS)]
    # A later start, of two hosts, reads none of the text.
    for path in (tmp_path / "data").iterdir():
        path.write_text("")
    results = shared(name, vocabulary, tmp_path / "tokens", count=2)
    register("in_files", tmp_path / "data")
    check_same(name, vocabulary, results)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["filtered", "one_file"])
def test_batches_of_shares_by_example_are_those_of_one_process(kind, vocabulary, tmp_path):
    (tmp_path / "data").mkdir()

    def without_sevens(dataset):
        return dataset.filter(lambda row: not tf.strings.regex_full_match(row["targets"], ".*7"))

    if kind == "filtered":
        steps, files = [without_sevens], [30, 20, 17, 40]
    else:
        steps, files = [], [50]
    name = register(kind, tmp_path / "data", steps=steps, files=files, after_trim=True)
    check_same(name, vocabulary, shared(name, vocabulary, tmp_path / "tokens"))


@pytest.mark.slow
def test_two_hosts_and_a_share_that_is_damaged(vocabulary, tmp_path):
    (tmp_path / "data").mkdir()
    name = register("in_files", tmp_path / "data", files=[40, 21], after_trim=True)
    check_same(name, vocabulary, shared(name, vocabulary, tmp_path / "tokens", count=2))
    (directory,) = (tmp_path / "tokens").iterdir()
    path = directory / "share-1.inputs"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SpotError, match="cut short; remove that directory, and the same command"):
        shared(name, vocabulary, tmp_path / "tokens", count=1)
