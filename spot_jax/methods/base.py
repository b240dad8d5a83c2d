"""What every method shares: the protocol, the sequence-to-sequence loss, and keys of rows.

A method is a frozen dataclass of hyper-parameters and a few pure functions. It says which tree is
trained, how a loss comes of it, and what inference needs. N prompts can be tuned in one program:
every leaf of `trainable` then has a leading axis N, rows of a batch say which prompt they belong
to, and nothing of one prompt touches another.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5 import model
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

Tree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Array]


class Scorer(Protocol):
    """Scores a task's labels in one step, where a method does not write text.

    It is hashable, by its values: programs are compiled for it.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """What is chosen among."""
        ...

    def __call__(self, params: Tree, config: T5Config, batch: Batch) -> Float[Array, "b c"]:
        """Every label's score for each row, float32; the greatest is the prediction."""
        ...

    def losses(self, scores: Float[Array, "b c"], gold: Int[Array, " b"]) -> Float[Array, " b"]:
        """What training would make of these scores, given each row's label by number."""
        ...


class Inference(NamedTuple):
    """What predictions run with.

    Attributes:
        params: the T5's tree, or what the scorer takes.
        table: rows of one prompt's virtual tokens, float32 [p, d]; None without.
        scorer: chooses the label, instead of the T5's decoder; None for methods that write text.
    """

    params: Tree
    table: Float[Array, "p d"] | None = None
    scorer: Scorer | None = None


class Saveable(Protocol):
    """What can be written to a path, such as a `PromptFile`."""

    def save(self, path: Path) -> None:
        """Writes the file in one move."""
        ...


class Method(Protocol):
    """The interface of `methods/`; adding a method is adding one file that fulfils it.

    `Defaults` has what holds for most: virtual tokens before the text, prompts that share nothing.
    """

    @property
    def config(self) -> T5Config:
        """The backbone's shape, with this run's dropout and dtype."""
        ...

    @property
    def num_prompts(self) -> int:
        """N, how many prompts are tuned in one program; 1 for methods without a prompt axis."""
        ...

    @property
    def prompt_length(self) -> int:
        """P, the virtual tokens of an example's input; 0 for none."""
        ...

    @property
    def placement(self) -> str:
        """Where the virtual tokens stand; see `spot_jax.data.virtual_tokens.input_writer`."""
        ...

    @property
    def num_trained(self) -> int:
        """The leading axis of every leaf of `trainable`, each entry optimised by itself.

        N, or 1 where all prompts come of the same numbers or there is no such axis.
        """
        ...

    @property
    def tunes_backbone(self) -> bool:
        """Whether what is stored is a tuned T5, not prompts."""
        ...

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """The (trainable, frozen) trees a run begins from; one key a prompt."""
        ...

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The scalar whose gradient in `trainable` is taken; `keys` None means no dropout."""
        ...

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """What predictions with prompt i run with; its virtual tokens are numbered from 0."""
        ...

    def export(self, trainable: Tree, frozen: Tree, i: int) -> Float[Array, "rows width"] | None:
        """Prompt i as its file holds it, any encoder folded away; None for methods without."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a prompt's file says of the method, in JSON's types; `restored` reads it."""
        ...

    def describe_own(self, i: int) -> dict[str, Any]:
        """What prompt i's file says besides, where prompts differ in it."""
        ...

    def reads(self) -> Mapping[str, str]:
        """Marks of the files' content that it reads at every start: a run goes on with no other."""
        ...

    def tensors(self, trainable: Tree, frozen: Tree, i: int) -> Mapping[str, Array]:
        """What else than the prompt its file holds for inference, by name."""
        ...

    def beside(
        self, trainable: Tree, frozen: Tree, i: int, file: PromptFile
    ) -> Mapping[str, Saveable]:
        """What is written beside a prompt's file for training to go on from, by kind."""
        ...


class Defaults:
    """What most methods say of themselves; a base class for them, see `Method`."""

    num_prompts: Any
    prompt_length: Any

    @property
    def placement(self) -> str:
        """Before the text."""
        return "before"

    @property
    def num_trained(self) -> int:
        """Every prompt by itself."""
        return self.num_prompts

    @property
    def tunes_backbone(self) -> bool:
        """The backbone stays as it is."""
        return False

    def describe(self) -> dict[str, Any]:
        """The class's name and P."""
        return {"name": type(self).__name__, "length": self.prompt_length}

    def describe_own(self, i: int) -> dict[str, Any]:
        """Prompts are all of one kind."""
        return {}

    def reads(self) -> Mapping[str, str]:
        """Files are read when a run begins, if at all."""
        return {}

    def tensors(self, trainable: Tree, frozen: Tree, i: int) -> Mapping[str, Array]:
        """Nothing but the prompt."""
        return {}

    def beside(
        self, trainable: Tree, frozen: Tree, i: int, file: PromptFile
    ) -> Mapping[str, Saveable]:
        """The prompt is all."""
        return {}


def row_keys(keys: Key[Array, " n"] | None, batch: Batch) -> Key[Array, " b"] | None:
    """One dropout key a row, from its prompt's key and its number within that prompt's rows."""
    if keys is None:
        return None
    rows = batch["encoder_input_tokens"].shape[0]
    prompt = batch.get("row_prompt", jnp.zeros(rows, jnp.int32))
    number = batch.get("row_number", jnp.arange(rows))
    return jax.vmap(lambda p, i: jax.random.fold_in(keys[p], i))(prompt, number)


def token_losses(
    logits: Float[Array, "b u v"],
    targets: Int[Array, "b u"],
    z_loss: float,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "b u"], Float[Array, "b u"]]:
    """Cross entropy of each target with T5X's z-loss: -log p(target) + z_loss * log(Z)^2.

    Args:
        logits: float32.
        targets: ids.
        z_loss: weight of the squared log normaliser, which keeps logits from drifting.
        label_smoothing: the share of the target's weight that all ids have alike.

    Returns:
        The loss of each position, and the part of it that is the z-loss.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        mean = jnp.mean(logits, axis=-1)
        chosen = (1.0 - label_smoothing) * chosen + label_smoothing * mean
    penalty = z_loss * jnp.square(log_z)
    return log_z - chosen + penalty, penalty


def seq2seq_loss(
    params: Tree,
    config: T5Config,
    batch: Batch,
    keys: Key[Array, " n"] | None,
    *,
    table: Float[Array, "r d"] | None = None,
    z_loss: float = 1e-4,
    per_token: bool = False,
    num_prompts: int = 1,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """The loss of a batch, summed over target tokens as in T5X, each prompt by itself.

    Args:
        params: the T5's tree.
        config: its shape.
        batch: T5X's features; `row_prompt` and `row_number` when there are several prompts.
        keys: dropout keys, one a prompt; None for no dropout.
        table: rows of the virtual tokens.
        z_loss: see `token_losses`.
        per_token: divide each prompt's sum by its number of target tokens.
        num_prompts: N.
        label_smoothing: see `token_losses`.

    Returns:
        The scalar to differentiate: the sum over prompts of each one's loss, so that a prompt's
        gradient is that of its own loss; and metrics, each with an axis of N: `loss` (mean over
        tokens, nats), `z_loss` (the same), `accuracy` (share of tokens predicted right given the
        ones before), `tokens`.
    """
    drop = row_keys(keys, batch)
    drops = [
        None if drop is None else jax.vmap(jax.random.fold_in, (0, None))(drop, i) for i in (0, 1)
    ]
    tokens, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    segments = batch.get("encoder_segment_ids")
    encoded = model.encode(
        params, config, tokens, table=table, segment_ids=segments, dropout_keys=drops[0]
    )
    logits = model.decode(
        params,
        config,
        encoded,
        tokens,
        batch["decoder_input_tokens"],
        targets,
        encoder_segment_ids=segments,
        decoder_segment_ids=batch.get("decoder_segment_ids"),
        dropout_keys=drops[1],
    )
    weights = batch["decoder_loss_weights"]
    losses, penalties = token_losses(logits, targets, z_loss, label_smoothing)
    right = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    per_row = jnp.stack([jnp.sum(x * weights, axis=1) for x in (losses, penalties, right)], axis=1)
    per_row = jnp.concatenate([per_row, jnp.sum(weights, axis=1, keepdims=True)], axis=1)
    if "row_prompt" in batch:
        sums = jax.ops.segment_sum(per_row, batch["row_prompt"], num_segments=num_prompts)
    else:
        sums = jnp.sum(per_row, axis=0, keepdims=True)
    loss, penalty, hits, count = jnp.moveaxis(sums, 1, 0)
    mean = jnp.maximum(count, 1.0)
    metrics = {
        "loss": (loss - penalty) / mean,
        "z_loss": penalty / mean,
        "accuracy": hits / mean,
        "tokens": count,
    }
    return jnp.sum(loss / mean if per_token else loss), metrics
