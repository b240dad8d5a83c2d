"""Finding an intrinsic subspace (MSF) from many tasks' prompts (Qin et al. 2021).

Proj and Proj_b are trained on all tasks at once: what comes back of each task's stored prompt P_i,
P_i* = Proj_b(Proj(P_i)), must do the task, and be like P_i:

    L = mean over tasks of  L_LM(P_i*) + alpha * mean((P_i* - P_i)^2)

The backbone and the stored prompts are frozen.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Batch, Defaults, Inference, Metrics, Tree, seq2seq_loss
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.subspace import SubspaceShape
from spot_jax.methods.subspace_file import SubspaceFile
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

PROMPTS = "stored_prompts"
FEWEST = 2


def alpha_of_mean(alpha: float, examples: int, tokens: float) -> float:
    """What `alpha` beside a summed loss comes to beside a loss that is a mean over tokens.

    The released code adds 200 times the mean square of the reconstruction to a loss that is
    summed over a batch's target tokens. Divided by their number, that is our loss with this
    alpha, and a clip of the gradient's norm is divided by it as well. Adam's steps are the same.

    Args:
        alpha: beside the sum; 200 in the released code.
        examples: of all tasks, in a batch; 64 in the released code.
        tokens: of an example's target, on average.
    """
    return alpha / (examples * tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class SubspaceFinding(Defaults):
    """Proj and Proj_b over the stored prompts of n tasks; a lane of rows for each task.

    Attributes:
        config: the backbone's shape, with this run's dropout and dtype.
        prompts: the stored prompts, float32 [n, p, e].
        shape: of the subspace.
        files: what is known of each stored prompt: task, step, seed, file.
        alpha: weight of the reconstruction, measured in units of `shape.scale` squared.
        per_token: average each task's loss over its target tokens, then over tasks, so that the
            balance with the reconstruction depends on no batch size. False sums over tokens and
            tasks as the released code does.
        z_loss: weight of the squared log normaliser.
        label_smoothing: 0.1 in the released code.
    """

    config: T5Config
    prompts: Float[np.ndarray, "n p e"]
    shape: SubspaceShape
    files: tuple[Mapping[str, Any], ...] = ()
    alpha: float = 1.0
    per_token: bool = True
    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if len(self.prompts) < FEWEST:
            raise SpotError(
                f"a subspace is found from the prompts of at least {FEWEST} tasks, found "
                f"{len(self.prompts)}; give more prompt files"
            )
        if self.alpha < 0:
            raise SpotError(f"alpha weighs the reconstruction: at least 0, found {self.alpha}")
        self.shape.check_prompt(self.prompts.shape[1:])

    @property
    def num_prompts(self) -> int:
        """n, the tasks."""
        return len(self.prompts)

    @property
    def prompt_length(self) -> int:
        """P."""
        return self.shape.length

    @property
    def num_trained(self) -> int:
        """All tasks come of one Proj and Proj_b."""
        return 1

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """trainable = {"proj", "proj_b"} from the first key, frozen = backbone and prompts."""
        one, two = jax.random.split(keys[0])
        trainable = {"proj": self.shape.init_proj(one), "proj_b": self.shape.init_proj_b(two)}
        return trainable, {**backbone.params, PROMPTS: jnp.asarray(self.prompts, jnp.float32)}

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """See the module; `reconstruction` [n] in the metrics is each task's mean square."""
        stored = frozen[PROMPTS]
        again = self._reconstructed(trainable, stored)
        total, metrics = seq2seq_loss(
            _backbone(frozen),
            self.config,
            batch,
            keys,
            table=again.reshape(-1, self.shape.emb_dim),
            z_loss=self.z_loss,
            per_token=self.per_token,
            num_prompts=self.num_prompts,
            label_smoothing=self.label_smoothing,
        )
        errors = jnp.mean(jnp.square((again - stored) / self.shape.scale), axis=(1, 2))
        if self.per_token:
            total = total / self.num_prompts
        return total + self.alpha * jnp.mean(errors), {**metrics, "reconstruction": errors}

    def _reconstructed(self, trainable: Tree, prompts: Float[Array, "*n p e"]) -> Array:
        return self.shape.expand(
            trainable["proj_b"], self.shape.project(trainable["proj"], prompts)
        )

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """The backbone as it came, and what comes back of prompt i."""
        return Inference(_backbone(frozen), self.export(trainable, frozen, i))

    def export(self, trainable: Tree, frozen: Tree, i: int) -> Float[Array, "p e"]:
        """P_i*, [p, e]."""
        return self._reconstructed(trainable, frozen[PROMPTS][i])

    def reads(self) -> Mapping[str, str]:
        """The stored prompts."""
        content = np.ascontiguousarray(self.prompts, np.float32).tobytes()
        return {"prompts": hashlib.sha256(content).hexdigest()[:16]}

    def describe(self) -> dict[str, Any]:
        """The prompt is an ordinary one; how it came about."""
        settings = {name: getattr(self, name) for name in ("alpha", "per_token", "label_smoothing")}
        return {**super().describe(), **dataclasses.asdict(self.shape), **settings}

    def beside(
        self, trainable: Tree, frozen: Tree, i: int, file: PromptFile
    ) -> Mapping[str, SubspaceFile]:
        """The subspace, once for all prompts."""
        if i:
            return {}
        host = jax.tree.map(np.asarray, trainable)
        found = SubspaceFile(
            self.shape,
            host["proj"],
            host["proj_b"],
            backbone=file.backbone,
            vocabulary=file.vocabulary,
            tasks=tuple(str(one.get("task", "")) for one in self.files),
            method=file.method,
            step=file.step,
            seed=file.seed,
            ancestry=self.files,
        )
        return {"subspace": found}


def _backbone(frozen: Tree) -> Tree:
    return {name: leaf for name, leaf in frozen.items() if name != PROMPTS}
