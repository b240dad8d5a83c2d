"""Small data sets in TFDS's own form on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tfds_cases import without_bucket, write_tfds


@pytest.fixture(scope="session")
def no_bucket():
    """Keep TFDS from asking its bucket about each set that a test writes."""
    with without_bucket():
        yield


@pytest.fixture(scope="session")
def tfds_data(tmp_path_factory, no_bucket) -> Callable[[str], Path]:
    """Write a task's set, if it is not there, from `tasks.papers.samples`; return the directory.

    All splits of the set are written that any task reads.
    """
    from tasks.papers import samples
    from tasks.papers.catalogue import CATALOGUE, find

    directory = tmp_path_factory.mktemp("tfds")
    written = set()

    def prepare(name: str) -> Path:
        location = find(name).location
        if location not in written:
            users = [item for item in CATALOGUE if item.location == location]
            splits = [item.splits.get(split, split) for item in users for split in item.sizes]
            write_tfds(directory, location, dict.fromkeys(splits), samples.rows(name))
            written.add(location)
        return directory

    return prepare


@pytest.fixture
def tfds_here():
    """Make a directory the one where seqio looks for TFDS's data, for one test."""
    import seqio

    yield seqio.set_tfds_data_dir_override
    seqio.set_tfds_data_dir_override(None)


@pytest.fixture
def write(no_bucket):
    """The function that writes a set as TFDS does."""
    return write_tfds


@pytest.fixture(scope="session")
def vocabulary():
    """T5's vocabulary, which ships."""
    import tasks
    from spot_jax.t5.vocabulary import load_vocabulary

    return load_vocabulary(Path(tasks.__file__).parent / "t5_spiece.model")
