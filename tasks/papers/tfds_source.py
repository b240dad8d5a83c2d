"""TFDS's data as a seqio source that says in one line what is missing, and never downloads."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from spot_jax.errors import SpotError
from tasks.papers.data_set import DataSet

Keep = Callable[[Mapping[str, tf.Tensor]], tf.Tensor]
# What TFDS writes last into a data set's directory: without it the set is not whole.
LAST_FILE = "dataset_info.json"


class TfdsSource(seqio.TfdsDataSource):
    """A data set of the catalogue in TFDS's directories.

    The data is looked for when it is first read: in the directory that
    `seqio.set_tfds_data_dir_override` names, else in TFDS's own, which are `TFDS_DATA_DIR` (a path
    or a bucket, `gs://...`) or `~/tensorflow_datasets`. Nothing is downloaded or prepared.
    """

    def __init__(
        self, item: DataSet, keep: Mapping[str, Keep] | None = None, read: Sequence[str] = ()
    ):
        """Name the data set; nothing is looked for yet.

        Args:
            item: data set of the catalogue.
            keep: predicate, by split, of the rows that are examples; all by default.
            read: names of the fields to decode; all by default.
        """
        splits = {split: item.splits.get(split, split) for split in item.labelled_splits}
        super().__init__(item.location, splits=splits, read_only=True)
        self.item = item
        self._keep = dict(keep or {})
        self._decoders = tfds.decode.PartialDecoding(dict.fromkeys(read, True)) if read else None
        self._found: dict[str | None, seqio.LazyTfdsLoader] = {}
        self._names = splits

    @property
    def tfds_dataset(self) -> seqio.LazyTfdsLoader:
        """The loader of the version that is on disk; `SpotError` when none of use is."""
        # Asked of a new loader each time, since a loader keeps the first override it has seen.
        override = seqio.LazyTfdsLoader(self.item.location).data_dir
        if override not in self._found:
            location, directory = locate(self.item, directories(override))
            self._found[override] = seqio.LazyTfdsLoader(
                location,
                data_dir=directory,
                split_map=self._names,
                decoders=self._decoders,
                read_only=True,
            )
        return self._found[override]

    def get_dataset(self, split: str | None = None, *args: Any, **options: Any) -> tf.data.Dataset:
        """Return the rows of a split as seqio's source does, those to keep."""
        split = split or "train"
        self._check_split(split)
        rows = super().get_dataset(split, *args, **options)
        return rows.filter(self._keep[split]) if split in self._keep else rows

    def num_input_examples(self, split: str) -> int:
        """Return the number of rows: those on disk, or the catalogue's where there is no data."""
        try:
            loader = self.tfds_dataset
        except SpotError:
            return self.item.sizes[split]
        self._check_split(split)
        # TFDS has no number of the largest sets; seqio makes it infinite.
        rows = loader.size(split)
        return int(rows) if math.isfinite(rows) else self.item.sizes[split]

    def _check_split(self, split: str) -> None:
        loader, theirs = self.tfds_dataset, self._names[split]
        if theirs not in loader.info.splits:
            raise SpotError(
                f"expected a split {theirs!r} of {loader.name} in {loader.data_dir}, found "
                f"{', '.join(sorted(loader.info.splits))}; prepare the set again with "
                f"`{command(self.item, loader.data_dir)} --overwrite`"
            )


def directories(override: str | None = None) -> list[epath.Path]:
    """Return where TFDS looks for data: the override alone, or its own directories."""
    from tensorflow_datasets.core.utils import file_utils

    return [epath.Path(directory) for directory in file_utils.list_data_dirs(override)]


def locate(item: DataSet, places: Sequence[epath.Path]) -> tuple[str, str]:
    """Return a set's `name/config:version` and the directory that holds it.

    The catalogue's version is taken where it is, else the first of `also`. Raises `SpotError` when
    no directory has a version of use; it says what there is instead.
    """
    name, _, pinned = item.location.partition(":")
    for version in (pinned, *item.also):
        for place in places:
            if (place / name / version / LAST_FILE).exists():
                return f"{name}:{version}", str(place)
    raise _missing(item, places)


def command(item: DataSet, directory: object) -> str:
    """Return the command line that prepares a set in a directory."""
    return f"tfds build {item.location} --data_dir={directory}"


def problems(item: DataSet) -> list[str]:
    """Return a line for each thing about a set on this machine that is not as catalogued."""
    source = TfdsSource(item)
    try:
        loader = source.tfds_dataset
    except SpotError as error:
        return [str(error)]
    lines = []
    for split in item.labelled_splits:
        try:
            rows = source.num_input_examples(split)
        except SpotError as error:
            lines.append(str(error))
            continue
        if rows != item.sizes[split]:
            lines.append(
                f"expected {item.sizes[split]:,} rows in split {split} of {loader.name}, found "
                f"{rows:,} in {loader.data_dir}"
            )
    return lines


def _missing(item: DataSet, places: Sequence[epath.Path]) -> SpotError:
    name = item.location.partition(":")[0]
    others = {str(place): versions for place in places if (versions := _versions(place / name))}
    content = "nothing"
    if others:
        content = " and ".join(
            f"version{'s' if len(versions) > 1 else ''} {', '.join(versions)} in {place}"
            for place, versions in others.items()
        )
    by_hand = ""
    if item.manual:
        catalogue = f"https://www.tensorflow.org/datasets/catalog/{name.partition('/')[0]}"
        by_hand = f" once you have downloaded its files by hand ({catalogue})"
    return SpotError(
        f"expected the data of {item.location} in {', '.join(map(str, places))}, found {content}; "
        f"run `{command(item, places[0])}`{by_hand}, or set TFDS_DATA_DIR to the directory or "
        "bucket (gs://...) that has it"
    )


def _versions(directory: epath.Path) -> list[str]:
    """Return the versions that are whole in a set's directory, oldest first."""
    if not directory.exists():
        return []
    names = [path.name for path in directory.iterdir() if (path / LAST_FILE).exists()]
    return sorted(names, key=_number)


@functools.cache
def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in version.split("."))
