"""P-Tuning (Liu et al. 2021): virtual tokens anywhere in a template, made by a prompt encoder.

The template's words stay as anchors and the rest of the model is as it was (section 2.2); the data
side writes the virtual tokens' ids into their places. What is trained is the prompt encoder. It is
run once when a prompt is stored: its output is a prompt like any other, and the encoder itself is
kept in a file beside it for training to go on from. The T5 is frozen, as the paper's language
models are for LAMA, or tuned jointly, as they are for SuperGLUE.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.data import templates
from spot_jax.errors import POSITIVE, SpotError, check_choice, check_fields
from spot_jax.methods import initialisation
from spot_jax.methods.base import TOKENS, Adapted, Method, StoredPrompt, Task
from spot_jax.methods.losses import Tree
from spot_jax.methods.prompt_encoder import KINDS, PromptEncoder
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone, flatten
from spot_jax.t5.config import T5Config

# The branch of the trained tree that is no part of a T5.
ENCODER = "prompt_encoder"
# The kind of the file beside a prompt's that holds the encoder.
BESIDE = "encoder"
INITS = ("normal", "sampled_vocabulary", "prompt")


@dataclasses.dataclass(frozen=True)
class PTuning(Method):
    """Virtual tokens in a template, from a prompt encoder.

    Attributes:
        template: template of the task's text (`spot_jax.data.templates`), or one for each prompt
            of the run; None for tasks with places of their own, such as
            `super_glue_rte_ptuning`.
        length: number of places in the text, P; needed without a template.
        encoder: "lstm" (LAMA's size), "lstm_wide" (SuperGLUE's), "mlp" or "identity".
        init: initialisation of the encoder's embeddings: "normal" as in the authors' code,
            "sampled_vocabulary"; or "prompt", which goes on from a stored file.
        prompt: path of the file that "prompt" begins from, or one for each prompt. The encoder of a
            file that has one (`prompts/encoder-best-0.safetensors`) goes on; any other prompt
            begins as it is, with the encoder "identity". Either way `encoder` plays no part.
        tune_backbone: whether the T5 is tuned jointly, as the paper does for SuperGLUE; with one
            prompt only.
        row_scale: root mean square that the encoder's rows begin with, as a multiple of the
            embedding table's; their mean begins at 0. None for PyTorch's defaults as in the
            authors' code, with which an LSTM's rows are nearly alike and small.
    """

    placement: ClassVar[str] = "in_template"

    template: str | Sequence[str] | None = None
    length: int | None = None
    encoder: str = "lstm"
    init: str = "normal"
    prompt: str | Sequence[str] | None = None
    tune_backbone: bool = False
    row_scale: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, length=TOKENS, row_scale=POSITIVE)
        check_choice("PTuning.encoder", self.encoder, KINDS)
        for text in self.templates:
            templates.parse(text)
        if self.init not in INITS:
            raise SpotError(
                f"unknown initialisation {self.init!r} of the prompt encoder; expected "
                f"{', '.join(INITS[:-1])} or {INITS[-1]}"
            )

    @property
    def shares_weights(self) -> bool:
        """Whether the T5 is trained too, of which there is one for all prompts."""
        return self.tune_backbone

    @property
    def tunes_backbone(self) -> bool:
        """Whether a tuned T5 is stored beside the prompt."""
        return self.tune_backbone

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Fill in the length, and the encoder of the files to go on from.

        Raises:
            SpotError: templates of different lengths, no length, an unknown encoder, files that
                do not go together, or several prompts of which each would tune the backbone.
        """
        if self.tune_backbone and len(tasks) > 1:
            raise SpotError(
                f"P-Tuning that tunes the backbone tunes one prompt a run, found {len(tasks)}; "
                "start a run for each, or set tune_backbone = False"
            )
        kinds = {_encoder_of(task.source) for task in tasks if task.source is not None}
        if len(kinds) > 1:
            raise SpotError(
                f"expected files of one kind of encoder to go on from, found {sorted(kinds)}; "
                "give those of one kind, or a run for each"
            )
        resolved = dataclasses.replace(
            self, length=self._length(), encoder=kinds.pop() if kinds else self.encoder
        )
        resolved.shape(backbone.config)  # an encoder that cannot be is refused at once
        return resolved

    def _length(self) -> int:
        lengths = {templates.parse(text).length for text in self.templates}
        if len(lengths) > 1:
            raise SpotError(
                f"expected templates with as many virtual tokens each, found {sorted(lengths)}; "
                "prompts of one run have one length"
            )
        if not lengths and self.length is None:
            raise SpotError(
                "P-Tuning needs a template, or the number of places that the task's text has; add "
                "--gin.TEMPLATE=\"'{text} <prompt:3> {target}'\" or set PTuning.length"
            )
        length = lengths.pop() if lengths else self.length
        if self.length not in (None, length):
            raise SpotError(
                f"the template has {length} virtual tokens, PTuning.length is {self.length}; leave "
                "the length out"
            )
        return length or 0

    def shape(self, config: T5Config) -> PromptEncoder:
        """Return the encoder's shape."""
        return PromptEncoder(self.encoder, self.length or 0, config.emb_dim)

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"prompt_encoder": its tree}; with `tune_backbone` the backbone's leaves too."""
        encoder = self._start_encoder(key, backbone, task)
        if not self.tune_backbone:
            return {ENCODER: encoder}
        # With an axis of 1, as the encoders of several prompts have one.
        return {**backbone.params, ENCODER: jax.tree.map(lambda leaf: leaf[None], encoder)}

    def _start_encoder(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        table, shape = backbone.params["token_embedder"]["embedding"], self.shape(backbone.config)
        if task.source is not None and _encoder_of(task.source) != "identity":
            return shape.checked(dict(task.source.file.tensors))
        rows, weights = jax.random.split(key)
        if task.source is not None:
            embeddings = initialisation.stored(task.source, table, shape.length)
        elif self.init == "normal":
            embeddings = initialisation.normal(rows, table, shape.length)
        else:
            embeddings = initialisation.sampled_vocabulary(rows, table, shape.length)
        tree = shape.init(weights, embeddings)
        if self.row_scale is None:
            return tree
        size = jnp.sqrt(jnp.mean(jnp.square(table.astype(jnp.float32))))
        return shape.spread(tree, self.row_scale * size)

    def freeze(self, backbone: Backbone, tasks: Sequence[Task]) -> dict[str, Tree]:
        """Return the backbone, unless it is tuned."""
        return {} if self.tune_backbone else backbone.params

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the encoder's output as virtual tokens, and a T5 that is tuned."""
        encoder = self._encoder(trainable)
        params = None
        if self.tune_backbone:
            params = {name: leaf for name, leaf in trainable.items() if name != ENCODER}
        return Adapted(params, _encode(self.shape(config), encoder))

    def _encoder(self, trainable: Tree) -> Tree:
        encoder = trainable[ENCODER]
        return jax.tree.map(lambda leaf: leaf[0], encoder) if self.tune_backbone else encoder

    def describe(self, *, config: T5Config, tasks: Sequence[Task], i: int) -> dict[str, Any]:
        """Return name, length, placement and encoder, and how the task's text is written."""
        forms = [templates.parse(text).form for text in self.templates]
        form = {"form": forms[i if len(forms) > 1 else 0]} if forms else {}
        settings = super().describe(config=config, tasks=tasks, i=i)
        settings.pop("row_scale")  # how the encoder began
        return {**settings, **form}

    def companions(
        self,
        trainable: Tree,
        frozen: Tree,
        file: PromptFile,
        *,
        config: T5Config,
        tasks: Sequence[Task],
        i: int,
    ) -> Mapping[str, PromptFile]:
        """Return the prompt's file with its encoder's weights, where there are any."""
        if self.encoder == "identity":
            return {}
        leaves = flatten(self._encoder(self.part_of(trainable, i)))
        tensors = {name: np.asarray(leaf, np.float32) for name, leaf in leaves}
        return {BESIDE: dataclasses.replace(file, tensors=tensors)}


@functools.partial(jax.jit, static_argnums=0)
def _encode(shape: PromptEncoder, tree: Tree) -> Float[Array, "p d"]:
    return shape(tree)


def _encoder_of(source: StoredPrompt) -> str:
    """Return the encoder of a stored prompt; "identity" for a prompt without, its own beginning."""
    file = source.file
    if file.method.get("name") == PTuning.__name__ and "tokens" in file.tensors:
        return str(file.method["encoder"])
    return "identity"
