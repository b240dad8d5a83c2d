"""Model tuning: all weights are trained. The papers' baseline, and how to pre-train."""

import dataclasses

from jaxtyping import Array, Float, Key

from spot_jax.methods.base import Batch, Defaults, Inference, Metrics, Tree, seq2seq_loss
from spot_jax.split import merge, split
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config


@dataclasses.dataclass(frozen=True)
class ModelTuning(Defaults):
    """All weights trainable, nothing frozen, no prompt.

    Attributes:
        config: the backbone's shape, with this run's dropout and dtype.
        z_loss: weight of the squared log normaliser.
        per_token: average the loss over target tokens instead of summing it.
    """

    config: T5Config
    z_loss: float = 1e-4
    per_token: bool = True

    @property
    def num_prompts(self) -> int:
        """One model a run."""
        return 1

    @property
    def prompt_length(self) -> int:
        """There are no virtual tokens."""
        return 0

    @property
    def tunes_backbone(self) -> bool:
        """What is stored is the tuned T5."""
        return True

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """The whole tree is trainable."""
        del keys
        return split(backbone.params, [(".*", "train")])

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """See `seq2seq_loss`."""
        return seq2seq_loss(
            merge(trainable, frozen),
            self.config,
            batch,
            keys,
            z_loss=self.z_loss,
            per_token=self.per_token,
        )

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """The tuned weights."""
        return Inference(merge(trainable, frozen))

    def export(self, trainable: Tree, frozen: Tree, i: int) -> None:
        """There is no prompt."""
        return
