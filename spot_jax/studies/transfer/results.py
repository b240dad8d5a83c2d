"""What a transfer study found, as one file: `results.json`, from which every table and figure come.

The dataclasses here are the file's format: a field is a key, `None` is null. Scores are 0 to 100.
A `seed` of None stands for a mean over seeds, of which only the mean (and perhaps `sd`) is known:
so are the tables of the paper. A score that is not defined (NaN) is null in the file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.results import Results

MAJORITY = "majority"
SCRATCH = "scratch"
TRANSFER = "transfer"
WEIGHTED_AVERAGE = "weighted_average"
MULTITASK_MIXTURE = "multitask_mixture"
METHODS = (SCRATCH, TRANSFER, WEIGHTED_AVERAGE, MULTITASK_MIXTURE)
BASELINES = (MAJORITY, NO_PROMPT)
ROLES = ("source", "target", "both")
SIMILARITIES = ("average_tokens", "per_token")


@dataclasses.dataclass(frozen=True)
class Score:
    """One target tuned in one way.

    Attributes:
        target: name of the target task.
        method: name of the method, one of METHODS; "transfer" begins from a source's prompt.
        test: score on the split that no choice was made on; NaN where it is not defined.
        source: source task of a transfer; None for the other methods.
        k: number of prompts in an average or a mixture; None for the other methods.
        seed: seed of the target's run; None for a mean over runs.
        source_seed: seed of the source's prompt; None for a mean over them, or no source.
        validation: score on the split that chooses; None if unknown.
        step: number of updates of the checkpoint that was scored.
        sd: standard deviation over the runs, where the score is a mean over them.
    """

    target: str
    method: str
    test: float
    source: str | None = None
    k: int | None = None
    seed: int | None = None
    source_seed: int | None = None
    validation: float | None = None
    step: int | None = None
    sd: float | None = None


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How alike the task embeddings of a source prompt and a target prompt are; cosines."""

    source: str
    target: str
    source_seed: int | None = None
    target_seed: int | None = None
    average_tokens: float | None = None
    per_token: float | None = None


@dataclasses.dataclass(frozen=True)
class EmbeddedPrompt:
    """Whose task embedding a row (and column) of `Embeddings` is; the role is one of ROLES."""

    task: str
    seed: int | None = None
    role: str = "both"


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Similarities of all task embeddings with each other, [n, n] in the order of `names`."""

    names: tuple[EmbeddedPrompt, ...] = ()
    average_tokens: tuple[tuple[float, ...], ...] | None = None
    per_token: tuple[tuple[float, ...], ...] | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """Validation scores of one run by step; what it is a run of, as in `Score`."""

    target: str
    method: str
    steps: tuple[int, ...]
    validation: tuple[float, ...]
    source: str | None = None
    k: int | None = None
    seed: int | None = None
    source_seed: int | None = None


@dataclasses.dataclass(frozen=True)
class PromptRecord:
    """A prompt that the study made or used, and what it began from.

    Attributes:
        task: name of the task that it was tuned on.
        role: role of its task, one of ROLES.
        seed: seed of its run.
        step: number of updates done.
        file: path of the prompt.
        id: id in the library; "" if it is in none.
        ancestry: prompts that it began from, nearest first, as `PromptFile.ancestry` has them.
        backbone: fingerprint of the backbone.
        metrics: scores at its step.
    """

    task: str
    role: str = "source"
    seed: int | None = None
    step: int | None = None
    file: str = ""
    id: str = ""
    ancestry: tuple[Mapping[str, Any], ...] = ()
    backbone: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferResults(Results):
    """A study: sources x targets x seeds, other ways to begin, and all that led to the scores.

    Attributes:
        sources: tasks, in the order in which tables show them.
        targets: tasks, in the order in which tables show them.
        scores: scores of targets; those of jobs that are not done are left out.
        similarities: similarities of source prompts to target prompts, by which retrieval ranks.
        embeddings: similarities of all task embeddings with each other; None if there are none.
        curves: learning curves of validation scores; may be empty.
        families: kind of each task ("nli"); to compare transfer within and across them.
        prompts: prompts that the study made or used; may be empty.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    scores: tuple[Score, ...]
    similarities: tuple[Similarity, ...] = ()
    embeddings: Embeddings | None = None
    curves: tuple[Curve, ...] = ()
    families: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompts: tuple[PromptRecord, ...] = ()

    def __post_init__(self) -> None:
        """Raise `SpotError` where parts contradict each other."""
        _check(self)


def _check(results: TransferResults) -> None:
    for role, names in (("sources", results.sources), ("targets", results.targets)):
        if len(set(names)) != len(names):
            raise SpotError(f"{role} names a task twice: {', '.join(names)}; name each once")
    targets, sources = set(results.targets), set(results.sources)
    for score in results.scores:
        if score.method not in METHODS:
            raise SpotError(f"scores: method {score.method!r} is none of {', '.join(METHODS)}")
        if score.target not in targets:
            raise SpotError(f"scores: {score.target!r} is not among the study's targets")
        if (score.method == TRANSFER) != (score.source is not None):
            raise SpotError(
                f"scores: a {score.method} score of {score.target} has source {score.source!r}; "
                "a transfer has one, other methods have none"
            )
        if score.source is not None and score.source not in sources:
            raise SpotError(f"scores: {score.source!r} is not among the study's sources")
    for pair in results.similarities:
        if pair.target not in targets or pair.source not in sources:
            raise SpotError(
                f"similarities: the pair {pair.source!r}, {pair.target!r} is not in the study; "
                "sources and targets must name both"
            )
    for curve in results.curves:
        if len(curve.steps) != len(curve.validation):
            raise SpotError(
                f"curves: {curve.target} has {len(curve.steps)} steps and "
                f"{len(curve.validation)} scores; one score a step is expected"
            )
    if results.embeddings is not None:
        _check_square(results.embeddings)


def _check_square(embeddings: Embeddings) -> None:
    size = len(embeddings.names)
    for name in SIMILARITIES:
        matrix = getattr(embeddings, name)
        if matrix is not None and {len(matrix), *map(len, matrix)} != {size}:
            raise SpotError(
                f"embeddings: {name} must be {size} x {size}, as many as names; found "
                f"{len(matrix)} rows of {sorted({len(row) for row in matrix})}"
            )
