"""Finding an intrinsic subspace (MSF) from many tasks' prompts (Qin et al. 2021).

Proj and Proj_b are trained on all tasks at once: what comes back of each task's stored prompt P_i,
P_i* = Proj_b(Proj(P_i)), must do the task, and be like P_i:

    L = mean over tasks of  L_LM(P_i*) + alpha * mean((P_i* - P_i)^2)

The backbone and the stored prompts are frozen.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import POSITIVE, Range, SpotError, check_choice, check_fields, whole
from spot_jax.methods.base import TOKENS, Adapted, Method, StoredPrompt, Task
from spot_jax.methods.losses import Batch, Metrics, Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.subspace import VARIANTS, SubspaceShape
from spot_jax.methods.subspace_file import SubspaceFile, check_alike
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

PROMPTS = "stored_prompts"
FEWEST = 2


def alpha_of_mean(alpha: float, examples: int, tokens: float) -> float:
    """Compute what `alpha` beside a summed loss comes to beside a loss that is a mean over tokens.

    The released code adds 200 times the mean square of the reconstruction to a loss that is
    summed over a batch's target tokens. Divided by their number, that is our loss with this
    alpha, and a clip of the gradient's norm is divided by it as well. Adam's steps are the same.

    Args:
        alpha: weight beside the sum; 200 in the released code.
        examples: number of examples of all tasks in a batch; 64 in the released code.
        tokens: number of tokens of an example's target, on average.
    """
    return alpha / (examples * tokens)


@dataclasses.dataclass(frozen=True)
class SubspaceFinding(Method):
    """Proj and Proj_b over the stored prompts of n tasks.

    A run has one task for each prompt, in the same order, and `DataSource.batch_size` rows of each
    task in a batch. It writes each task's reconstructed prompt, and the subspace as
    `prompts/subspace-best-0.safetensors`, best by the mean of the tasks' validation scores.

    Attributes:
        prompts: paths of the stored prompts, one a task; all of one length and of this backbone.
        dim: number of dimensions of the subspace, d.
        alpha: weight of the reconstruction, measured in units of `scale` squared. 200 beside a
            summed loss in the released code, which `alpha_of_mean` converts: 200 / (64 examples x
            target tokens).
        variant: "paper", or "per_token"; see `methods.subspace`.
        width: hidden width of Proj_b; 768 in the released code.
        scale: number that prompts are divided by before Proj; "rms" for the root mean square of
            the stored prompts, which T5's large prompts need; 1.0 is the paper's.
        per_token: whether each task's loss is averaged over target tokens, then over tasks, so
            that the balance with the reconstruction depends on no batch size. False sums over
            tokens and tasks as the released code does, and alpha = 200 goes with that.
        z_loss: weight of the squared log normaliser; none in the released code.
        label_smoothing: share of all ids; 0.1 in the released code.
    """

    extras: ClassVar[tuple[str, ...]] = (PROMPTS,)

    prompts: str | Sequence[str]
    dim: int
    alpha: float = 1.0
    variant: str = "paper"
    width: int = 768
    scale: float | str = "rms"
    per_token: bool = dataclasses.field(default=True, kw_only=True)
    z_loss: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise SpotError(f"alpha weighs the reconstruction: at least 0, found {self.alpha}")
        check_fields(self, dim=whole(1, 10**7), width=TOKENS, alpha=Range(0, 1e9))
        check_choice("SubspaceFinding.variant", self.variant, VARIANTS)
        if not isinstance(self.scale, str):
            check_fields(self, scale=POSITIVE)
        elif self.scale != "rms":
            raise SpotError(f"the scale is a number or 'rms', found {self.scale!r}")

    @property
    def shares_weights(self) -> bool:
        """True: all tasks come of one Proj and Proj_b."""
        return True

    @property
    def source_paths(self) -> list[str]:
        """Paths of the stored prompts."""
        return [self.prompts] if isinstance(self.prompts, str) else list(self.prompts)

    def sources(self, backbone: Backbone, count: int) -> list[StoredPrompt]:
        """Read the stored prompts.

        Raises:
            SpotError: too few, of different lengths, of another backbone, or files of methods
                whose prompt is not rows before the text.
        """
        if len(self.source_paths) < FEWEST:
            raise SpotError(
                f"a subspace is found from the prompts of at least {FEWEST} tasks, found "
                f"{len(self.source_paths)}; give more files in SubspaceFinding.prompts"
            )
        sources = self._load(self.source_paths, backbone, count)
        check_alike(sources, backbone)
        return sources

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Fill in the scale."""
        prompts = _stacked(tasks)
        scale = float(np.sqrt(np.mean(np.square(prompts)))) if self.scale == "rms" else self.scale
        resolved = dataclasses.replace(self, scale=scale)
        shape = resolved.shape(prompts.shape[1], backbone.config.emb_dim)
        shape.check_prompt(prompts.shape[1:])
        return resolved

    def shape(self, length: int, emb_dim: int) -> SubspaceShape:
        """Return the subspace's shape for prompts of [length, emb_dim]."""
        assert not isinstance(self.scale, str), "resolve has filled in the scale"
        return SubspaceShape(self.dim, length, emb_dim, self.width, self.variant, self.scale)

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"proj", "proj_b"}, which all tasks share."""
        shape = self._shape_for([task])
        first, second = jax.random.split(key)
        return {"proj": shape.init_proj(first), "proj_b": shape.init_proj_b(second)}

    def _shape_for(self, tasks: Sequence[Task]) -> SubspaceShape:
        return self.shape(*_stacked(tasks[:1]).shape[1:])

    def freeze(self, backbone: Backbone, tasks: Sequence[Task]) -> dict[str, Tree]:
        """Return the backbone and the stored prompts [n, p, e]."""
        return {**backbone.params, PROMPTS: jnp.asarray(_stacked(tasks), jnp.float32)}

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return what comes back of each stored prompt, the rows of prompt 0 first."""
        prompts = self._reconstructed(trainable, frozen)
        return Adapted(table=prompts.reshape(-1, config.emb_dim))

    def _reconstructed(self, trainable: Tree, frozen: Tree) -> Float[Array, "n p e"]:
        stored = frozen[PROMPTS]
        shape = self.shape(*stored.shape[1:])
        return shape.expand(trainable["proj_b"], shape.project(trainable["proj"], stored))

    def batch_loss(
        self,
        trainable: Tree,
        frozen: Tree,
        batch: Batch,
        keys: Key[Array, " n"] | None,
        *,
        config: T5Config,
        tasks: Sequence[Task],
    ) -> tuple[Float[Array, ""], Metrics]:
        """Add the reconstruction, whose mean square for each task is a metric, [n]."""
        prompts = self._reconstructed(trainable, frozen)
        adapted = Adapted(table=prompts.reshape(-1, config.emb_dim))
        total, metrics = self._sequence_loss(adapted, frozen, config, batch, keys, len(tasks))
        errors = jnp.mean(jnp.square((prompts - frozen[PROMPTS]) / self.scale), axis=(1, 2))
        if self.per_token:
            total = total / len(tasks)
        return total + self.alpha * jnp.mean(errors), {**metrics, "reconstruction": errors}

    def content_marks(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        """Return a hash of the stored prompts."""
        content = np.ascontiguousarray(_stacked(tasks), np.float32).tobytes()
        return {"prompts": hashlib.sha256(content).hexdigest()[:16]}

    def describe(self, *, config: T5Config, tasks: Sequence[Task], i: int) -> dict[str, Any]:
        """Return how the prompt came about; it is an ordinary one."""
        settings = {name: getattr(self, name) for name in ("alpha", "per_token", "label_smoothing")}
        shape = dataclasses.asdict(self._shape_for(tasks))
        return {"name": type(self).__name__, "placement": self.placement, **shape, **settings}

    def companions(
        self,
        trainable: Tree,
        frozen: Tree,
        file: PromptFile,
        *,
        config: T5Config,
        tasks: Sequence[Task],
        i: int,
    ) -> Mapping[str, SubspaceFile]:
        """Return the subspace, once for all prompts."""
        if i:
            return {}
        origins = [task.source.file.ancestor(task.source.path) for task in tasks if task.source]
        host = jax.tree.map(np.asarray, trainable)
        subspace = SubspaceFile(
            self._shape_for(tasks),
            host["proj"],
            host["proj_b"],
            backbone=file.backbone,
            vocabulary=file.vocabulary,
            tasks=tuple(str(origin.get("task", "")) for origin in origins),
            method=file.method,
            step=file.step,
            seed=file.seed,
            ancestry=tuple(origins),
        )
        return {"subspace": subspace}


def _stacked(tasks: Sequence[Task]) -> Float[np.ndarray, "n p e"]:
    return np.stack([task.source.file.rows for task in tasks if task.source is not None])
