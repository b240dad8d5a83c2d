"""The tasks, and what all cells share."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from spot_jax.data.data_source import DataSource
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from tasks.bundled import reading

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("tasks.bundled_tasks",)
# The best of a task's labels by likelihood.
DECODING = "rank"
PER_ROW = 4
# The set on whose validation the settings of a method are chosen, for every set: neither the
# easiest nor the hardest, with more than two labels.
SETTINGS_FROM = "wordnet_supersense"


@dataclasses.dataclass(frozen=True)
class Task:
    """A bundled set as it is used here.

    Attributes:
        name: name of the set.
        inputs: number of pieces of text, end included, that longer texts are cut to. Few different
            lengths, so that tasks share compiled programs.
        targets: greatest number of pieces of a label.
        source: set that a prompt is carried from: of the same family where it has another.
        virtual_tokens: number of virtual tokens of prompt tuning: room for a row a label, but at
            most the 100 that the backbone was taught with.
    """

    name: str
    inputs: int
    targets: int
    source: str
    virtual_tokens: int = 20

    @property
    def examples(self) -> int:
        """Examples of a step where all weights are tuned; fewer where texts are long."""
        return max(8, min(32, 2048 // self.inputs))

    @property
    def task(self) -> str:
        """The registered task."""
        return f"bundled_{self.name}"

    @property
    def family(self) -> str:
        """The kind of task."""
        return reading.find(self.name).family

    @property
    def labels(self) -> tuple[str, ...]:
        """What is answered."""
        return reading.find(self.name).labels


TASKS = {
    task.name: task
    for task in (
        Task("banking77", 48, 12, "clinc150", 100),
        Task("clinc150", 32, 8, "banking77", 100),
        Task("sms_spam", 64, 4, "vader_tweets"),
        Task("sotu_party", 160, 8, "vader_movie"),
        Task("vader_movie", 64, 4, "vader_tweets"),
        Task("vader_tweets", 48, 12, "vader_movie"),
        Task("wordnet_hypernym", 32, 8, "wordnet_supersense"),
        Task("wordnet_supersense", 48, 12, "wordnet_hypernym"),
        Task("vader_amazon", 64, 4, "vader_movie"),
        Task("bible_paraphrase", 128, 8, "wordnet_hypernym"),
        Task("gap_coref", 208, 4, "wordnet_hypernym"),
    )
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all cells share.

    Attributes:
        directory: path of the study.
        backbone: path of the stored T5.
        seeds: seeds of every method that has chance in it.
        validation: greatest number of examples that checkpoints and settings are chosen on.
        test: greatest number of examples that are scored, the first ones.
        evaluation_rows: number of rows of a batch that is predicted.
        length: number of virtual tokens of the methods other than prompt tuning, and of what
            subspaces are found from.
        rates: learning rates that prompt tuning tries.
        steps: number of updates of prompt tuning, SPoT and in a subspace.
        prefix_steps: number of updates of the other methods on a frozen backbone.
        finding_steps: number of updates in which a subspace is found.
        y_steps: number of updates of label vectors.
    """

    directory: Path
    backbone: str = str(ROOT / "backbones" / "mini")
    seeds: tuple[int, ...] = (0, 1, 2)
    validation: int = 200
    test: int = 500
    evaluation_rows: int = 100
    length: int = 20
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    steps: int = 240
    prefix_steps: int = 80
    finding_steps: int = 150
    y_steps: int = 500
    init_by_task: bool | None = None

    @property
    def path(self) -> Path:
        """Absolute path of the study."""
        return Path(self.directory).resolve()

    def settings(self) -> dict[str, Any]:
        """Return what decides the study's numbers, as one level of JSON."""
        names = [f.name for f in dataclasses.fields(self)]
        left_out = ("directory", "backbone", "init_by_task", "evaluation_rows")
        plain = {name: getattr(self, name) for name in names if name not in left_out}
        return {"backbone": self.stored().description().fingerprint[:16], **plain}

    def stored(self, **options: Any) -> StoredBackbone:
        """Return the T5 in float32, without dropout unless something else is said."""
        return StoredBackbone(
            **{
                "path": self.backbone,
                "parameter_dtype": "float32",
                "dropout_rate": 0.0,
                **options,
            }
        )

    def data(self, task: Task, examples: int, room: int = 0) -> DataSource:
        """Return the task's training split, packed: about four examples in a row.

        Texts are half as long as the longest, on the mean, so four of them fill two such lengths.

        Args:
            task: task to read.
            examples: examples of a step, about.
            room: virtual tokens of an example.
        """
        packed = {"inputs": 2 * task.inputs + PER_ROW * room, "targets": 2 * task.targets}
        return dataclasses.replace(
            self.padded(task, max(examples // PER_ROW, 1)), pack=True, packed_lengths=packed
        )

    def padded(self, task: Task, examples: int) -> DataSource:
        """Return the task's training split, an example a row."""
        lengths = {"inputs": task.inputs, "targets": task.targets}
        return DataSource(task.task, lengths, batch_size=examples, modules=MODULES)

    def evaluation(self, task: Task, period: int) -> EvaluationPlan:
        """Return how checkpoints of a task are chosen."""
        return EvaluationPlan(
            period=period,
            examples=self.validation,
            batch_size=self.evaluation_rows,
            decoding=DECODING,
            metric="accuracy",
        )


@functools.cache
def texts(name: str, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return texts and labels of a split, as a T5 reads and writes them."""
    item = reading.find(name)
    pairs = [reading.written(item, row) for row in reading.rows(name, split)]
    return tuple(text for text, _ in pairs), tuple(label for _, label in pairs)
