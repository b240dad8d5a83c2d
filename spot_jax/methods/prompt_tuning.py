"""Prompt Tuning (Lester, Al-Rfou & Constant 2021): a soft prompt before the input of a frozen T5.

The prompt is P rows in front of the embedded encoder input; the decoder is untouched and nothing
else is trained (§2). The rows are virtual tokens: the data side writes their ids, here they are
initialised (§3.2) and looked up.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Batch, Defaults, Inference, Metrics, Tree, seq2seq_loss
from spot_jax.split import split
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

Prompt = Float[Array, "p d"]


class Initialiser(Protocol):
    """Makes a prompt of `length` rows from a key and the backbone's embedding table."""

    def __call__(self, key: Key[Array, ""], embedding: Float[Array, "v d"], length: int) -> Prompt:
        """A float32 prompt."""
        ...


@dataclasses.dataclass(frozen=True)
class UniformInit:
    """Uniform in [-scale, scale], 0.5 in the paper (§3.2).

    The open-source code draws from [0, 0.5) instead, Flax's `uniform` being one-sided; this is
    the paper's range.
    """

    scale: float = 0.5

    def __call__(self, key: Key[Array, ""], embedding: Float[Array, "v d"], length: int) -> Prompt:
        """Draws every number on its own."""
        shape = (length, embedding.shape[1])
        return jax.random.uniform(key, shape, jnp.float32, -self.scale, self.scale)


@dataclasses.dataclass(frozen=True)
class SampledVocabularyInit:
    """Embeddings of tokens drawn from the `population` most common (§3.2): the first ids.

    Drawn without replacement, as the open-source code does; with it only if more are needed than
    there are.
    """

    population: int = 5000

    def __call__(self, key: Key[Array, ""], embedding: Float[Array, "v d"], length: int) -> Prompt:
        """Rows of the embedding table."""
        population = min(self.population, embedding.shape[0])
        ids = jax.random.choice(key, population, (length,), replace=length > population)
        return embedding[ids].astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ClassLabelInit:
    """One row a class label, the mean of its pieces' embeddings; the rest from `fill` (§3.2).

    Attributes:
        labels: each label's piece ids (no end-of-sequence); rows 0, 1, ... in this order. Labels
            beyond the prompt's length are left out.
        fill: initialises the other rows.
    """

    labels: tuple[tuple[int, ...], ...]
    fill: Initialiser = SampledVocabularyInit()

    def __call__(self, key: Key[Array, ""], embedding: Float[Array, "v d"], length: int) -> Prompt:
        """The fill, its first rows replaced by labels."""
        prompt = self.fill(key, embedding, length)
        for row, ids in enumerate(self.labels[:length]):
            if not ids:
                raise SpotError(f"class label {row} has no pieces: it is empty text; give it words")
            pieces = embedding[np.asarray(ids)].astype(jnp.float32)
            prompt = prompt.at[row].set(jnp.mean(pieces, axis=0))
        return prompt


@dataclasses.dataclass(frozen=True)
class TextInit:
    """The embeddings of a text's pieces, in order; the rest from `fill`, what is over is cut."""

    ids: tuple[int, ...]
    fill: Initialiser = SampledVocabularyInit()

    def __call__(self, key: Key[Array, ""], embedding: Float[Array, "v d"], length: int) -> Prompt:
        """The fill, its first rows replaced by the text."""
        if not self.ids:
            raise SpotError("the text that should initialise the prompt is empty; give it words")
        prompt = self.fill(key, embedding, length)
        ids = np.asarray(self.ids[:length])
        return prompt.at[: len(ids)].set(embedding[ids].astype(jnp.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayInit:
    """A given prompt, for example a source task's: SPoT's transfer (Vu 2022, §2)."""

    prompt: np.ndarray

    def __call__(self, key: Key[Array, ""], embedding: Float[Array, "v d"], length: int) -> Prompt:
        """The array itself, checked against length and width."""
        expected = (length, embedding.shape[1])
        if self.prompt.shape != expected:
            raise SpotError(
                f"the prompt to start from has shape {list(self.prompt.shape)} where "
                f"{list(expected)} (prompt length, backbone width) is expected; set the prompt "
                "length to it, or take a prompt of this backbone"
            )
        return jnp.asarray(self.prompt, jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class PromptTuning(Defaults):
    """N prompts of P rows before the input of one frozen T5.

    Attributes:
        config: the backbone's shape, with this run's dropout and dtype.
        length: P; 1 to 150 in the paper, 100 by default.
        initialisers: one a prompt; N is their number.
        z_loss: weight of the squared log normaliser.
        per_token: average the loss over target tokens instead of summing it as T5X does.
    """

    config: T5Config
    length: int = 100
    initialisers: Sequence[Initialiser] = (SampledVocabularyInit(),)
    z_loss: float = 1e-4
    per_token: bool = False

    def __post_init__(self) -> None:
        if self.length < 1:
            raise SpotError(f"a prompt has at least 1 virtual token, not {self.length}")
        if not self.initialisers:
            raise SpotError("prompt tuning needs an initialiser for each prompt; none was given")

    @property
    def num_prompts(self) -> int:
        """N."""
        return len(self.initialisers)

    @property
    def prompt_length(self) -> int:
        """P."""
        return self.length

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """trainable = {"prompt": float32 [n, p, d]}, frozen = the backbone."""
        embedding = backbone.params["token_embedder"]["embedding"]
        prompts = [
            init(key, embedding, self.length)
            for init, key in zip(self.initialisers, keys, strict=True)
        ]
        params = {**backbone.params, "prompt": jnp.stack(prompts)}
        return split(params, [("prompt", "train"), (".*", "freeze")])

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """See `seq2seq_loss`; its gradient is that of the prompts alone."""
        return seq2seq_loss(
            frozen,
            self.config,
            batch,
            keys,
            table=self.prompt_table(trainable),
            z_loss=self.z_loss,
            per_token=self.per_token,
            num_prompts=self.num_prompts,
        )

    def prompt_table(self, trainable: Tree) -> Float[Array, "r d"]:
        """[n * p, d]: prompt i's rows are i * p to (i + 1) * p - 1."""
        prompt = trainable["prompt"]
        return prompt.reshape(-1, prompt.shape[-1])

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """The frozen backbone as it came, and prompt i."""
        return Inference(frozen, trainable["prompt"][i])

    def export(self, trainable: Tree, frozen: Tree, i: int) -> Prompt:
        """Prompt i itself, [p, d]."""
        return trainable["prompt"][i]
