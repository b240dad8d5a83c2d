"""What a study is: which tasks, which seeds, how prompts are tuned and how they are scored.

A plan has two parts. Its *grid* (sources, targets, seeds, numbers of prompts to join) may grow
while a study is under way. Its *settings* decide every number and may not change under it.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import DECODINGS
from spot_jax.library import similarity
from spot_jax.training.build import plain_fields
from spot_jax.training.config import MethodRecipe, PromptTuningRecipe, StoredBackbone
from spot_jax.training.optimizers import Adafactor, Optimizer
from spot_jax.training.sharding import MeshShape
from spot_jax.transfer.initialisation import PromptRecipe, beginning, check_method

TASK_SETTINGS = ("inputs", "targets", "decoding")


@dataclasses.dataclass(frozen=True)
class Stage:
    """How the prompts of one stage, source or target, are tuned.

    Attributes:
        steps: 262,144 for sources and 100,000 for targets in SPoT's section 3.
        optimizer: constant 0.3 in the paper.
        init: of prompts that begin from no other; None for the method's own, or
            "sampled_vocabulary" where the plan names no method. See `PromptTuningRecipe.init`.
        batch_size: rows a step, for each prompt.
        period: steps between evaluations, of which the best is kept; 500 in the paper.
    """

    steps: int
    optimizer: Optimizer = Adafactor()
    init: str | None = None
    batch_size: int = 32
    period: int = 500


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a study is over. All of it may be added to later, nothing taken away.

    Attributes:
        sources: tasks or mixtures.
        targets: tasks with metrics.
        seeds: of every source and target.
        weighted_average: numbers k of prompts to average.
        multitask_mixture: numbers k of prompts whose tasks to mix.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    weighted_average: tuple[int, ...] = ()
    multitask_mixture: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """A transfer study: every target from every source, and other ways to begin.

    Attributes:
        directory: the study's.
        backbone: the T5.
        sources: tasks or mixtures that source prompts are tuned on.
        targets: tasks that begin from them.
        source: how source prompts are tuned.
        target: how target prompts are tuned.
        embedding_step: when a prompt is its task's embedding; 10,000 in the paper.
        lengths: {"inputs": ..., "targets": ...} of every task, in tokens of text.
        seeds: of every source and target; a target's run of one seed begins from the source
            prompts of the same seed.
        tasks: what differs for a task: "inputs", "targets", "decoding".
        weighted_average: each k for which the average of the k most similar prompts is tried.
        multitask_mixture: each k for which a prompt tuned on the tasks of the k most similar
            prompts and the target is tried.
        mixture_steps: of that prompt; None for the source's.
        prompt_length: P of prompt tuning; 100 in the paper.
        method: of all prompts, any that `beginnings.check_method` lets pass; None for prompt tuning
            with prompts of `prompt_length`.
        similarity: ranks prompts, "per_token" or "average_tokens".
        metric: the score of a task; None for the mean of its metrics, as in the paper.
        decoding: see `EvaluationPlan`.
        validation_split: chooses checkpoints.
        test_split: is reported.
        validation_examples: at most so many; None for all.
        test_examples: at most so many; None for all.
        evaluation_batch_size: rows; None for the training batch's.
        checkpoint_period: steps between saves, of which a killed cell loses one at most.
        prompts_at_once: tuned in one program, at most.
        modules: Python modules that register tasks.
        text_directory: plain text for `span_corruption` and `prefix_lm`.
        use_cached_tasks: read seqio's offline cache.
        mesh: how devices are arranged; one device by default.
        title: for the report.
        families: of tasks, by name, for the report.
    """

    directory: str
    backbone: StoredBackbone
    sources: Sequence[str]
    targets: Sequence[str]
    source: Stage
    target: Stage
    embedding_step: int
    lengths: Mapping[str, int]
    seeds: Sequence[int] = (0, 1, 2)
    tasks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    weighted_average: Sequence[int] = ()
    multitask_mixture: Sequence[int] = ()
    mixture_steps: int | None = None
    prompt_length: int = 100
    method: MethodRecipe | None = None
    similarity: str = "per_token"
    metric: str | None = None
    decoding: str = "auto"
    validation_split: str = "validation"
    test_split: str = "test"
    validation_examples: int | None = None
    test_examples: int | None = None
    evaluation_batch_size: int | None = None
    checkpoint_period: int = 500
    prompts_at_once: int = 48
    modules: Sequence[str] = ()
    text_directory: str | None = None
    use_cached_tasks: bool = False
    mesh: MeshShape | None = None
    title: str = "A study of prompt transfer"
    families: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """`SpotError` for what no study can be made of."""
        for what in ("sources", "targets", "seeds"):
            _check_list(what, getattr(self, what))
        for what in ("weighted_average", "multitask_mixture"):
            numbers = getattr(self, what)
            _check_once(what, numbers)
            if any(k < 1 for k in numbers):
                raise SpotError(f"{what} is numbers of prompts, 1 or more, found {list(numbers)}")
        _check_steps(self)
        similarity.check_metric(self.similarity)
        if self.prompts_at_once < 1:
            raise SpotError(f"prompts_at_once is 1 or more, found {self.prompts_at_once}")
        for name, own in self.tasks.items():
            _check_task(name, own, [*self.sources, *self.targets])
        for name in (*self.sources, *self.targets):
            self.task(name)

    @property
    def grid(self) -> Grid:
        """The part that may grow."""
        fields = [f.name for f in dataclasses.fields(Grid)]
        return Grid(**{name: tuple(getattr(self, name)) for name in fields})

    def recipe(self, stage: Stage, starts: Sequence[str] | None = None) -> PromptRecipe:
        """The method of a stage's prompts, which begin from these files if there are any."""
        method = self.method or PromptTuningRecipe(self.prompt_length, "sampled_vocabulary")
        check_method(method)
        return beginning(method, stage.init, starts)

    @property
    def virtual_tokens(self) -> int:
        """About how many an input holds, where the method says."""
        return self.prompt_length if self.method is None else getattr(self.method, "length", 0) or 0

    def task(self, name: str) -> dict[str, Any]:
        """Lengths and decoding of a task, what is its own over what is everyone's."""
        merged = {"decoding": self.decoding, **self.lengths, **self.tasks.get(name, {})}
        missing = [key for key in TASK_SETTINGS if key not in merged]
        if missing:
            raise SpotError(f"{name} has no length of {missing[0]}; give it in lengths or in tasks")
        if merged["decoding"] not in DECODINGS:
            raise SpotError(
                f"decoding of {name} is {merged['decoding']!r}; choose {', '.join(DECODINGS)}"
            )
        return {key: merged[key] for key in TASK_SETTINGS}

    def task_lengths(self, *names: str) -> dict[str, int]:
        """Feature lengths with room for each of the tasks."""
        each = [self.task(name) for name in names]
        return {side: max(one[side] for one in each) for side in ("inputs", "targets")}

    def settings(self) -> dict[str, Any]:
        """What decides a study's numbers, as one level of JSON: `target.steps`, `task X.inputs`."""
        plain: dict[str, Any] = {
            "backbone": self.backbone.description().fingerprint[:16],
            "dtype": self.backbone.dtype,
            "parameter_dtype": self.backbone.parameter_dtype,
            "dropout_rate": self.backbone.dropout_rate,
        }
        for name in ("source", "target"):
            stage = getattr(self, name)
            for key, value in plain_fields(stage).items():
                plain[f"{name}.{key}"] = value
            plain[f"{name}.init"] = self.recipe(stage).init
            plain[f"{name}.optimizer"] = {
                "type": type(stage.optimizer).__name__,
                **plain_fields(stage.optimizer),
            }
        plain["mixture_steps"] = self.mixture_steps or self.source.steps
        for name in (
            "embedding_step",
            "prompt_length",
            "similarity",
            "metric",
            "validation_split",
            "test_split",
            "validation_examples",
            "test_examples",
            "evaluation_batch_size",
        ):
            plain[name] = getattr(self, name)
        if self.method is not None:
            plain["method"] = {"type": type(self.method).__name__, **plain_fields(self.method)}
        for name in dict.fromkeys((*self.sources, *self.targets)):
            for key, value in self.task(name).items():
                plain[f"task {name}.{key}"] = value
        return plain


def _check_list(what: str, values: Sequence[Any]) -> None:
    if isinstance(values, str) or not len(values):
        raise SpotError(f"a study needs a list of {what}, found {values!r}; give at least one")
    _check_once(what, values)


def _check_once(what: str, values: Sequence[Any]) -> None:
    twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
    if twice:
        raise SpotError(f"{what} has {twice[0]!r} twice; name each once")


def _check_steps(plan: StudyPlan) -> None:
    for name in ("source", "target"):
        stage = cast(Stage, getattr(plan, name))
        if stage.steps < 1 or stage.batch_size < 1:
            raise SpotError(
                f"{name} has {stage.steps} steps of {stage.batch_size} rows; give 1 or more of each"
            )
        if plan.recipe(stage).init == "prompt":
            raise SpotError(
                f"{name}.init says how prompts begin that begin from no other, found 'prompt'; "
                "give sampled_vocabulary, class_labels, uniform or text"
            )
        if not 1 <= plan.embedding_step <= stage.steps:
            raise SpotError(
                f"embedding_step is {plan.embedding_step}, but the {name}'s steps are 1 to "
                f"{stage.steps}; an embedding is an early step of both"
            )
    if plan.target.period < 1:
        raise SpotError("target.period is 0, but checkpoints are chosen on validation; give steps")


def _check_task(name: str, own: Mapping[str, Any], known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        raise SpotError(
            f"tasks has settings of {name!r}, which is no source and no target"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    odd = sorted(set(own) - set(TASK_SETTINGS))
    if odd:
        raise SpotError(
            f"tasks gives {name} a setting {odd[0]!r}; there are {', '.join(TASK_SETTINGS)}"
        )
