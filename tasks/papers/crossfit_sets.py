"""The 120 few-shot tasks of Intrinsic Prompt Tuning: names, metrics, splits and their files.

They are CrossFit's (Ye et al. 2021), each in five samples. IPT trains on sample 100 and takes
another one for the same task with other data (Qin et al. 2021). The files are those that CrossFit's
own script writes, its `data` directory under the name `crossfit`:

    $SPOT_DATA_DIR/crossfit/TASK/TASK_K_SAMPLE_{train,dev,test}.tsv

K is 16 where that many examples of each label were drawn, 32 where it is the number of all. A line
is the input, a tab, and the answer; further answers, each after a tab, count as right too. Nothing
here imports seqio or TensorFlow.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path

from etils import epath

from spot_jax.errors import SpotError
from tasks.papers.data_files import data_directory, lines

DIRECTORY = "crossfit"
STEMS = {"train": "train", "validation": "dev", "test": "test"}
FIRST = 100
"""The sample that IPT trains on: `crossfit_TASK`; the others are `crossfit_TASK_sSAMPLE`."""


@dataclasses.dataclass(frozen=True)
class FewShotTask:
    """One of the 120 tasks.

    Attributes:
        title: CrossFit's name, such as "glue-cola".
        metric: CrossFit's name of its metric.
        category: category in CrossFit's ontology.
        k: number of examples drawn for training, and as many for validation.
        per_label: whether k examples of each label are drawn.
    """

    title: str
    metric: str
    category: str
    k: int
    per_label: bool

    @property
    def name(self) -> str:
        """The title as seqio allows it, with underscores only."""
        return "crossfit_" + self.title.replace("-", "_")

    def sampled(self, sample: int) -> str:
        """Return the name of the task on one of the samples."""
        return self.name if sample == FIRST else f"{self.name}_s{sample}"


@dataclasses.dataclass(frozen=True)
class Gym:
    """All tasks, the samples' seeds, and IPT's splits into training and test tasks."""

    tasks: Mapping[str, FewShotTask]
    samples: tuple[int, ...]
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]


@functools.cache
def gym() -> Gym:
    """Return what `crossfit.json` says; tasks by their title."""
    described = json.loads((Path(__file__).parent / "crossfit.json").read_text())
    tasks = {title: FewShotTask(title, **fields) for title, fields in described["tasks"].items()}
    splits = {
        name: {part: tuple(titles) for part, titles in parts.items()}
        for name, parts in described["splits"].items()
    }
    return Gym(tasks, tuple(described["samples"]), splits)


def find(name: str) -> tuple[FewShotTask, int] | None:
    """Return the task and sample of a registered name; None where it is none of them."""
    for task in gym().tasks.values():
        for sample in gym().samples:
            if task.sampled(sample) == name:
                return task, sample
    return None


def path_of(task: FewShotTask, sample: int, split: str) -> epath.Path:
    """Return where a split of a sample lies; `SpotError` when SPOT_DATA_DIR is unset."""
    folder = data_directory() / DIRECTORY / task.title
    return folder / f"{task.title}_{task.k}_{sample}_{STEMS[split]}.tsv"


def read(task: FewShotTask, sample: int, split: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return (input, right answers) of each example.

    Raises:
        SpotError: an absent file, a line without a tab, an empty answer; with file and line.
    """
    path = path_of(task, sample, split)
    if not path.exists():
        raise SpotError(
            f"expected {path}, found no such file; build the data with CrossFit's "
            f"tasks/_build_gym.py and put its data directory there as {DIRECTORY}/"
        )
    rows = []
    for number, line in lines(path):
        text, *answers = line.split("\t")
        if not answers:
            raise SpotError(
                f"{path}:{number}: expected an input and an answer parted by a tab, found no tab"
            )
        if not answers[0].strip():
            raise SpotError(f"{path}:{number}: expected an answer, found an empty target")
        rows.append((text, tuple(answer for answer in answers if answer.strip())))
    if not rows:
        raise SpotError(f"expected examples in {path}, found none; build the data again")
    return rows
