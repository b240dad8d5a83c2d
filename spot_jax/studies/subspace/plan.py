"""What a study of intrinsic subspaces is: tasks to find them from, tasks to tune in them, and how.

The published protocol is Qin et al. 2021's; `gin_configs/studies/intrinsic_paper.gin` has its
settings.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import DECODINGS
from spot_jax.methods.intrinsic_msf import FEWEST
from spot_jax.studies.transfer.plan import Stage
from spot_jax.training.build import plain_fields
from spot_jax.training.config import StoredBackbone
from spot_jax.training.recipes_intrinsic import SubspaceFindingRecipe, SubspaceTuningRecipe
from spot_jax.training.sharding import MeshShape

STAGES = ("prompt", "msf", "ist", "model")
OURS = {
    "msf_settings": (SubspaceFindingRecipe, ("prompts", "dim", "tunes_backbone")),
    "ist_settings": (
        SubspaceTuningRecipe,
        ("subspace", "dim", "length", "subspace_seed", "scale", "init", "prompt", "tunes_backbone"),
    ),
}


@dataclasses.dataclass(frozen=True)
class IntrinsicPlan:
    """A study: subspaces of several dimensions, and how well tasks do in them.

    A mixture's name stands for its tasks wherever tasks are named.

    Attributes:
        directory: the study's.
        backbone: the T5.
        train_tasks: whose prompts subspaces are found from.
        test_tasks: held-out tasks by category; where the tasks fall into two kinds, one category
            for those of the training tasks' kind and one for the others.
        lengths: {"inputs": ..., "targets": ...} of every task, in tokens of text.
        prompt: how prompts are tuned: what subspaces are found from, and the reference.
        msf: how subspaces are found; `batch_size` is of each prompt, `init` says nothing.
        ist: how vectors in a subspace are tuned; `init` says nothing.
        model: how whole models are tuned, the second reference; None for none.
        msf_settings: what differs from the defaults of `SubspaceFindingRecipe`.
        ist_settings: what differs from the defaults of `SubspaceTuningRecipe`, for random
            subspaces too.
        dimensions: d of the subspaces. Some may be added later, or taken away.
        subsets: lists of training tasks that subspaces are also found from, to see what their
            number does. Some may be added later, or taken away.
        subset_dimensions: d of those; some may be added, or taken away.
        random_subspace: tune in a random subspace of each d as well.
        other_suffix: of a training task's name, for the same task with other data; "" for none.
        seeds: of prompts; each seed's prompts make subspaces of their own.
        prompts_per_task: a subspace is found from so many seeds' prompts of each task: those of
            its own seed and of the ones after it. One in the paper.
        model_seeds: of tuned models; None for `seeds`. Some may be added, or taken away.
        prompt_length: P; 100 in the paper.
        library: a library of prompts to take prompts from, by task, seed and length, rather than
            tune them.
        metric: the score of a task; None for the mean of its metrics.
        decoding: see `EvaluationPlan`.
        validation_split: chooses checkpoints.
        test_split: is reported.
        validation_examples: at most so many; None for all.
        test_examples: at most so many; None for all.
        evaluation_batch_size: rows; None for the training batch's.
        checkpoint_period: steps between saves, of which a killed cell loses one at most.
        prompts_at_once: vectors tuned in one program, at most.
        modules: Python modules that register tasks.
        use_cached_tasks: read seqio's offline cache.
        mesh: how devices are arranged; one device by default.
        title: for the report.
    """

    directory: str
    backbone: StoredBackbone
    train_tasks: Sequence[str]
    test_tasks: Mapping[str, Sequence[str]]
    lengths: Mapping[str, int]
    prompt: Stage
    msf: Stage
    ist: Stage
    model: Stage | None = None
    msf_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ist_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dimensions: Sequence[int] = (5, 250)
    subsets: Sequence[Sequence[str]] = ()
    subset_dimensions: Sequence[int] = ()
    random_subspace: bool = True
    other_suffix: str = ""
    seeds: Sequence[int] = (0, 1, 2)
    prompts_per_task: int = 1
    model_seeds: Sequence[int] | None = None
    prompt_length: int = 100
    library: str | None = None
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
    use_cached_tasks: bool = False
    mesh: MeshShape | None = None
    title: str = "A study of intrinsic subspaces"

    def __post_init__(self):
        """`SpotError` for what no study can be made of."""
        for what in ("train_tasks", "dimensions", "seeds"):
            _check_list(what, getattr(self, what))
        if not self.test_tasks or not isinstance(self.test_tasks, Mapping):
            raise SpotError(
                f"test_tasks names held-out tasks by category, found {self.test_tasks!r}; give "
                "for example {'test': ['my_task']}"
            )
        for what in ("dimensions", "subset_dimensions"):
            for d in getattr(self, what):
                if not isinstance(d, int) or d < 1:
                    raise SpotError(f"{what} are whole numbers, 1 or more, found {d!r}")
        if self.subsets and not self.subset_dimensions:
            raise SpotError(
                "subsets of the training tasks need subset_dimensions; give one or more"
            )
        if not 1 <= self.prompts_per_task <= len(self.seeds):
            raise SpotError(
                f"prompts_per_task is {self.prompts_per_task}, but each task has a prompt a seed, "
                f"{len(self.seeds)}; choose 1 to {len(self.seeds)}"
            )
        if self.prompts_at_once < 1:
            raise SpotError(f"prompts_at_once is 1 or more, found {self.prompts_at_once}")
        if self.decoding not in DECODINGS:
            raise SpotError(f"decoding is {self.decoding!r}; choose {', '.join(DECODINGS)}")
        for side in ("inputs", "targets"):
            if side not in self.lengths:
                raise SpotError(f"lengths has no {side!r}; give inputs and targets")
        self._check_stages()

    def _check_stages(self) -> None:
        for name in STAGES:
            stage = getattr(self, name)
            if stage is None:
                continue
            if stage.steps < 1 or stage.batch_size < 1:
                raise SpotError(
                    f"{name} has {stage.steps} steps of {stage.batch_size} rows; give 1 or more "
                    "of each"
                )
            if stage.period < 1 and name != "model":
                raise SpotError(
                    f"{name}.period is {stage.period}, but checkpoints are chosen on validation; "
                    "give steps"
                )
        for name, (recipe, taken) in OURS.items():
            known = {f.name for f in dataclasses.fields(recipe)} - set(taken)
            odd = sorted(set(getattr(self, name)) - known)
            if odd:
                raise SpotError(f"{name} has {odd[0]!r}; there are {', '.join(sorted(known))}")

    def settings(self) -> dict[str, Any]:
        """What decides a study's numbers and may not change, as one level of JSON."""
        plain: dict[str, Any] = {
            "kind": "intrinsic",
            "backbone": self.backbone.description().fingerprint[:16],
            "dtype": self.backbone.dtype,
            "parameter_dtype": self.backbone.parameter_dtype,
            "dropout_rate": self.backbone.dropout_rate,
        }
        for name in STAGES:
            stage = getattr(self, name)
            if stage is not None:
                plain |= {f"{name}.{key}": value for key, value in plain_fields(stage).items()}
                kind = type(stage.optimizer).__name__
                plain[f"{name}.optimizer"] = {"type": kind, **plain_fields(stage.optimizer)}
        fixed = dataclasses.replace(self, test_tasks=dict(self.test_tasks))
        for name in (
            *("train_tasks", "test_tasks", "lengths", "msf_settings", "ist_settings"),
            *("other_suffix", "seeds", "prompts_per_task", "prompt_length"),
            *("metric", "decoding", "validation_split", "test_split", "validation_examples"),
            *("test_examples", "evaluation_batch_size", "prompts_at_once"),
        ):
            value = getattr(fixed, name)
            plain[name] = dict(value) if isinstance(value, Mapping) else value
        return plain


def check_enough(what: str, tasks: Sequence[str]) -> None:
    """`SpotError` if a subspace cannot be found from so few tasks."""
    if len(tasks) < FEWEST:
        raise SpotError(
            f"a subspace is found from the prompts of at least {FEWEST} tasks, {what} names "
            f"{len(tasks)}; name more"
        )


def _check_list(what: str, values: Sequence[Any]) -> None:
    if isinstance(values, str) or not len(values):
        raise SpotError(f"a study needs a list of {what}, found {values!r}; give at least one")
    twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
    if twice:
        raise SpotError(f"{what} has {twice[0]!r} twice; name each once")
