"""What inference must know about a run, in its directory as setup.json; read without TensorFlow."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import as_path, read_versioned, write_object
from spot_jax.files.records import from_plain
from spot_jax.methods.prompt_use import PromptUse

FORMAT = 1
# A backbone or text may be moved, and its new place written here by hand.
PLACES = ("backbone", "text_directory")


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """Facts about a task that need no reading of its data.

    Attributes:
        name: name of the task.
        labels: the task's verbalizers; empty where it has none.
        template: text with the task's fields in braces (`spot_jax.data.fields`); None if unknown.
        keeps_eos: whether its text keeps the end of sequence where it is cut.
    """

    name: str
    labels: tuple[str, ...] = ()
    template: str | None = None
    keeps_eos: bool = False

    def use(self, lengths: Mapping[str, int]) -> PromptUse:
        """Return what a prompt file says of its use on this task."""
        return PromptUse(
            labels=self.labels,
            template=self.template,
            keeps_eos=self.keeps_eos,
            lengths=dict(lengths),
            decoding="rank" if self.labels else "greedy",
        )


@dataclasses.dataclass(frozen=True)
class RunSetup:
    """What a run was made of, as far as its prompts' use needs it.

    Attributes:
        backbone: absolute path or URL of the stored backbone; None for random weights. A run that
            tunes the weights keeps them in its directory.
        dtype: type of the activations.
        parameter_dtype: type of the weights in memory; None as stored.
        method: name of the method.
        prompt_length: virtual tokens of an input; 0 for none.
        tasks: facts about each prompt's task.
        lengths: tokens of text of inputs and targets.
        batch_size: rows of an evaluation.
        metric: metric that the best checkpoint is chosen by; None for the mean.
        modules: modules that register the tasks.
        text_directory: directory of plain text, for pre-training tasks.
        tunes_backbone: whether the run stores a tuned T5, not prompts.
        tables: facts of each file of rows that the run was trained on (`TableTask.facts`), by name.
    """

    backbone: str | None
    dtype: str
    parameter_dtype: str | None
    method: str
    prompt_length: int
    tasks: tuple[TaskFacts, ...]
    lengths: dict[str, int]
    batch_size: int
    metric: str | None = None
    modules: tuple[str, ...] = ()
    text_directory: str | None = None
    tunes_backbone: bool = False
    tables: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def save(self, directory: epath.Path) -> None:
        """Write setup.json."""
        fields = {"format": FORMAT, **dataclasses.asdict(self)}
        if not self.tables:
            del fields["tables"]  # as runs without such files have always been written
        write_object(directory / "setup.json", fields, PLACES)


def read_setup(run_dir: str | os.PathLike[str]) -> RunSetup:
    """Return what `train` wrote; `SpotError` where there is no run, or it cannot be read."""
    directory = as_path(run_dir)
    path = directory / "setup.json"
    if not directory.is_dir():
        raise SpotError(f"no run directory at {directory}; give the MODEL_DIR of a `spot train`")
    remedy = "start its `spot train` again, which writes it anew"
    setup = read_versioned(
        path, FORMAT, lambda f: from_plain(RunSetup, f, "the run"), remedy, PLACES
    )
    if setup is None:
        raise SpotError(
            f"{directory} holds no run (no setup.json in it); give the MODEL_DIR of a `spot train`"
        )
    return setup


def check_tables(directory: epath.Path, names: Sequence[str]) -> None:
    """Raise `SpotError` when a file of rows is not the one that the run here began with."""
    if not (directory / "setup.json").exists():
        return
    from spot_jax.data.sources import JOIN
    from spot_jax.data.table import check_unchanged
    from spot_jax.data.templates import base_of

    parts = {*names, *(part for name in names for part in name.split(JOIN))}
    for name, facts in read_setup(directory).tables.items():
        plain = base_of(name) or name
        if plain in parts:
            check_unchanged(plain, facts)


def absolute(path: str | os.PathLike[str] | None) -> str | None:
    """Return an absolute path; URLs of buckets stay as they are."""
    if path is None or "://" in os.fspath(path):
        return None if path is None else os.fspath(path)
    return str(as_path(path).absolute())


def task_facts(names: Sequence[str]) -> tuple[TaskFacts, ...]:
    """Return labels and templates of tasks by name, from the registries."""
    from spot_jax.data import loading

    return tuple(
        TaskFacts(
            name,
            tuple(loading.labels_of(name) or ()),
            loading.template_of(name),
            loading.keeps_eos(name),
        )
        for name in names
    )
