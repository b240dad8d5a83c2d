"""Tuning in an intrinsic subspace (IST): d numbers a task, Proj_b frozen (Qin et al. 2021).

    prompt = Proj_b(V),   V in R^d tuned with the task's own loss

Proj_b is either what MSF found (`subspace_finding`), or has fresh weights: the paper's baseline, a
random prompt subspace.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import POSITIVE, SEED, Range, SpotError, check_choice, check_fields, whole
from spot_jax.methods.base import TOKENS, Adapted, Method, StoredPrompt, Task
from spot_jax.methods.losses import Tree
from spot_jax.methods.subspace import VARIANTS, SubspaceShape
from spot_jax.methods.subspace_file import SubspaceFile, check_alike, load_subspace
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

PROJ_B = "proj_b"
RANDOM = "random"
INITS = ("normal", "prompt")


@dataclasses.dataclass(frozen=True)
class SubspaceTuning(Method):
    """One vector of d numbers a prompt, in a subspace that stays as it is.

    Attributes:
        subspace: path of the file that MSF wrote, or "random" for the baseline: a Proj_b with
            fresh weights.
        dim: number of dimensions, d; needed for "random", otherwise what the file must have.
        length: number of rows, P; 100 for "random" by default, otherwise what the file must have.
        variant: variant of "random", see `methods.subspace`.
        width: hidden width of "random".
        scale: scale of "random"; a number, for example the root mean square of tuned prompts.
        subspace_seed: seed of "random"; the same for all prompts of a run.
        init: "normal", or "prompt": V = Proj(P), the place of a stored prompt in the subspace, or
            its own vector if it was tuned in this very subspace.
        std: standard deviation of "normal"; 0.02 in the released code.
        prompt: path of the file that "prompt" begins from, or one for each prompt of the run.
        z_loss: weight of the squared log normaliser; none in the released code.
        label_smoothing: share of all ids; 0.1 in the released code.
    """

    extras: ClassVar[tuple[str, ...]] = (PROJ_B,)

    subspace: str
    dim: int | None = None
    length: int | None = None
    variant: str = "paper"
    width: int = 768
    scale: float = 1.0
    subspace_seed: int = 0
    init: str = "normal"
    std: float = 0.02
    prompt: str | Sequence[str] | None = None
    z_loss: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, dim=whole(1, 10**7), length=TOKENS, width=TOKENS, scale=POSITIVE)
        check_fields(self, subspace_seed=SEED, std=Range(0, 1e6))
        check_choice("SubspaceTuning.variant", self.variant, VARIANTS)
        if self.init not in INITS:
            raise SpotError(
                f"unknown beginning {self.init!r} of a vector; expected {' or '.join(INITS)}"
            )
        if self.subspace == RANDOM and self.dim is None:
            raise SpotError("a random subspace needs its dimension; set SubspaceTuning.dim")

    def check_source(self) -> None:
        """Raise `SpotError` for a subspace or a prompt to begin from that cannot be read."""
        super().check_source()
        _ = self.file

    @functools.cached_property
    def file(self) -> SubspaceFile | None:
        """Subspace that MSF found, read once; None for a random one."""
        return None if self.subspace == RANDOM else load_subspace(self.subspace)

    def shape(self, emb_dim: int) -> SubspaceShape:
        """Return the subspace's shape for a backbone of a width."""
        if self.file is not None:
            return self.file.shape
        length = 100 if self.length is None else self.length
        dim = self.dim or 0
        return SubspaceShape(dim, length, emb_dim, self.width, self.variant, self.scale)

    def sources(self, backbone: Backbone, count: int) -> list[StoredPrompt] | None:
        """Read the files to begin from; they hold rows before the text, all of one length."""
        sources = super().sources(backbone, count)
        if sources is not None:
            check_alike(sources, backbone)
        return sources

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings.

        Raises:
            SpotError: no such subspace, one of another shape or backbone, or a stored prompt that
                has no place in it.
        """
        # A copy, which reads the file as it is now.
        resolved = dataclasses.replace(self)
        emb_dim = backbone.config.emb_dim
        if resolved.file is not None:
            resolved.file.check(
                self.subspace,
                backbone=backbone.fingerprint,
                emb_dim=emb_dim,
                length=self.length,
                dim=self.dim,
            )
        resolved.shape(emb_dim)
        for task in tasks:
            if task.source is not None:
                resolved._place(task.source)
        return resolved

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"vector": the place in the subspace}."""
        if task.source is not None:
            return {"vector": jnp.asarray(self._place(task.source), jnp.float32)}
        code = self.shape(backbone.config.emb_dim).code
        return {"vector": self.std * jax.random.normal(key, code)}

    def _place(self, source: StoredPrompt) -> Float[np.ndarray, "..."]:
        """Return a stored prompt's place in the subspace."""
        path, prompt = source
        if self.file is None:
            raise SpotError(
                "a random subspace has no Proj, so that no stored prompt has a place in it; set "
                "SubspaceTuning.init = 'normal', or give a subspace file"
            )
        origin = prompt.method.get("subspace", {})
        if origin.get("mark") == self.file.mark and "vector" in prompt.tensors:
            vector, code = prompt.tensors["vector"], self.file.shape.code
            if vector.shape != code:
                raise SpotError(
                    f"{path}: a place in the subspace has shape {list(code)}, found "
                    f"{list(vector.shape)}; take one of this subspace"
                )
            return vector
        try:
            return np.asarray(self.file.project(prompt.rows))
        except SpotError as error:
            raise SpotError(f"{path}: {error}") from error

    def freeze(self, backbone: Backbone, tasks: Sequence[Task]) -> dict[str, Tree]:
        """Return the backbone and Proj_b."""
        if self.file is not None:
            proj_b = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), self.file.proj_b)
        else:
            shape = self.shape(backbone.config.emb_dim)
            proj_b = shape.init_proj_b(jax.random.key(self.subspace_seed))
        return {**backbone.params, PROJ_B: proj_b}

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return Proj_b(V), a prompt like any other."""
        prompt = self.shape(config.emb_dim).expand(frozen[PROJ_B], trainable["vector"])
        return Adapted(table=prompt)

    def store(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> tuple[Array | None, Mapping[str, Array]]:
        """Return the prompt, and V for one who would go on tuning in the subspace."""
        rows, _ = super().store(trainable, frozen, config=config, tasks=tasks, i=i)
        return rows, {"vector": trainable["vector"][i]}

    def content_marks(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        """Return the subspace's mark, unless it is a random one."""
        return {} if self.file is None else {"subspace": self.file.mark}

    def describe(self, *, config: T5Config, tasks: Sequence[Task], i: int) -> dict[str, Any]:
        """Return how the prompt came about, and in which subspace; it is an ordinary one."""
        shape = dataclasses.asdict(self.shape(config.emb_dim))
        about = {"name": type(self).__name__, "placement": self.placement}
        return {**about, **shape, "subspace": self._origin()}

    def _origin(self) -> dict[str, Any]:
        file = self.file
        if file is None:
            return {"random": self.subspace_seed}
        tasks = list(file.tasks)
        return {"mark": file.mark, "file": self.subspace, "step": file.step, "tasks": tasks}
