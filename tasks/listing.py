"""What `spot tasks list` prints: every set that has tasks, from tables, without seqio."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from spot_jax.errors import SpotError
from spot_jax.files import aligned
from tasks.bundled.sets import SETS
from tasks.papers import fewglue_sets
from tasks.papers.catalogue import BY_NAME, CATALOGUE, PTUNING, with_role
from tasks.papers.crossfit_sets import gym
from tasks.papers.data_set import SPLITS
from tasks.papers.lama_sets import RELATIONS, name_of
from tasks.papers.proportions import mixtures

GROUPS = ("bundled", "papers", "fewglue", "crossfit", "lama")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A set that has tasks.

    Attributes:
        name: name of the task.
        group: one of `GROUPS`.
        families: names of the mixtures that it is part of, or its kind.
        sizes: number of rows of each split, as far as known without the data.
        metrics: names of the metrics that score it.
        roles: roles in a paper's study.
        source: place that the data come from.
    """

    name: str
    group: str
    families: tuple[str, ...]
    sizes: Mapping[str, int]
    metrics: tuple[str, ...]
    roles: tuple[str, ...]
    source: str


def entries() -> list[Entry]:
    """Return all sets: what ships, the papers', FewGLUE's, CrossFit's tasks, LAMA's relations."""
    return [*_bundled(), *_papers(), *_fewglue(), *_crossfit(), *_lama()]


def selected(family: str | None, role: str | None) -> list[Entry]:
    """Return the sets of a family or group, and with a role; `SpotError` when there are none."""
    every = entries()
    chosen = [
        entry
        for entry in every
        if family in (None, entry.group, *entry.families) and (role is None or role in entry.roles)
    ]
    if not chosen:
        families = sorted({*GROUPS, *(name for entry in every for name in entry.families)})
        roles = sorted({name for entry in every for name in entry.roles})
        raise SpotError(
            f"expected a family ({', '.join(families)}) and a role ({', '.join(roles)}) that some "
            f"set has, found family {family!r}, role {role!r}"
        )
    return chosen


def _bundled() -> Iterable[Entry]:
    for item in SETS.values():
        name = f"bundled_{item.name}"
        yield Entry(name, "bundled", (item.family,), item.sizes, item.metrics, (), "ships")


def _papers() -> Iterable[Entry]:
    for item in CATALOGUE:
        where = "$SPOT_DATA_DIR/" if item.source == "files" else ""
        yield Entry(
            item.name,
            "papers",
            item.families,
            {split: item.sizes[split] for split in item.labelled_splits},
            item.metrics,
            item.roles,
            where + item.location,
        )


def _fewglue() -> Iterable[Entry]:
    for name, (folder, _) in fewglue_sets.SETS.items():
        metrics = BY_NAME[f"super_glue_{name}"].metrics
        source = f"$SPOT_DATA_DIR/{fewglue_sets.DIRECTORY}/{folder}"
        yield Entry(
            f"{fewglue_sets.PREFIX}{name}{PTUNING}",
            "fewglue",
            ("fewglue",),
            {"train": 32, "validation": 32},
            metrics,
            (),
            source,
        )


def _crossfit() -> Iterable[Entry]:
    split = gym().splits["random"]
    for task in gym().tasks.values():
        # What is drawn for training is drawn again for validation; 16 a label are not counted here.
        sizes = {} if task.per_label else {"train": task.k, "validation": task.k}
        role = next(part for part, titles in split.items() if task.title in titles)
        source = f"$SPOT_DATA_DIR/crossfit/{task.title}"
        metrics = (task.metric,)
        yield Entry(
            task.name, "crossfit", (task.category,), sizes, metrics, (f"ipt_{role}",), source
        )


def _lama() -> Iterable[Entry]:
    for relation in RELATIONS:
        source = f"$SPOT_DATA_DIR/lama/**/{relation}"
        yield Entry(name_of(relation), "lama", ("lama",), {}, ("precision_at_1",), (), source)


def table(shown: Sequence[Entry]) -> str:
    """Return one aligned line a set under a line of headings."""
    head = ["name", "family", *SPLITS, "metrics", "role", "source"]
    rows = [
        [
            entry.name,
            ", ".join(entry.families) or "-",
            *(f"{entry.sizes[split]:,}" if split in entry.sizes else "-" for split in SPLITS),
            ", ".join(entry.metrics) or "loss",
            ", ".join(entry.roles) or "-",
            entry.source,
        ]
        for entry in shown
    ]
    return "\n".join(aligned([head, *rows], left=(0, 1, 5, 6, 7)))


def summary() -> str:
    """Return what there is besides the sets: counts, mixtures, variants of names."""
    mixed = ", ".join(f"{name} ({len(sizes)})" for name, sizes in mixtures().items())
    labelled = sum(name != "c4_prefix_lm" for name in mixtures()["spot_all"])
    parts = ", ".join(f"crossfit_{a}_{part}" for a, parts in gym().splits.items() for part in parts)
    return "\n".join(
        [
            f"{len(CATALOGUE)} sets of the papers: {len(with_role('source'))} sources and "
            f"{len(with_role('target'))} targets of SPoT's transfer study; spot_all mixes "
            f"{labelled} labelled sets and C4",
            f"{len(gym().tasks)} few-shot tasks of CrossFit, each in {len(gym().samples)} samples: "
            "NAME is sample 100, NAME_s13, NAME_s21, NAME_s42 and NAME_s87 are the others",
            f"{len(RELATIONS)} relations of LAMA; {len(SETS)} sets that ship, and of "
            "each NAME_16shot and, with other examples, NAME_16shot_s2",
            "NAME_no_prefix of a paper's set leaves the task's name out; NAME_ptuning of "
            "SuperGLUE's sets but ReCoRD is P-Tuning's pattern",
            f"mixtures: {mixed}; lama; bundled_all, bundled_FAMILY; {parts}",
        ]
    )
