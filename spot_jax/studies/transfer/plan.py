"""What a study is: which tasks, which seeds, how prompts are tuned and how they are scored.

A plan has two parts. Its *grid* (sources, targets, seeds, numbers of prompts to join) may grow
while a study is under way. Its *settings* decide every number and may not change under it.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.files import plain_fields
from spot_jax.library import similarity
from spot_jax.methods.base import BaseMethod
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.studies.engine.plan import (
    SIDES,
    Plan,
    Stage,
    check_decoding,
    check_list,
    check_once,
)
from spot_jax.transfer.initialisation import beginning, check_method

TASK_SETTINGS = ("inputs", "targets", "decoding")


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a study is over. All of it may be added to later, nothing taken away.

    Attributes:
        sources: tasks or mixtures.
        targets: tasks with metrics.
        seeds: seeds of every source and target.
        weighted_average: numbers k of prompts to average.
        multitask_mixture: numbers k of prompts whose tasks to mix.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    weighted_average: tuple[int, ...] = ()
    multitask_mixture: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferPlan(Plan):
    """A transfer study: every target from every source, and other ways to begin.

    Attributes:
        sources: tasks or mixtures that source prompts are tuned on.
        targets: tasks that begin from them.
        source: stage of the source prompts.
        target: stage of the target prompts. A target's run of one seed begins from the source
            prompts of the same seed.
        embedding_step: step at which a prompt is its task's embedding; 10,000 in the paper.
        tasks: settings of single tasks, over everyone's: "inputs", "targets", "decoding".
        weighted_average: each k for which the average of the k most similar prompts is tried.
        multitask_mixture: each k for which a prompt tuned on the tasks of the k most similar
            prompts and the target is tried.
        mixture_steps: number of updates of that prompt; None for the source's.
        method: method of all prompts, any that `initialisation.check_method` lets pass; None for
            prompt tuning with prompts of `prompt_length`.
        similarity: metric that ranks prompts, "per_token" or "average_tokens".
        families: kind of each task ("nli"), for the report.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    source: Stage
    target: Stage
    embedding_step: int
    tasks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    weighted_average: Sequence[int] = ()
    multitask_mixture: Sequence[int] = ()
    mixture_steps: int | None = None
    method: BaseMethod | None = None
    similarity: str = "per_token"
    title: str = "A study of prompt transfer"
    families: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `SpotError` for what no study can be made of."""
        super().__post_init__()
        for what in ("sources", "targets"):
            check_list(what, getattr(self, what))
        for what in ("weighted_average", "multitask_mixture"):
            numbers = getattr(self, what)
            check_once(what, numbers)
            if any(k < 1 for k in numbers):
                raise SpotError(f"{what} is numbers of prompts, 1 or more, found {list(numbers)}")
        _check_steps(self)
        similarity.check_metric(self.similarity)
        for name, settings in self.tasks.items():
            _check_task(name, settings, [*self.sources, *self.targets])
        for name in (*self.sources, *self.targets):
            self.task(name)

    @property
    def grid(self) -> Grid:
        """The part that may grow."""
        fields = [f.name for f in dataclasses.fields(Grid)]
        return Grid(**{name: tuple(getattr(self, name)) for name in fields})

    def stage_method(self, stage: Stage, starts: Sequence[str] | None = None) -> Any:
        """Return the method of a stage's prompts, which begin from these files if there are any."""
        method = self.method or PromptTuning(self.prompt_length, "sampled_vocabulary")
        check_method(method)
        return beginning(method, stage.init, starts)

    @property
    def virtual_tokens(self) -> int:
        """Number of virtual tokens of an input, about, where the method says."""
        return self.prompt_length if self.method is None else getattr(self.method, "length", 0) or 0

    def task(self, name: str) -> dict[str, Any]:
        """Return lengths and decoding of a task: its own settings over everyone's."""
        merged = {"decoding": self.decoding, **self.lengths, **self.tasks.get(name, {})}
        missing = [key for key in TASK_SETTINGS if key not in merged]
        if missing:
            raise SpotError(f"{name} has no length of {missing[0]}; give it in lengths or in tasks")
        check_decoding(f"decoding of {name}", merged["decoding"])
        return {key: merged[key] for key in TASK_SETTINGS}

    def task_lengths(self, *names: str) -> dict[str, int]:
        """Return feature lengths with room for each of the tasks."""
        tasks = [self.task(name) for name in names]
        return {side: max(task[side] for task in tasks) for side in SIDES}

    def settings(self) -> dict[str, Any]:
        """Return what decides the numbers, as one level of JSON (`task X.inputs`)."""
        plain = super().settings()
        for name, stage in (("source", self.source), ("target", self.target)):
            plain |= stage.settings(name)
            plain[f"{name}.init"] = self.stage_method(stage).init
        plain["mixture_steps"] = self.mixture_steps or self.source.steps
        plain |= {"embedding_step": self.embedding_step, "similarity": self.similarity}
        if self.method is not None:
            fields = plain_fields(self.method)
            # Studies of before these fields were there are the same without them.
            for name, usual in (("class_words", ()), ("choice_loss", None), ("margin", 1.0)):
                if name in fields and (fields[name] or None) == (usual or None):
                    del fields[name]
            plain["method"] = {"type": type(self.method).__name__, **fields}
        for name in dict.fromkeys((*self.sources, *self.targets)):
            for key, value in self.task(name).items():
                plain[f"task {name}.{key}"] = value
        return plain


def _check_steps(plan: TransferPlan) -> None:
    for name, stage in (("source", plan.source), ("target", plan.target)):
        stage.check(name)
        if plan.stage_method(stage).init == "prompt":
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


def _check_task(name: str, settings: Mapping[str, Any], names: Sequence[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, cutoff=0.5)
        raise SpotError(
            f"tasks has settings of {name!r}, which is no source and no target"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    odd = sorted(set(settings) - set(TASK_SETTINGS))
    if odd:
        raise SpotError(
            f"tasks gives {name} a setting {odd[0]!r}; there are {', '.join(TASK_SETTINGS)}"
        )
