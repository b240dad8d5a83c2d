"""Model tuning: all weights are trained. The papers' baseline, and how to pre-train."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

from jaxtyping import Array, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Adapted, Method, Task
from spot_jax.methods.losses import Tree
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config


@dataclasses.dataclass(frozen=True)
class ModelTuning(Method):
    """All weights trainable, nothing frozen, no prompt; one model a run.

    Attributes:
        per_token: whether the loss is averaged over target tokens instead of summed.
    """

    per_token: bool = dataclasses.field(default=True, kw_only=True)

    @property
    def tunes_backbone(self) -> bool:
        """True: what is stored is the tuned T5."""
        return True

    @property
    def shares_weights(self) -> bool:
        """True: there is one T5."""
        return True

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings; `SpotError` for several models."""
        if len(tasks) != 1:
            raise SpotError(f"model tuning tunes one model a run, {len(tasks)} tasks were given")
        return self

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return the backbone's own weights."""
        return backbone.params

    def freeze(self, backbone: Backbone, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return nothing: all is trained."""
        return {}

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the tuned weights."""
        return Adapted(params=trainable)
