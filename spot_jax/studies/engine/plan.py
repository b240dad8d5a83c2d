"""What every plan of a study says: backbone, prompts, splits, how a stage tunes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from spot_jax.data.data_source import LONGEST, ROWS
from spot_jax.errors import (
    COUNT,
    SEED,
    SpotError,
    check_choice,
    check_fields,
    check_range,
    short,
    whole,
)
from spot_jax.evaluation.scored_task import DECODINGS
from spot_jax.files import plain_fields, resolved
from spot_jax.methods.base import TOKENS
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import Adafactor, Optimizer
from spot_jax.training.sharding import MeshShape

SIDES = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class Stage:
    """How the prompts of one stage of a study are tuned.

    Attributes:
        steps: number of updates; 262,144 for sources and 100,000 for targets in SPoT's section 3.
        optimizer: optimizer of each prompt; constant 0.3 in the paper.
        init: initialisation of prompts that begin from no other; None for the method's own, or
            "sampled_vocabulary" where the plan names no method. See `PromptTuning.init`.
        batch_size: number of rows in a step, for each prompt.
        period: number of steps between evaluations, of which the best stays; 500 in the paper.
        validation_examples: greatest number of validation examples of its evaluations; None for
            the plan's.
    """

    steps: int
    optimizer: Optimizer = Adafactor()
    init: str | None = None
    batch_size: int = 32
    period: int = 500
    validation_examples: int | None = None

    def check(self, name: str) -> None:
        """Raise `SpotError` for a stage that tunes nothing."""
        if self.steps < 1 or self.batch_size < 1:
            raise SpotError(
                f"{name} has {self.steps} steps of {self.batch_size} rows; give 1 or more of each"
            )
        check_range(f"{name}.steps", self.steps, COUNT)
        check_range(f"{name}.batch_size", self.batch_size, ROWS)
        check_range(f"{name}.period", self.period, whole(0, 10**9))
        check_range(f"{name}.validation_examples", self.validation_examples, COUNT)

    def settings(self, name: str) -> dict[str, Any]:
        """Return the stage as one level of JSON: `target.steps`."""
        kind, fields = type(self.optimizer).__name__, plain_fields(self)
        if self.validation_examples is None:
            del fields["validation_examples"]  # studies of before it was there are the same
        return {
            **{f"{name}.{key}": value for key, value in fields.items()},
            f"{name}.optimizer": {"type": kind, **plain_fields(self.optimizer)},
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings that every study has.

    Attributes:
        directory: path of the study.
        backbone: T5 of the study.
        lengths: {"inputs": ..., "targets": ...} of every task, in tokens of text.
        seeds: seeds of every task's prompts.
        prompt_length: number of virtual tokens P; 100 in the papers.
        metric: name of the score of a task; None for the mean of its metrics.
        decoding: way to predict; see `EvaluationPlan`.
        validation_split: name of the split that chooses checkpoints.
        test_split: name of the split that is reported.
        validation_examples: greatest number of validation examples; None for all.
        test_examples: greatest number of test examples; None for all.
        evaluation_batch_size: number of rows; None for the training batch's.
        checkpoint_period: number of steps between saves; a killed job loses one period at most.
        prompts_at_once: greatest number of prompts that are tuned in one program.
        init_by_task: whether prompts of one seed begin apart, by their tasks' names; None for as
            the study began, and for a new one as its kind has it.
        modules: names of Python modules that register tasks.
        text_directory: path of plain text for `span_corruption` and `prefix_lm`.
        use_cached_tasks: whether to read seqio's offline cache.
        mesh: arrangement of the devices; one device by default.
        title: head of the report.
    """

    directory: str
    backbone: StoredBackbone
    lengths: Mapping[str, int]
    seeds: Sequence[int] = (0, 1, 2)
    prompt_length: int = 100
    metric: str | None = None
    decoding: str = "auto"
    validation_split: str = "validation"
    test_split: str = "test"
    validation_examples: int | None = None
    test_examples: int | None = None
    evaluation_batch_size: int | None = None
    checkpoint_period: int = 500
    prompts_at_once: int = 48
    init_by_task: bool | None = None
    modules: Sequence[str] = ()
    text_directory: str | None = None
    use_cached_tasks: bool = False
    mesh: MeshShape | None = None
    title: str = "A study"

    def __post_init__(self) -> None:
        """Raise `SpotError` for what no study can be made of."""
        if not self.directory.strip() or "\0" in self.directory:
            raise SpotError(
                f"STUDY_DIR is {short(self.directory)}; give the directory of the study, such as "
                "'runs/study'"
            )
        if self.backbone.dtype is None:
            # Numbers that are compared are of one type, whichever machine a job is on.
            backbone = dataclasses.replace(self.backbone, dtype="float32")
            object.__setattr__(self, "backbone", backbone)
        check_list("seeds", self.seeds)
        check_range("seeds", self.seeds, SEED)
        for side, length in self.lengths.items():  # a task may have what is not here
            check_choice("a side of lengths", side, SIDES)
            check_range(f"lengths[{side!r}]", length, whole(1, LONGEST))
        check_fields(
            self,
            prompt_length=TOKENS,
            validation_examples=COUNT,
            test_examples=COUNT,
            evaluation_batch_size=ROWS,
            checkpoint_period=COUNT,
        )
        if self.prompts_at_once < 1:
            raise SpotError(f"prompts_at_once is 1 or more, found {self.prompts_at_once}")
        check_decoding("decoding", self.decoding)

    @property
    def path(self) -> epath.Path:
        """Absolute path of the study."""
        return resolved(self.directory)

    def settings(self) -> dict[str, Any]:
        """Return what decides the study's numbers, as one level of JSON."""
        names = [
            *("metric", "validation_split", "test_split", "validation_examples"),
            *("test_examples", "evaluation_batch_size", "prompt_length"),
        ]
        return {
            "backbone": self.backbone.description().fingerprint[:16],
            "dtype": self.backbone.dtype,
            "parameter_dtype": self.backbone.weights_dtype(),
            "dropout_rate": self.backbone.dropout_rate,
            **{name: getattr(self, name) for name in names},
        }

    def evaluation(
        self, stage: Stage, split: str | None = None, decoding: str = ""
    ) -> EvaluationPlan:
        """Return how checkpoints are chosen.

        Args:
            stage: stage that is tuned, whose period and number of examples count.
            split: name of the split; None for the plan's.
            decoding: decoding of the task; "" for the plan's.
        """
        return EvaluationPlan(
            period=stage.period,
            split=split or self.validation_split,
            examples=stage.validation_examples or self.validation_examples,
            batch_size=self.evaluation_batch_size,
            decoding=decoding or self.decoding,
            metric=self.metric,
        )

    @property
    def reported_split(self) -> str:
        """Split that is reported, in words."""
        if self.test_split != "auto":
            return self.test_split
        return f"test, or half of {self.validation_split} where test has no answers"

    def notes(self) -> list[str]:
        """Return what a reader must know of the splits, a sentence each."""

        def limited(split: str, examples: int | None) -> str:
            return split if examples is None else f"the first {examples} examples of {split}"

        choosing = limited(self.validation_split, self.validation_examples)
        reporting = limited(self.reported_split, self.test_examples)
        return [f"Checkpoints and prompts are chosen on {choosing} and reported on {reporting}."]


def check_list(what: str, values: Sequence[Any]) -> None:
    """Raise `SpotError` unless `values` is a list of at least one thing, each once."""
    if isinstance(values, str) or not len(values):
        raise SpotError(f"a study needs a list of {what}, found {values!r}; give at least one")
    check_once(what, values)


def check_once(what: str, values: Sequence[Any]) -> None:
    """Raise `SpotError` if something stands twice in a list."""
    twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
    if twice:
        raise SpotError(f"{what} has {twice[0]!r} twice; name each once")


def check_decoding(what: str, decoding: str) -> None:
    """Raise `SpotError` for a decoding that does not exist."""
    if decoding not in DECODINGS:
        raise SpotError(f"{what} is {decoding!r}; choose {', '.join(DECODINGS)}")
