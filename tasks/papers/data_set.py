"""The record of one data set of the papers."""

import dataclasses
from collections.abc import Mapping

SPLITS = ("train", "validation", "test")


def sizes(
    train: int | None, validation: int | None = None, test: int | None = None
) -> dict[str, int]:
    """Return the rows of each split; a split that the source lacks (None) is left out."""
    pairs = zip(SPLITS, (train, validation, test), strict=True)
    return {split: size for split, size in pairs if size is not None}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set of the papers and the task that reads it.

    Attributes:
        name: name of the task.
        title: name as the papers write it.
        source: kind of source: "tfds", or "files" for a directory of files.
        location: TFDS's `name/config:version`, or the name of the directory.
        sizes: rows of each split in the source, with those of `unlabelled`.
        families: the mixtures that it is part of; `all` is SPoT's of C4 and 55 sets.
        metrics: names of the values that are measured; their mean chooses checkpoints.
        labels: label words in the source's order; empty where the target is free text.
        roles: `source` and `target` in SPoT's transfer study, `shift` in Lester's domain shift.
        splits: the source's own name of a split, where it is another.
        unlabelled: splits whose targets are kept back by their makers; the task leaves them out.
        several: whether an example may have several of the labels, or none.
        examples: number of training examples, where it is not that of the rows.
        manual: whether its makers' files must be downloaded by hand before TFDS prepares them.
        also: other versions on disk that are read as well, best first.
        papers: papers that use it: `spot`, `lester`, `ptuning`, `ipt`.
        note: remark for readers.
    """

    name: str
    title: str
    source: str
    location: str
    sizes: Mapping[str, int]
    families: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    labels: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    several: bool = False
    examples: int | None = None
    manual: bool = False
    also: tuple[str, ...] = ()
    papers: tuple[str, ...] = ("spot",)
    note: str = ""

    @property
    def training_examples(self) -> int | None:
        """The number of training examples, by which example-proportional mixing goes."""
        return self.sizes.get("train") if self.examples is None else self.examples

    @property
    def labelled_splits(self) -> tuple[str, ...]:
        """The splits that the task has, in the order train, validation, test."""
        return tuple(split for split in self.sizes if split not in self.unlabelled)
