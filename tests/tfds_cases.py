"""Data sets in TFDS's own form on disk, with the features of TFDS's own builders."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


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


@contextlib.contextmanager
def without_bucket() -> Iterator[None]:
    """Keep TFDS from asking its bucket, and from drawing bars, while the block runs."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    tfds.disable_progress_bar()
    before, gcs_utils._is_gcs_disabled = gcs_utils._is_gcs_disabled, True
    try:
        yield
    finally:
        gcs_utils._is_gcs_disabled = before
