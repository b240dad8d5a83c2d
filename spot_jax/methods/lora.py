"""LoRA (Hu et al. 2021): low-rank updates of a frozen T5's matrices.

    y = x W + (alpha / r) (x A) B,   A [inputs, r], B [r, outputs] (section 4.1)

A begins at random and B at zero, so that training begins at the frozen model. The product A B is
never formed: each row of a batch is multiplied by the factors of its own prompt, so that N updates
are trained in one program, and no gradient of W's size exists.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from spot_jax.errors import POSITIVE, SpotError, check_fields, whole
from spot_jax.methods.base import Adapted, Method, StoredPrompt, Task
from spot_jax.methods.losses import Batch, Tree, of_rows
from spot_jax.t5.backbone import Backbone, flatten, unflatten
from spot_jax.t5.config import T5Config
from spot_jax.t5.kernels import kernel_shapes, with_additions

INITS = ("random", "prompt")


@dataclasses.dataclass(frozen=True)
class LoRATuning(Method):
    """Low-rank updates of some of a T5's matrices.

    Attributes:
        rank: number of columns of A and rows of B, r; 1 to 64 in the paper, 8 in PEFT.
        alpha: numerator of the update's factor alpha / r.
        targets: names of the matrices, of both stacks and of every attention: query, key, value,
            out, wo, and wi or wi_0 and wi_1. The paper's are query and value.
        init: "random", A as PyTorch's linear layers begin and B zero; or "prompt", a stored update.
        prompt: path of the file that "prompt" begins from, or one for each prompt of the run.
    """

    source_kind: ClassVar[str] = "a file of LoRA"

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = ("query", "value")
    init: str = "random"
    prompt: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, rank=whole(1, 100_000), alpha=POSITIVE)
        if self.init not in INITS:
            raise SpotError(f"LoRATuning.init is 'random' or 'prompt', not {self.init!r}")

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings; `SpotError` for unknown targets, or updates that do not fit."""
        kernel_shapes(backbone.config, self.targets)
        for task in tasks:
            if task.source is not None:
                self._stored(backbone.config, task.source)
        return self

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return A and B of every target, stacked over layers: {..., "a": ..., "b": ...}."""
        if task.source is not None:
            return self._stored(backbone.config, task.source)
        leaves = {}
        for i, (path, shape) in enumerate(kernel_shapes(backbone.config, self.targets).items()):
            layers, inputs, outputs = shape
            # PyTorch's uniform(-bound, bound) of kaiming_uniform(a = sqrt(5)), as in loralib.
            drawn = jax.random.uniform(
                jax.random.fold_in(key, i),
                (layers, inputs, self.rank),
                jnp.float32,
                -(inputs**-0.5),
                inputs**-0.5,
            )
            leaves[f"{path}/a"] = drawn
            leaves[f"{path}/b"] = jnp.zeros((layers, self.rank, outputs), jnp.float32)
        return unflatten(leaves)

    def _stored(self, config: T5Config, source: StoredPrompt) -> Tree:
        file, expected = source.file, self._shapes(config)
        shapes = {name: array.shape for name, array in file.tensors.items()}
        if file.method.get("name") != type(self).__name__ or shapes != expected:
            raise SpotError(
                f"{source.path}: expected an update of rank {self.rank} of {_list(self.targets)} "
                f"of this backbone, found {_held(file.method)}; set LoRATuning.rank and "
                "LoRATuning.targets to the file's, or give another file"
            )
        tree = {name: jnp.asarray(array) for name, array in file.tensors.items()}
        # What the file's factor was is in B, so that this run's may be another.
        share = float(file.method["alpha"]) / self.alpha
        return unflatten({n: x * share if n.endswith("/b") else x for n, x in tree.items()})

    def _shapes(self, config: T5Config) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for path, (layers, inputs, outputs) in kernel_shapes(config, self.targets).items():
            shapes[f"{path}/a"] = (layers, inputs, self.rank)
            shapes[f"{path}/b"] = (layers, self.rank, outputs)
        return shapes

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the T5 with the update beside its kernels; `ValueError` for other shapes."""
        shapes = {name: leaf.shape for name, leaf in flatten(trainable)}
        if shapes != self._shapes(config):
            raise ValueError(f"an update of rank {self.rank} of {_list(self.targets)}")
        return self._adapted(jax.tree.map(lambda x: x[None], trainable), frozen, config)

    def adapt_batch(
        self, trainable: Tree, frozen: Tree, config: T5Config, batch: Batch, count: int
    ) -> Adapted:
        """Return the T5 with each row's own update."""
        return self._adapted(of_rows(trainable, batch), frozen, config)

    def _adapted(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        factor = self.alpha / self.rank
        additions: dict[str, dict[str, Array]] = {}
        for name, leaf in flatten(trainable):
            path, _, kind = name.rpartition("/")
            of_kernel = additions.setdefault(path, {})
            if kind == "a":
                of_kernel["low_rank_in"] = leaf
            else:
                of_kernel["low_rank_out"] = factor * leaf
        return Adapted(params=with_additions(frozen, config, additions))


def _list(targets: Sequence[str]) -> str:
    return " and ".join(targets)


def _held(method: Mapping[str, object]) -> str:
    targets = method.get("targets")
    of = f" of {_list(targets)}" if isinstance(targets, list | tuple) else ""
    return f"{method.get('name') or 'an unnamed prompt'} of rank {method.get('rank')}{of}"
