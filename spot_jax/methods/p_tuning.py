"""P-Tuning (Liu et al. 2021): virtual tokens anywhere in a template, made by a prompt encoder.

The template's words stay as anchors and the rest of the model is as it was (section 2.2); the data
side writes the virtual tokens' ids into their places. What is trained is the prompt encoder. It is
run once at export: its output is a prompt like any other, and the encoder itself is kept beside it
for training to go on from. The T5 is frozen, as the paper's language models are for LAMA, or tuned
jointly, as they are for SuperGLUE.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Batch, Defaults, Inference, Metrics, Tree, seq2seq_loss
from spot_jax.methods.prompt_encoder import PromptEncoder
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_tuning import Initialiser
from spot_jax.split import merge, split
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config

NAME = "PTuning"
# The branch of the trained tree that is no part of a T5.
ENCODER = "prompt_encoder"
# The file beside a prompt's that holds the encoder.
BESIDE = "encoder"


@dataclasses.dataclass(frozen=True)
class NormalInit:
    """Normal with standard deviation 1, PyTorch's default of an embedding: the authors' code."""

    def __call__(
        self, key: Key[Array, ""], embedding: Float[Array, "v d"], length: int
    ) -> Float[Array, "p d"]:
        """Draws every number on its own."""
        return jax.random.normal(key, (length, embedding.shape[1]), jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredEncoder:
    """A whole encoder to go on from, its leaves by path."""

    leaves: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class PTuning(Defaults):
    """N prompts, each of its own encoder, at places in the text of one T5.

    Attributes:
        config: the backbone's shape, with this run's dropout and dtype.
        length: P, the places in an example's text.
        encoder: of `prompt_encoder.KINDS`.
        initialisers: one a prompt, of the encoder's embeddings, or an encoder to go on from.
        forms: how each prompt's task is written, for its file; empty where tasks say themselves.
        tune_backbone: tune the T5 jointly; with one prompt only.
        z_loss: weight of the squared log normaliser.
        per_token: average the loss over target tokens instead of summing it as T5X does.
    """

    config: T5Config
    length: int
    encoder: str = "lstm"
    initialisers: Sequence[Initialiser | StoredEncoder] = (NormalInit(),)
    forms: tuple[str, ...] = ()
    tune_backbone: bool = False
    z_loss: float = 1e-4
    per_token: bool = False

    def __post_init__(self) -> None:
        _ = self.shape  # an encoder that cannot be is refused at once
        if not self.initialisers:
            raise SpotError("P-Tuning needs an initialiser for each prompt; none was given")
        if self.tune_backbone and len(self.initialisers) > 1:
            raise SpotError(
                f"P-Tuning that tunes the backbone tunes one prompt a run, found "
                f"{len(self.initialisers)}; start a run for each, or set tune_backbone = False"
            )

    @property
    def shape(self) -> PromptEncoder:
        """The encoder's."""
        return PromptEncoder(self.encoder, self.length, self.config.emb_dim)

    @property
    def num_prompts(self) -> int:
        """N."""
        return len(self.initialisers)

    @property
    def prompt_length(self) -> int:
        """P."""
        return self.length

    @property
    def placement(self) -> str:
        """Where a template has put places."""
        return "in_template"

    @property
    def tunes_backbone(self) -> bool:
        """As it was asked for."""
        return self.tune_backbone

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """trainable = {"prompt_encoder": its tree, leaves [n, ...]}, frozen = the backbone.

        With `tune_backbone` the backbone's leaves are trainable too and nothing is frozen.
        """
        table = backbone.params["token_embedder"]["embedding"]
        trees = [self._tree(*one, table) for one in zip(self.initialisers, keys, strict=True)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        params = {**backbone.params, ENCODER: stacked}
        if self.tune_backbone:
            return split(params, [(".*", "train")])
        return split(params, [(f"{ENCODER}/.*", "train"), (".*", "freeze")])

    def _tree(
        self,
        initialiser: Initialiser | StoredEncoder,
        key: Key[Array, ""],
        table: Float[Array, "v d"],
    ) -> Tree:
        if isinstance(initialiser, StoredEncoder):
            return self.shape.checked(dict(initialiser.leaves))
        rows, weights = jax.random.split(key)
        return self.shape.init(weights, initialiser(rows, table, self.length))

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """See `seq2seq_loss`; its gradient is that of the encoders, and of a T5 that is tuned."""
        return seq2seq_loss(
            self._params(trainable, frozen),
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
        return jax.vmap(self.shape)(trainable[ENCODER]).reshape(-1, self.config.emb_dim)

    def _params(self, trainable: Tree, frozen: Tree) -> Tree:
        tuned = {name: leaf for name, leaf in trainable.items() if name != ENCODER}
        return merge(tuned, frozen)

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """The backbone, as it came or tuned, and prompt i as its encoder makes it."""
        return Inference(self._params(trainable, frozen), self.export(trainable, frozen, i))

    def export(self, trainable: Tree, frozen: Tree, i: int) -> Float[Array, "p d"]:
        """Prompt i, [p, d]: what its encoder comes to, which is no longer needed for inference."""
        return _fold(self.shape, _of_prompt(trainable[ENCODER], i))

    def describe(self) -> dict[str, Any]:
        """Name, length, placement and encoder."""
        return {
            "name": NAME,
            "length": self.length,
            "placement": self.placement,
            "encoder": self.encoder,
        }

    def describe_own(self, i: int) -> dict[str, Any]:
        """How prompt i's task is written around its virtual tokens."""
        return {"form": self.forms[i]} if self.forms else {}

    def beside(
        self, trainable: Tree, frozen: Tree, i: int, file: PromptFile
    ) -> Mapping[str, PromptFile]:
        """The prompt's file with its encoder's weights, where there are any."""
        if self.encoder == "identity":
            return {}
        leaves = traverse_util.flatten_dict(_of_prompt(trainable[ENCODER], i), sep="/")
        tensors = {name: np.asarray(leaf, np.float32) for name, leaf in leaves.items()}
        return {BESIDE: dataclasses.replace(file, tensors=tensors)}


def _of_prompt(tree: Tree, i: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[i], tree)


@functools.partial(jax.jit, static_argnums=0)
def _fold(shape: PromptEncoder, tree: Tree) -> Float[Array, "p d"]:
    return shape(tree)


def stored_start(file: PromptFile) -> tuple[str, StoredEncoder | None]:
    """What a stored prompt is gone on with: its encoder's kind and the encoder.

    ("identity", None) for a prompt without an encoder, which is its own beginning.
    """
    if file.method.get("name") == NAME and "tokens" in file.tensors:
        return str(file.method["encoder"]), StoredEncoder(file.tensors)
    return "identity", None
