"""P-Tuning v2's classification head: a prefix in the encoder, and a linear layer over its output.

The papers' BERT and RoBERTa read a first token that stands for the text. T5's encoder has none: the
mean of its output over the text is taken, which is ours. The decoder plays no part.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Inference, StoredPrompt, Task
from spot_jax.methods.losses import Batch, Metrics, Tree, row_keys
from spot_jax.methods.prefix_tuning import PrefixTuning, layout_of
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import encode
from spot_jax.t5.prefix import with_prefix
from spot_jax.t5.scoring import label_matrix

STD = 0.02
"""Standard deviation of the head's weights at first, as BERT's; its biases begin at 0."""
PLACES = ("encoder",)


@dataclasses.dataclass(frozen=True)
class HeadScorer:
    """The head in use; `Scorer` says what is asked of it.

    Its parameters are {"t5": the T5 with the prefix in it, "head": kernel [d, c], bias [1, c]}.

    Attributes:
        labels: labels in the order of the scores.
    """

    labels: tuple[str, ...]

    def __call__(self, params: Tree, config: T5Config, batch: Batch) -> Float[Array, "b c"]:
        """Compute every label's score for each row."""
        tokens = batch["encoder_input_tokens"]
        head = jax.tree.map(lambda leaf: leaf[None], params["head"])
        return scores_of(encode(params["t5"], config, tokens), tokens, head)

    def losses(self, scores: Float[Array, "b c"], gold: Int[Array, " b"]) -> Float[Array, " b"]:
        """Compute each row's cross entropy."""
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), gold[:, None], axis=1)[:, 0]


def scores_of(
    encoded: Float[Array, "b t d"], tokens: Int[Array, "b t"], head: Mapping[str, Array]
) -> Float[Array, "b c"]:
    """Return label scores: the mean of the text's output through each row's head, float32.

    Args:
        encoded: output of the encoder.
        tokens: ids of the text; 0 is padding.
        head: kernel [n, d, c] and bias [n, 1, c], n = 1 for one head or b for one a row.
    """
    real = (tokens > 0).astype(jnp.float32)[..., None]
    mean = jnp.sum(encoded.astype(jnp.float32) * real, axis=1) / jnp.maximum(real.sum(axis=1), 1.0)
    return (jnp.matmul(mean[:, None], head["kernel"]) + head["bias"])[:, 0]


@dataclasses.dataclass(frozen=True)
class PrefixClassifier(PrefixTuning):
    """A prefix in the encoder and a linear head, which chooses among a fixed set of labels.

    Attributes:
        places: "encoder" alone, as the decoder plays no part.
    """

    places: Sequence[str] = PLACES

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings.

        Raises:
            SpotError: a task without two labels, other places than the encoder, labels of
                different number, or a stored prefix of another shape.
        """
        if tuple(self.places) != PLACES:
            raise SpotError(
                f"PrefixClassifier.places is {list(self.places)}, but a head reads the encoder's "
                "output alone; set it to ('encoder',)"
            )
        counts = {len(task.labels) for task in tasks}
        if min(counts) < 2:
            raise SpotError(
                "a classification head chooses among a task's labels, and one of the tasks has "
                "none; use PrefixTuning, which writes text"
            )
        if len(counts) > 1:
            raise SpotError(
                f"runs of one program have as many labels, found {sorted(counts)}; give tasks with "
                "other numbers of labels a program of their own"
            )
        if any(task.vocabulary is None for task in tasks):
            raise SpotError("labels are read with the backbone's vocabulary, which it lacks")
        return super().resolve(backbone, tasks)

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"prefix": see `PrefixTuning`, "head": {"kernel", "bias"}}."""
        rows, head = jax.random.split(key)
        shape = backbone.config.emb_dim, len(task.labels)
        kernel = STD * jax.random.normal(head, shape, jnp.float32)
        fresh = {"kernel": kernel, "bias": jnp.zeros((1, shape[1]), jnp.float32)}
        return {**super().start(rows, backbone, task), "head": _head_of(task.source, task) or fresh}

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
        """Return the sum of the prompts' mean cross entropies over their rows.

        Metrics have an axis of N: `loss`, `accuracy`, and `tokens` (rows, each with one answer).
        """
        tokens, count = batch["encoder_input_tokens"], len(tasks)
        prompt = batch.get("row_prompt", jnp.zeros(len(tokens), jnp.int32))
        adapted = self.adapt_batch(trainable, frozen, config, batch, count)
        drop = row_keys(keys, batch)
        assert adapted.params is not None, "a prefix is in the T5's tree"
        encoded = encode(adapted.params, config, tokens, dropout_keys=drop)
        head = jax.tree.map(lambda leaf: leaf[prompt], trainable["head"])
        scores = scores_of(encoded, tokens, head)
        gold = _gold(batch["decoder_target_tokens"], tasks, prompt)
        is_known = (gold >= 0).astype(jnp.float32)
        losses = HeadScorer(()).losses(scores, jnp.maximum(gold, 0)) * is_known
        hits = (jnp.argmax(scores, axis=1) == gold).astype(jnp.float32)
        rows = jnp.stack([losses, hits, is_known], axis=1)
        loss, hit, size = jax.ops.segment_sum(rows, prompt, num_segments=count).T
        size = jnp.maximum(size, 1.0)
        return jnp.sum(loss / size), {"loss": loss / size, "accuracy": hit / size, "tokens": size}

    def infer(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> Inference:
        """Return prompt i's T5 and head."""
        part = self.part_of(trainable, i)
        params = {"t5": self.adapt(part, frozen, config).params, "head": part["head"]}
        return Inference(params, None, HeadScorer(tasks[i].labels))

    def store(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> tuple[Array, Mapping[str, Array]]:
        """Return prefix i's rows, and its head."""
        rows, _ = super().store(trainable, frozen, config=config, tasks=tasks, i=i)
        head = self.part_of(trainable, i)["head"]
        return rows, {f"head/{name}": leaf for name, leaf in head.items()}

    def describe(self, *, config: T5Config, tasks: Sequence[Task], i: int) -> dict[str, Any]:
        """Return P, the places in the order of the rows, and the labels in that of the head."""
        described = super().describe(config=config, tasks=tasks, i=i)
        return {**described, "labels": list(tasks[i].labels)}

    @classmethod
    def read(cls, file: PromptFile, params: Tree, config: T5Config) -> Inference:
        """Return the T5 with a stored prefix in it, and its head; `SpotError` as in `layout_of`."""
        places = layout_of(config, file).places
        head = _head_in(file)
        labels = tuple(file.method.get("labels", ()))
        if head is None or head["kernel"].shape != (config.emb_dim, len(labels)):
            raise SpotError("its classification head is missing or damaged; tune it again")
        t5 = with_prefix(params, config, jnp.asarray(file.rows)[None], places)
        return Inference({"t5": t5, "head": head}, None, HeadScorer(labels))

    @classmethod
    def read_several(
        cls, files: Sequence[PromptFile], params: Tree, config: T5Config, examples: int
    ) -> Inference:
        """Raise `SpotError`: heads do not vote."""
        raise SpotError("prefixes with a classification head do not vote; score each alone")


def _head_in(file: PromptFile) -> dict[str, Array] | None:
    names = ("kernel", "bias")
    if not all(f"head/{name}" in file.tensors for name in names):
        return None
    return {name: jnp.asarray(file.tensors[f"head/{name}"], jnp.float32) for name in names}


def _head_of(source: StoredPrompt | None, task: Task) -> dict[str, Array] | None:
    """Return the head of a stored prompt of the same labels; None where a new one begins."""
    if source is None or source.file.method.get("labels") != list(task.labels):
        return None
    return _head_in(source.file)


def _gold(
    targets: Int[Array, "b u"], tasks: Sequence[Task], prompt: Int[Array, " b"]
) -> Int[Array, " b"]:
    """Return each row's label by its target, which may be cut; -1 for none or several."""
    matrices = [label_matrix(task.vocabulary, task.labels) for task in tasks if task.vocabulary]
    length = targets.shape[1]
    width = max(length, *(matrix.shape[1] for matrix in matrices))
    padded = np.stack([np.pad(m, ((0, 0), (0, width - m.shape[1]))) for m in matrices])
    labels = jnp.asarray(padded[:, :, :length])[prompt]
    same = jnp.all(labels == targets[:, None], axis=2)
    return jnp.where(jnp.sum(same, axis=1) == 1, jnp.argmax(same, axis=1), -1).astype(jnp.int32)
