"""IA3 (Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better ..."), learnt scales.

    keys and values: y = l * (x W);   feed-forward: y = (l * x) W of its last matrix (section 3.3)

All scales begin at 1, so that training begins at the frozen model. Each row of a batch is scaled by
its own prompt's, so that N of them are trained in one program.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Adapted, Method, StoredPrompt, Task
from spot_jax.methods.losses import Batch, Tree, of_rows
from spot_jax.t5.backbone import Backbone, flatten, unflatten
from spot_jax.t5.config import T5Config
from spot_jax.t5.kernels import kernel_shapes, with_additions

INITS = ("ones", "prompt")


@dataclasses.dataclass(frozen=True)
class IA3Tuning(Method):
    """Scales of what some of a T5's matrices yield, and of what others read.

    Attributes:
        outputs: names of the matrices whose outputs are scaled; key and value in the paper.
        inputs: names of the matrices whose inputs are scaled: wo in the paper, whose inputs are
            the feed-forward layer's hidden units.
        init: "ones", or "prompt", stored scales.
        prompt: path of the file that "prompt" begins from, or one for each prompt of the run.
    """

    source_kind: ClassVar[str] = "a file of IA3"

    outputs: Sequence[str] = ("key", "value")
    inputs: Sequence[str] = ("wo",)
    init: str = "ones"
    prompt: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in INITS:
            raise SpotError(f"IA3Tuning.init is 'ones' or 'prompt', not {self.init!r}")
        if twice := sorted({*self.outputs} & {*self.inputs}):
            raise SpotError(
                f"IA3 scales a matrix's outputs or its inputs, found both for {', '.join(twice)}; "
                "take it from IA3Tuning.outputs or IA3Tuning.inputs"
            )

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings; `SpotError` for unknown matrices, or scales that do not fit."""
        expected = self._shapes(backbone.config)
        for task in tasks:
            if task.source is None:
                continue
            file = task.source.file
            shapes = {name: array.shape for name, array in file.tensors.items()}
            if file.method.get("name") != type(self).__name__ or shapes != expected:
                raise SpotError(
                    f"{task.source.path}: expected scales of {' and '.join(self._names())} of this "
                    f"backbone, found {file.method.get('name') or 'an unnamed prompt'} of "
                    f"{', '.join(sorted(shapes)[:3]) or 'rows'}; set IA3Tuning.outputs and "
                    "IA3Tuning.inputs to the file's, or give another file"
                )
        return self

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return the scales of every matrix, stacked over layers: {..., "scale": [layers, f]}."""
        if isinstance(source := task.source, StoredPrompt):
            return unflatten({n: jnp.asarray(x) for n, x in source.file.tensors.items()})
        return unflatten({n: jnp.ones(s) for n, s in self._shapes(backbone.config).items()})

    def _names(self) -> tuple[str, ...]:
        return (*self.outputs, *self.inputs)

    def _shapes(self, config: T5Config) -> dict[str, tuple[int, ...]]:
        def pairs() -> Iterator[tuple[str, tuple[int, ...]]]:
            for path, (layers, inputs, outputs) in kernel_shapes(config, self._names()).items():
                yield f"{path}/scale", (layers, inputs if self._reads(path) else outputs)

        return dict(pairs())

    def _reads(self, path: str) -> bool:
        return path.rsplit("/", 1)[-1] in self.inputs

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the T5 with the scales beside its kernels; `ValueError` for other shapes."""
        if {name: leaf.shape for name, leaf in flatten(trainable)} != self._shapes(config):
            raise ValueError(f"scales of {' and '.join(self._names())}")
        return self._adapted(jax.tree.map(lambda x: x[None], trainable), frozen, config)

    def adapt_batch(
        self, trainable: Tree, frozen: Tree, config: T5Config, batch: Batch, count: int
    ) -> Adapted:
        """Return the T5 with each row's own scales."""
        return self._adapted(of_rows(trainable, batch), frozen, config)

    def _adapted(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        additions = {}
        for name, leaf in flatten(trainable):
            path = name.rpartition("/")[0]
            additions[path] = {"input_scale" if self._reads(path) else "output_scale": leaf}
        return Adapted(params=with_additions(frozen, config, additions))
