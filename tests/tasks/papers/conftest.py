"""Small data sets in TFDS's own form on disk, with the features of TFDS's own builders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest


def _filled(feature: Any, value: Any) -> Any:
    """Return a value in the form of a feature; what is not given is empty, 0 or false."""
    import numpy as np
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Sequence):
        return [] if value is None else value
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _filled(part, (value or {}).get(key)) for key, part in feature.items()}
    if value is not None:
        return value
    if feature.np_dtype == np.bool_:
        return False
    return 0 if np.issubdtype(feature.np_dtype, np.number) else ""


def write_tfds(
    directory: Path,
    location: str,
    splits: Iterable[str],
    rows: Sequence[Mapping[str, Any]],
    version: str = "",
) -> None:
    """Write the same rows as every split of `name/config:version`, as TFDS prepares a set."""
    import tensorflow_datasets as tfds

    path, _, pinned = location.partition(":")
    name, _, config_name = path.partition("/")
    config = {"config": config_name} if config_name else {}
    number = tfds.core.Version(version or pinned)
    configs = [tfds.core.BuilderConfig(name=config_name, version=number)] if config_name else []
    real = tfds.builder_cls(name)(data_dir=directory, version=pinned, **config)

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """TFDS's set but for where its rows come from."""

        VERSION = number
        BUILDER_CONFIGS = configs

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, description="Sample rows.", features=real.info.features
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            for key, row in enumerate(rows):
                yield key, _filled(real.info.features, row)

    Small.name = real.name
    download = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
    Small(data_dir=directory, **config).download_and_prepare(download_config=download)


@pytest.fixture(scope="session")
def no_bucket():
    """Keep TFDS from asking its bucket about each set that a test writes."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    tfds.disable_progress_bar()
    before, gcs_utils._is_gcs_disabled = gcs_utils._is_gcs_disabled, True
    yield
    gcs_utils._is_gcs_disabled = before


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
