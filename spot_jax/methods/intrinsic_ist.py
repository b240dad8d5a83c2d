"""Tuning in an intrinsic subspace (IST): d numbers a task, Proj_b frozen (Qin et al. 2021).

    prompt = Proj_b(V),   V in R^d tuned with the task's own loss

Proj_b is either what MSF found (`intrinsic_msf`), or has fresh weights: the paper's baseline, a
random prompt subspace.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Batch, Defaults, Inference, Metrics, Tree, seq2seq_loss
from spot_jax.methods.subspace import Layers, SubspaceShape
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

PROJ_B = "proj_b"


@dataclasses.dataclass(frozen=True, eq=False)
class SubspaceTuning(Defaults):
    """n vectors in one subspace of prompts, before the input of one frozen T5.

    Attributes:
        config: the backbone's shape, with this run's dropout and dtype.
        shape: of the subspace.
        proj_b: its frozen half.
        starts: where each vector begins: `shape.code` numbers, or None for a draw from
            N(0, std^2); n is their number.
        std: 0.02 in the released code.
        origin: what a prompt's file says of the subspace, in JSON's types.
        z_loss: weight of the squared log normaliser.
        per_token: average the loss over target tokens; the released code sums.
        label_smoothing: 0.1 in the released code.
    """

    config: T5Config
    shape: SubspaceShape
    proj_b: Layers
    starts: Sequence[Float[np.ndarray, "..."] | None] = (None,)
    std: float = 0.02
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    z_loss: float = 0.0
    per_token: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for start in self.starts:
            if start is not None and np.shape(start) != self.shape.code:
                raise SpotError(
                    f"a place in the subspace has shape {list(self.shape.code)}, found "
                    f"{list(np.shape(start))}; take one of this subspace"
                )

    @property
    def num_prompts(self) -> int:
        """n."""
        return len(self.starts)

    @property
    def prompt_length(self) -> int:
        """P."""
        return self.shape.length

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """trainable = {"vector": float32 [n, *code]}, frozen = the backbone and Proj_b."""
        vectors = [
            self.std * jax.random.normal(key, self.shape.code) if start is None else start
            for start, key in zip(self.starts, keys, strict=True)
        ]
        proj_b = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), self.proj_b)
        stacked = jnp.stack([jnp.asarray(one, jnp.float32) for one in vectors])
        return {"vector": stacked}, {**backbone.params, PROJ_B: proj_b}

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """See `seq2seq_loss`; its gradient is that of the vectors alone."""
        table = self.shape.expand(frozen[PROJ_B], trainable["vector"])
        return seq2seq_loss(
            _backbone(frozen),
            self.config,
            batch,
            keys,
            table=table.reshape(-1, self.shape.emb_dim),
            z_loss=self.z_loss,
            per_token=self.per_token,
            num_prompts=self.num_prompts,
            label_smoothing=self.label_smoothing,
        )

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """The backbone as it came, and Proj_b(V_i)."""
        return Inference(_backbone(frozen), self.export(trainable, frozen, i))

    def export(self, trainable: Tree, frozen: Tree, i: int) -> Float[Array, "p e"]:
        """Proj_b(V_i), [p, e]: a prompt like any other."""
        return self.shape.expand(frozen[PROJ_B], trainable["vector"][i])

    def tensors(self, trainable: Tree, frozen: Tree, i: int) -> Mapping[str, Array]:
        """V_i: inference needs it not, but one who would go on tuning in the subspace does."""
        return {"vector": trainable["vector"][i]}

    def reads(self) -> Mapping[str, str]:
        """The subspace, unless it is a random one."""
        return {"subspace": self.origin["mark"]} if "mark" in self.origin else {}

    def describe(self) -> dict[str, Any]:
        """The prompt is an ordinary one; how it came about, and in which subspace."""
        subspace = {"subspace": dict(self.origin)} if self.origin else {}
        return {**super().describe(), **dataclasses.asdict(self.shape), **subspace}


def _backbone(frozen: Tree) -> Tree:
    return {name: leaf for name, leaf in frozen.items() if name != PROJ_B}
