"""What a study of intrinsic subspaces is: tasks to find them from, tasks to tune in them, and how.

The published protocol is Qin et al. 2021's; `gin_configs/studies/intrinsic_paper.gin` has its
settings.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from spot_jax.errors import SpotError
from spot_jax.methods.base import Method
from spot_jax.methods.subspace_finding import FEWEST, SubspaceFinding
from spot_jax.methods.subspace_tuning import SubspaceTuning
from spot_jax.studies.engine.plan import SIDES, Plan, Stage, check_list

STAGES = ("prompt", "msf", "ist", "model", "fastfood")
OURS = {
    "msf_settings": (SubspaceFinding, ("prompts", "dim", "tunes_backbone")),
    "ist_settings": (
        SubspaceTuning,
        ("subspace", "dim", "length", "subspace_seed", "scale", "init", "prompt", "tunes_backbone"),
    ),
    # What both references have: the settings of their loss.
    "reference_settings": (Method, ()),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubspacePlan(Plan):
    """A study: subspaces of several dimensions, and how well tasks do in them.

    A mixture's name stands for its tasks wherever tasks are named.

    Attributes:
        train_tasks: tasks whose prompts subspaces are found from.
        test_tasks: held-out tasks by category; where the tasks fall into two kinds, one category
            for those of the training tasks' kind and one for the others.
        prompt: stage of the prompts that subspaces are found from, which are also the reference.
        msf: stage of finding subspaces; `batch_size` is of each prompt, `init` says nothing.
        ist: stage of tuning vectors in a subspace; `init` says nothing.
        model: stage of tuning whole models, the second reference; None for none.
        msf_settings: settings that differ from the defaults of `SubspaceFinding`.
        ist_settings: settings that differ from the defaults of `SubspaceTuning`, for random
            subspaces too.
        reference_settings: settings of the loss that differ from the defaults of prompt tuning and
            model tuning, so that references have the loss of what they are compared with.
        fastfood: stage of tuning held-out tasks in random subspaces of all weights (Fastfood), of
            which a run tunes one; None for none.
        fastfood_dimensions: numbers d of those; some may be added, or taken away.
        second_stage: whether prompt tuning goes on from each held-out task's prompt in a found
            subspace, which the paper's figures of stability compare with tuning from scratch.
        dimensions: numbers d of dimensions. Some may be added later, or taken away.
        subsets: lists of training tasks that subspaces are also found from, to see what their
            number does. Some may be added later, or taken away.
        subset_dimensions: numbers d of those; some may be added, or taken away.
        random_subspace: whether to tune in a random subspace of each d as well.
        other_suffix: end of a training task's name, for the same task with other data; "" for none.
        prompts_per_task: number of seeds whose prompts of each task a subspace is found from: its
            own seed and the ones after it. One in the paper.
        model_seeds: seeds of tuned models; None for `seeds`. Some may be added, or taken away.
        library: path of a library of prompts to take prompts from, by task, seed and length,
            rather than tune them.
    """

    train_tasks: Sequence[str]
    test_tasks: Mapping[str, Sequence[str]]
    prompt: Stage
    msf: Stage
    ist: Stage
    model: Stage | None = None
    msf_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ist_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reference_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fastfood: Stage | None = None
    fastfood_dimensions: Sequence[int] = ()
    second_stage: bool = False
    dimensions: Sequence[int] = (5, 250)
    subsets: Sequence[Sequence[str]] = ()
    subset_dimensions: Sequence[int] = ()
    random_subspace: bool = True
    other_suffix: str = ""
    prompts_per_task: int = 1
    model_seeds: Sequence[int] | None = None
    library: str | None = None
    title: str = "A study of intrinsic subspaces"

    def __post_init__(self) -> None:
        """Raise `SpotError` for what no study can be made of."""
        super().__post_init__()
        for what in ("train_tasks", "dimensions"):
            check_list(what, getattr(self, what))
        if not self.test_tasks or not isinstance(self.test_tasks, Mapping):
            raise SpotError(
                f"test_tasks names held-out tasks by category, found {self.test_tasks!r}; give "
                "for example {'test': ['my_task']}"
            )
        for what in ("dimensions", "subset_dimensions", "fastfood_dimensions"):
            for d in getattr(self, what):
                if not isinstance(d, int) or d < 1:
                    raise SpotError(f"{what} are whole numbers, 1 or more, found {d!r}")
        if self.subsets and not self.subset_dimensions:
            raise SpotError(
                "subsets of the training tasks need subset_dimensions; give one or more"
            )
        if self.fastfood_dimensions and self.fastfood is None:
            raise SpotError("fastfood_dimensions need a stage to be tuned by; give fastfood")
        if not 1 <= self.prompts_per_task <= len(self.seeds):
            raise SpotError(
                f"prompts_per_task is {self.prompts_per_task}, but each task has a prompt a seed, "
                f"{len(self.seeds)}; choose 1 to {len(self.seeds)}"
            )
        for side in SIDES:
            if side not in self.lengths:
                raise SpotError(f"lengths has no {side!r}; give inputs and targets")
        self._check_stages()

    @property
    def stages(self) -> dict[str, Stage]:
        """Stages by name."""
        stages = {name: getattr(self, name) for name in STAGES}
        return {name: stage for name, stage in stages.items() if stage is not None}

    def _check_stages(self) -> None:
        for name, stage in self.stages.items():
            stage.check(name)
            if stage.period < 1 and name != "model":
                raise SpotError(
                    f"{name}.period is {stage.period}, but checkpoints are chosen on validation; "
                    "give steps"
                )
        for name, (method, taken) in OURS.items():
            fields = {f.name for f in dataclasses.fields(method)} - set(taken)
            odd = sorted(set(getattr(self, name)) - fields)
            if odd:
                raise SpotError(f"{name} has {odd[0]!r}; there are {', '.join(sorted(fields))}")

    def settings(self) -> dict[str, Any]:
        """Return what decides the numbers and may not change, as one level of JSON."""
        plain: dict[str, Any] = {"kind": "intrinsic", **super().settings()}
        for name, stage in self.stages.items():
            plain |= stage.settings(name)
        for name in ("test_tasks", "lengths", "msf_settings", "ist_settings"):
            plain[name] = dict(getattr(self, name))
        if self.reference_settings:  # studies of before it was there are the same without it
            plain["reference_settings"] = dict(self.reference_settings)
        for name in (
            *("train_tasks", "other_suffix", "seeds", "prompts_per_task", "decoding"),
            "prompts_at_once",
        ):
            plain[name] = getattr(self, name)
        return plain


def check_enough(what: str, tasks: Sequence[str]) -> None:
    """Raise `SpotError` if a subspace cannot be found from so few tasks."""
    if len(tasks) < FEWEST:
        raise SpotError(
            f"a subspace is found from the prompts of at least {FEWEST} tasks, {what} names "
            f"{len(tasks)}; name more"
        )
