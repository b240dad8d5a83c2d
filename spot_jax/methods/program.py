"""A method at work: on one backbone, with one prompt for each of N tasks, in one program."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import BaseMethod, Inference, Saveable, Task
from spot_jax.methods.losses import Batch, Metrics, Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.int8 import has_int8, refusal


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A method's functions with everything bound that a run does not change.

    Attributes:
        method: settings, with what depends on backbone and tasks filled in.
        config: shape of the backbone, with this run's dropout and dtype.
        tasks: one a prompt; N is their number.
    """

    method: BaseMethod
    config: T5Config
    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, method: BaseMethod, backbone: Backbone, tasks: Sequence[Task]) -> "Program":
        """Return the program; `SpotError` for settings that backbone or tasks do not allow."""
        if method.changes_kernels and has_int8(backbone.params):
            raise SpotError(refusal(type(method).__name__))
        return cls(method.resolve(backbone, tasks), backbone.config, tuple(tasks))

    @property
    def num_prompts(self) -> int:
        """Number of prompts, N."""
        return len(self.tasks)

    @property
    def num_trained(self) -> int:
        """Number of parts of the trainable tree that are optimised by themselves: N, or 1."""
        return 1 if self.method.shares_weights else self.num_prompts

    @property
    def _bound(self) -> dict[str, Any]:
        return {"config": self.config, "tasks": self.tasks}

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """Return the (trainable, frozen) trees that a run begins from; one key a prompt."""
        frozen = self.method.freeze(backbone, self.tasks)
        if self.method.shares_weights:
            return self.method.start(keys[0], backbone, self.tasks[0]), frozen
        trees = [
            self.method.start(key, backbone, task)
            for key, task in zip(keys, self.tasks, strict=True)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees), frozen

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the scalar to differentiate in `trainable`; `keys` None means no dropout."""
        return self.method.batch_loss(trainable, frozen, batch, keys, **self._bound)

    def infer(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """Return what predictions with prompt i run with; its virtual tokens count from 0."""
        return self.method.infer(trainable, frozen, **self._bound, i=i)

    def prompt_length(self, trainable: Tree, frozen: Tree) -> int:
        """Return P, the number of virtual tokens of an example's input; 0 for none."""
        table = jax.eval_shape(lambda t, f: self.infer(t, f, 0).table, trainable, frozen)
        return 0 if table is None else table.shape[0]

    def file(self, trainable: Tree, frozen: Tree, i: int, **fields: Any) -> PromptFile | None:
        """Return prompt i's file; None for a method that stores none.

        Args:
            trainable: tree of all prompts.
            frozen: tree that stays as it is.
            i: number of the prompt.
            **fields: other fields of `PromptFile`.
        """
        rows, tensors = self.method.store(trainable, frozen, **self._bound, i=i)
        if rows is None and not tensors:
            return None
        description = self.method.describe(**self._bound, i=i)
        if rows is None and (length := self.prompt_length(trainable, frozen)):
            description["virtual_tokens"] = length
        return PromptFile(
            None if rows is None else np.asarray(rows, np.float32),
            method=description,
            tensors={name: np.asarray(x, np.float32) for name, x in tensors.items()},
            **fields,
        )

    def companions(
        self, trainable: Tree, frozen: Tree, i: int, file: PromptFile
    ) -> Mapping[str, Saveable]:
        """Return what is written beside prompt i's file for training to go on from, by kind."""
        return self.method.companions(trainable, frozen, file, **self._bound, i=i)
