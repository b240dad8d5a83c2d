"""Prefix-tuning (Li & Liang 2021) and P-Tuning v2 (Liu et al. 2021) of a frozen T5.

What is trained are keys and values in front of every layer's attention, in the encoder and in the
decoder (§4.2; `spot_jax.t5.prefix` has what they mean in a T5). They are trained as they are, as
P-Tuning v2 does by default, or as the output of an MLP (§4.3), folded away when they are stored.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from spot_jax.errors import POSITIVE, SpotError, check_fields
from spot_jax.methods.base import TOKENS, Adapted, Inference, Method, StoredPrompt, Task
from spot_jax.methods.losses import Batch, Tree, of_rows
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone, flatten, unflatten
from spot_jax.t5.config import T5Config
from spot_jax.t5.prefix import (
    check_places,
    layers_of,
    prefix_of_words,
    prefix_shape,
    with_prefix,
)

# The kind of the file beside a prompt's that holds the MLP too.
REPARAMETERISATION = "reparameterisation"
INITS = ("sampled_vocabulary", "class_labels", "text", "normal", "prompt")
POPULATION = 5000


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which rows a prefix has.

    Attributes:
        config: shape of the backbone.
        length: number of keys of an attention, P.
        places: some of `spot_jax.t5.prefix.PLACES`, in the order of the rows.
        positions: whether the keys stand at positions before the text, as PEFT's do.
    """

    config: T5Config
    length: int
    places: tuple[str, ...]
    positions: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, heads * head_dim]; see `prefix_shape`."""
        return prefix_shape(self.config, self.length, self.places)


@dataclasses.dataclass(frozen=True)
class PrefixTuning(Method):
    """Keys and values before every layer's attention (Li & Liang 2021; P-Tuning v2).

    Attributes:
        length: number of keys a layer, P. 5 to 100 in prefix-tuning, 8 to 224 in P-Tuning v2's
            scripts; below 20 for simple classification.
        init: "sampled_vocabulary", "class_labels" or "text": what the frozen model computes for
            words (Li & Liang, section 5.3), those of labels or text filled up with sampled ones;
            "normal"; or "prompt", a stored prefix.
        text: words of "text".
        prompt: path of the file that "prompt" begins from, or one for each prefix of the run.
        scale: standard deviation of "normal"; 1 is P-Tuning v2's, in its code.
        places: some of "encoder" and "decoder", their self-attention, and "cross", the decoder's
            attention to the encoder's output.
        hidden: number of hidden units of an MLP whose output is the prefix (Li & Liang, section
            4.3: 512 or 800); it begins by "normal" or from a stored "prompt". None to train the
            prefix itself, P-Tuning v2's default.
        width: width of the MLP's input; None for the backbone's.
    """

    rows_are: ClassVar[str] = "keys and values"
    source_kind: ClassVar[str] = "a prefix's file"

    length: int = 20
    init: str = "sampled_vocabulary"
    text: str | None = None
    prompt: str | Sequence[str] | None = None
    scale: float = 1.0
    places: Sequence[str] = ("encoder", "decoder")
    hidden: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise SpotError(f"a prefix has at least 1 key a layer, not {self.length}")
        check_fields(self, length=TOKENS, hidden=TOKENS, width=TOKENS, scale=POSITIVE)
        check_places(self.places)
        if self.init not in INITS:
            raise SpotError(
                f"unknown prefix initialisation {self.init!r}; expected {', '.join(INITS[:-1])} "
                f"or {INITS[-1]}"
            )
        if self.hidden is not None and self.init not in ("normal", "prompt"):
            raise SpotError(
                f"init {self.init!r} gives keys and values, which no MLP can be made to yield; set "
                "PrefixTuning.init = 'normal', or PrefixTuning.hidden = None"
            )

    def layout(self, config: T5Config) -> Layout:
        """Return which rows a prefix has."""
        return Layout(config, self.length, tuple(self.places))

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings; `SpotError` for stored prefixes of another shape."""
        for task in tasks:
            if task.source is not None:
                self._stored(backbone.config, task.source)
        return self

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"prefix": float32 [r, f], or the tree of MLPs that it comes of}."""
        layout = self.layout(backbone.config)
        if task.source is not None:
            stored = self._stored(backbone.config, task.source)
            return {"prefix": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), stored)}
        if self.init == "normal":
            if self.hidden is not None:
                return {"prefix": mlp_of(key, layout, self.hidden, self.width)}
            return {"prefix": self.scale * jax.random.normal(key, layout.shape, jnp.float32)}
        return {"prefix": rows_of_words(key, backbone.params, layout, self._words(task))}

    def _words(self, task: Task) -> tuple[int, ...]:
        if self.init == "text":
            texts = [self.text or ""]
        elif self.init == "class_labels" and task.labels:
            texts = list(task.labels)
        else:
            return ()
        ids = tuple(piece for text in texts for piece in task.pieces(text, self.init))
        if not ids:
            raise SpotError("the text that should initialise the prefix is empty; give it words")
        return ids

    def _stored(self, config: T5Config, source: StoredPrompt) -> Tree:
        """Return a stored prefix's rows, or the MLPs that were kept beside it, checked."""
        file = source.file
        try:
            positions = layout_of(config, file).positions
        except SpotError as error:
            raise SpotError(f"{source.path}: {error}") from error
        if positions:
            raise SpotError(
                f"{source.path}: a prefix of PEFT's, at positions before the text, predicts here "
                "but is not tuned further; begin from one that was tuned here"
            )
        asked = {"length": self.length, "places": list(self.places)}
        holds = {name: file.method[name] for name in asked}
        stored: Tree = file.rows
        if self.hidden is not None:
            if not file.tensors:
                raise SpotError(
                    f"{source.path}: a prefix without its MLP cannot go on being reparameterised; "
                    f"give the file {REPARAMETERISATION}-... that lies beside it, or set "
                    "PrefixTuning.hidden = None"
                )
            stored = unflatten(file.tensors)
            asked |= {"hidden": self.hidden, "width": self.width or config.emb_dim}
            shape = next(iter(stored.values()))["first"]["kernel"].shape
            holds |= dict(zip(("width", "hidden"), shape, strict=True))
        for name, value in holds.items():
            if asked[name] != value:
                raise SpotError(
                    f"{source.path}: a prefix of {name} {value} cannot be the beginning of one of "
                    f"{name} {asked[name]}; set PrefixTuning.{name} to it, or take another prefix"
                )
        return stored

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the T5 with the prefix in it."""
        rows = folded(trainable["prefix"], self.layout(config))
        return Adapted(params=with_prefix(frozen, config, rows[None], self.places))

    def adapt_batch(
        self, trainable: Tree, frozen: Tree, config: T5Config, batch: Batch, count: int
    ) -> Adapted:
        """Return the T5 with each row's own prefix in it."""
        layout = self.layout(config)
        rows = jax.vmap(lambda tree: folded(tree, layout))(trainable["prefix"])
        return Adapted(params=with_prefix(frozen, config, of_rows(rows, batch), self.places))

    def store(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> tuple[Array, Mapping[str, Array]]:
        """Return prefix i's rows, any MLP folded away."""
        prefix = self.part_of(trainable, i)["prefix"]
        return folded(prefix, self.layout(config)), {}

    def describe(self, *, config: T5Config, tasks: Sequence[Task], i: int) -> dict[str, Any]:
        """Return P, and the places in the order of the rows."""
        return {"name": type(self).__name__, "length": self.length, "places": list(self.places)}

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
        """Return the same prefix with the MLPs that it came of, if it came of any."""
        prefix = self.part_of(trainable, i)["prefix"]
        if not isinstance(prefix, Mapping):
            return {}
        tensors = {name: np.asarray(x, np.float32) for name, x in flatten(prefix)}
        return {REPARAMETERISATION: dataclasses.replace(file, tensors=tensors)}

    @classmethod
    def read(cls, file: PromptFile, params: Tree, config: T5Config) -> Inference:
        """Return the T5 with a stored prefix in it; `SpotError` as in `layout_of`."""
        layout = layout_of(config, file)
        rows = jnp.asarray(file.rows)[None]
        return Inference(
            with_prefix(params, config, rows, layout.places, positions=layout.positions)
        )

    @classmethod
    def read_several(
        cls, files: Sequence[PromptFile], params: Tree, config: T5Config, examples: int
    ) -> Inference:
        """Return what an ensemble runs with, each row with its own prefix.

        Row j of a batch becomes rows j * N to j * N + N - 1, of which number n has prefix n. Every
        row carries its prefix, so this takes N * examples times a prefix's memory.

        Raises:
            SpotError: as in `layout_of`, or prefixes that are not alike.
        """
        layouts = {layout_of(config, file) for file in files}
        if len(layouts) > 1:
            kinds = sorted(f"{each.length} in {'+'.join(each.places)}" for each in layouts)
            raise SpotError(
                f"an ensemble needs prefixes of one length and places, found {', '.join(kinds)}; "
                "leave some out"
            )
        rows = jnp.tile(jnp.stack([jnp.asarray(file.rows) for file in files]), (examples, 1, 1))
        layout = layouts.pop()
        return Inference(
            with_prefix(params, config, rows, layout.places, positions=layout.positions)
        )


def rows_of_words(
    key: Key[Array, ""], params: Tree, layout: Layout, ids: Sequence[int] = ()
) -> Float[Array, "r f"]:
    """Compute the frozen model's own keys and values of real words (§5.3), in their order.

    Args:
        key: random key of the words that are drawn where `ids` are short of P, from the 5,000 most
            common pieces, the first ids after the special ones: ours, as the paper's words are as
            many as needed.
        params: tree of the T5, without a prefix.
        layout: rows that the prefix has.
        ids: pieces of the words, no end-of-sequence; what is over is cut.
    """
    config, chosen = layout.config, jnp.asarray(ids[: layout.length], jnp.int32)
    missing, first = layout.length - len(chosen), 3
    population = min(POPULATION, config.vocab_size - first)
    drawn = jax.random.choice(key, population, (missing,), replace=missing > population)
    words = jnp.concatenate([chosen, drawn.astype(jnp.int32) + first])
    return prefix_of_words(params, config, words[None], layout.places)[0]


def mlp_of(key: Key[Array, ""], layout: Layout, hidden: int, width: int | None = None) -> Tree:
    """Draw an embedding of P rows and an MLP for each place: Linear, tanh, Linear (§4.3).

    Embeddings are standard normal, weights and biases uniform within 1 / sqrt(inputs), as P-Tuning
    v2's code leaves them by PyTorch's defaults; the papers do not say. Biases are [1, m], so that
    an optimizer that tells matrices from vectors treats them alike however many prefixes are tuned
    in one program.

    Returns:
        {place: {"embedding", "first": {"kernel", "bias"}, "second": {"kernel", "bias"}}}.
    """
    width = width or layout.config.emb_dim
    tree = {}
    for i, place in enumerate(layout.places):
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        outputs = 2 * layers_of(layout.config, place) * layout.shape[1]
        tree[place] = {
            "embedding": jax.random.normal(keys[0], (layout.length, width)),
            "first": _linear(keys[1], width, hidden),
            "second": _linear(keys[2], hidden, outputs),
        }
    return tree


def _linear(key: Key[Array, ""], inputs: int, outputs: int) -> dict[str, Array]:
    bound = inputs**-0.5
    drawn = jax.random.uniform(key, (inputs + 1, outputs), jnp.float32, -bound, bound)
    return {"kernel": drawn[:-1], "bias": drawn[-1:]}


def folded(prefix: Tree, layout: Layout) -> Float[Array, "r f"]:
    """Return a prefix's rows: itself where it is rows, else the output of its MLPs."""
    if not isinstance(prefix, Mapping):
        return prefix
    parts = []
    for place in layout.places:
        mlp = prefix[place]
        x = jnp.tanh(_affine(mlp["embedding"], mlp["first"]))
        x = _affine(x, mlp["second"])
        # [P, layers * 2 * f] to rows: layer, keys or values, position.
        x = x.reshape(layout.length, -1, layout.shape[1])
        parts.append(jnp.moveaxis(x, 0, 1).reshape(-1, layout.shape[1]))
    return jnp.concatenate(parts)


def _affine(x: Float[Array, "p i"], weights: Mapping[str, Array]) -> Float[Array, "p o"]:
    # What is stored must be what was trained, so in full precision on every device.
    product = jnp.matmul(x, weights["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + weights["bias"]


def layout_of(config: T5Config, file: PromptFile) -> Layout:
    """Return which rows a prefix's file has.

    Raises:
        SpotError: not a prefix, or not one of this backbone's shape.
    """
    name, places = str(file.method.get("name", "")), file.method.get("places", ())
    # One with a classification head holds a prefix as well.
    if name not in (PrefixTuning.__name__, "PrefixClassifier"):
        raise SpotError(
            f"expected a prefix, found a prompt of {name or 'unknown kind'}; give a file of "
            "prefix-tuning"
        )
    check_places(places)
    positions = bool(file.method.get("positions"))
    if positions and tuple(places) != ("decoder",):
        raise SpotError("a prefix at positions stands in the decoder alone; export it again")
    layout = Layout(config, int(file.method.get("length", 0)), tuple(places), positions)
    if file.rows.shape != layout.shape:
        raise SpotError(
            f"a prefix of shape {list(file.rows.shape)} cannot go with this backbone, where "
            f"{list(layout.shape)} is expected for length {layout.length} in "
            f"{' and '.join(places)}; load the backbone it was tuned on"
        )
    return layout
