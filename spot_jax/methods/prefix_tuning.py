"""Prefix-tuning (Li & Liang 2021) and P-Tuning v2 (Liu et al. 2021) of a frozen T5.

What is trained are keys and values in front of every layer's attention, in the encoder and in the
decoder (§4.2; `spot_jax.t5.prefix` has what they mean in a T5). They are trained as they are, as
P-Tuning v2 does by default, or as the output of an MLP (§4.3), which is folded away at export.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Batch, Defaults, Inference, Metrics, Tree, seq2seq_loss
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.split import split
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.prefix import (
    check_places,
    layers_of,
    prefix_of_words,
    prefix_shape,
    with_prefix,
)

NAME = "PrefixTuning"
# The file beside a prompt's that holds the MLP too.
REPARAMETERISATION = "reparameterisation"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which rows a prefix has.

    Attributes:
        config: the backbone's shape.
        length: P, keys of an attention.
        places: some of `spot_jax.t5.prefix.PLACES`, in the order of the rows.
    """

    config: T5Config
    length: int
    places: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, heads * head_dim]; see `prefix_shape`."""
        return prefix_shape(self.config, self.length, self.places)


class Initialiser(Protocol):
    """Makes one prefix's trainable numbers: its rows, or the tree of MLPs that they come of."""

    def __call__(self, key: Key[Array, ""], params: Tree, layout: Layout) -> Tree:
        """Float32 rows [r, f], or a tree as `MLPInit` makes it."""
        ...


@dataclasses.dataclass(frozen=True)
class NormalInit:
    """Normal with standard deviation `scale`; 1 is what P-Tuning v2's embedding begins with."""

    scale: float = 1.0

    def __call__(self, key: Key[Array, ""], params: Tree, layout: Layout) -> Float[Array, "r f"]:
        """Draws every number on its own."""
        return self.scale * jax.random.normal(key, layout.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class WordsInit:
    """The frozen model's own keys and values of real words (§5.3); see `prefix_of_words`.

    Attributes:
        ids: the words' pieces, no end-of-sequence; what is over is cut.
        population: where pieces are short of P, the rest are drawn from so many most common ones,
            the first ids after the special ones: ours, as the paper's words are as many as needed.
    """

    ids: tuple[int, ...] = ()
    population: int = 5000

    def __call__(self, key: Key[Array, ""], params: Tree, layout: Layout) -> Float[Array, "r f"]:
        """The activations of the words in their order."""
        config, ids = layout.config, np.asarray(self.ids[: layout.length], np.int32)
        missing, first = layout.length - len(ids), 3
        population = min(self.population, config.vocab_size - first)
        drawn = jax.random.choice(key, population, (missing,), replace=missing > population)
        words = jnp.concatenate([jnp.asarray(ids), drawn.astype(jnp.int32) + first])
        return prefix_of_words(params, config, words[None], layout.places)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class StoredInit:
    """A stored prefix's rows, or the MLPs that were kept beside it."""

    stored: Tree

    @property
    def mlp_shape(self) -> tuple[int, int]:
        """Width of the MLPs' input, and of their hidden layer."""
        return next(iter(self.stored.values()))["first"]["kernel"].shape

    def __call__(self, key: Key[Array, ""], params: Tree, layout: Layout) -> Tree:
        """What is stored."""
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), self.stored)


@dataclasses.dataclass(frozen=True)
class MLPInit:
    """An embedding of P rows and an MLP for each place: Linear, tanh, Linear (§4.3).

    Embeddings are standard normal, weights and biases uniform within 1 / sqrt(inputs), as P-Tuning
    v2's code leaves them by PyTorch's defaults; the papers do not say.

    Attributes:
        hidden: the hidden layer; 512 for table-to-text and 800 for summarisation in the paper.
        width: of the embedding; None for the backbone's, as in both papers' code.
    """

    hidden: int = 512
    width: int | None = None

    def __call__(self, key: Key[Array, ""], params: Tree, layout: Layout) -> Tree:
        """{place: {"embedding", "first": {"kernel", "bias"}, "second": {"kernel", "bias"}}}.

        Biases are [1, m], so that an optimizer that tells matrices from vectors treats them alike
        however many prefixes are tuned in one program.
        """
        width = self.width or layout.config.emb_dim
        tree = {}
        for i, place in enumerate(layout.places):
            keys = jax.random.split(jax.random.fold_in(key, i), 3)
            out = 2 * layers_of(layout.config, place) * layout.shape[1]
            tree[place] = {
                "embedding": jax.random.normal(keys[0], (layout.length, width)),
                "first": _linear(keys[1], width, self.hidden),
                "second": _linear(keys[2], self.hidden, out),
            }
        return tree


def _linear(key: Key[Array, ""], inputs: int, outputs: int) -> dict[str, Array]:
    bound = inputs**-0.5
    drawn = jax.random.uniform(key, (inputs + 1, outputs), jnp.float32, -bound, bound)
    return {"kernel": drawn[:-1], "bias": drawn[-1:]}


def folded(one: Tree, layout: Layout) -> Float[Array, "r f"]:
    """One prefix's rows: itself where it is rows, else the output of its MLPs."""
    if not isinstance(one, Mapping):
        return one
    parts = []
    for place in layout.places:
        mlp = one[place]
        x = jnp.tanh(_affine(mlp["embedding"], mlp["first"]))
        x = _affine(x, mlp["second"])
        # [P, layers * 2 * f] to rows: layer, keys or values, position.
        x = x.reshape(layout.length, -1, layout.shape[1])
        parts.append(jnp.moveaxis(x, 0, 1).reshape(-1, layout.shape[1]))
    return jnp.concatenate(parts)


def _affine(x: Float[Array, "p i"], weights: Mapping[str, Array]) -> Float[Array, "p o"]:
    # What is exported must be what was trained, so in full precision on every device.
    product = jnp.matmul(x, weights["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + weights["bias"]


@dataclasses.dataclass(frozen=True, eq=False)
class PrefixTuning(Defaults):
    """N prefixes of P keys and values in every layer of one frozen T5.

    Attributes:
        config: the backbone's shape, with this run's dropout and dtype.
        length: P; 10 to 100 in the papers.
        places: where they stand: "encoder" and "decoder" for self-attention, "cross" for the
            decoder's attention to the encoder's output, where Li & Liang's code has one too.
        initialisers: one a prefix, N of them, all rows or all MLPs.
        z_loss: weight of the squared log normaliser.
        per_token: average the loss over target tokens instead of summing it as T5X does.
    """

    config: T5Config
    length: int = 20
    places: tuple[str, ...] = ("encoder", "decoder")
    initialisers: Sequence[Initialiser] = (WordsInit(),)
    z_loss: float = 1e-4
    per_token: bool = False

    def __post_init__(self) -> None:
        if self.length < 1:
            raise SpotError(f"a prefix has at least 1 key a layer, not {self.length}")
        if not self.initialisers:
            raise SpotError("prefix-tuning needs an initialiser for each prefix; none was given")
        check_places(self.places)

    @property
    def layout(self) -> Layout:
        """Which rows a prefix has."""
        return Layout(self.config, self.length, tuple(self.places))

    @property
    def num_prompts(self) -> int:
        """N."""
        return len(self.initialisers)

    @property
    def prompt_length(self) -> int:
        """The input holds no virtual tokens."""
        return 0

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """trainable = {"prefix": float32 [n, r, f], or a tree of MLPs}, frozen = the backbone."""
        made = [
            init(key, backbone.params, self.layout)
            for init, key in zip(self.initialisers, keys, strict=True)
        ]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *made)
        rules: list[Any] = [("prefix(/.*)?", "train"), (".*", "freeze")]
        return split({**backbone.params, "prefix": stacked}, rules)

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """See `seq2seq_loss`; its gradient is that of the prefixes alone."""
        rows = jax.vmap(lambda one: folded(one, self.layout))(trainable["prefix"])
        if "row_prompt" in batch:
            rows = rows[batch["row_prompt"]]
        return seq2seq_loss(
            with_prefix(frozen, self.config, rows, self.places),
            self.config,
            batch,
            keys,
            z_loss=self.z_loss,
            per_token=self.per_token,
            num_prompts=self.num_prompts,
        )

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """The frozen backbone with prefix i in it."""
        rows = self.export(trainable, frozen, i)
        return Inference(with_prefix(frozen, self.config, rows[None], self.places))

    def export(self, trainable: Tree, frozen: Tree, i: int) -> Float[Array, "r f"]:
        """Prefix i's rows, any MLP folded away."""
        return folded(_one(trainable, i), self.layout)

    def describe(self) -> dict[str, Any]:
        """P, and the places in the order of the rows."""
        return {"name": NAME, "length": self.length, "places": list(self.places)}

    def beside(
        self, trainable: Tree, frozen: Tree, i: int, file: PromptFile
    ) -> Mapping[str, PromptFile]:
        """The same prefix with the MLPs that it came of, if it came of any."""
        one = _one(trainable, i)
        if not isinstance(one, Mapping):
            return {}
        flat = traverse_util.flatten_dict(dict(one), sep="/")
        tensors = {name: np.asarray(x, np.float32) for name, x in flat.items()}
        return {REPARAMETERISATION: dataclasses.replace(file, tensors=tensors)}


def _one(trainable: Tree, i: int) -> Tree:
    return jax.tree.map(lambda x: x[i], trainable["prefix"])


def layout_of(config: T5Config, file: PromptFile) -> Layout:
    """Which rows a prefix's file has.

    Raises:
        SpotError: not a prefix, or not one of this backbone's shape.
    """
    name, places = str(file.method.get("name", "")), file.method.get("places", ())
    if name != NAME:
        raise SpotError(
            f"expected a prefix, found a prompt of {name or 'unknown kind'}; give a file of "
            "prefix-tuning"
        )
    check_places(places)
    layout = Layout(config, int(file.method.get("length", 0)), tuple(places))
    if file.prompt.shape != layout.shape:
        raise SpotError(
            f"a prefix of shape {list(file.prompt.shape)} cannot go with this backbone, where "
            f"{list(layout.shape)} is expected for length {layout.length} in "
            f"{' and '.join(places)}; load the backbone it was tuned on"
        )
    return layout


def restored_prefix(params: Tree, config: T5Config, file: PromptFile) -> Inference:
    """What predictions with a prefix's file run with; `SpotError` as in `layout_of`."""
    places = layout_of(config, file).places
    return Inference(with_prefix(params, config, jnp.asarray(file.prompt)[None], places))


def prefix_ensemble(
    params: Tree, config: T5Config, files: Sequence[PromptFile], examples: int
) -> Inference:
    """What batches of `examples` rows run with when each row is repeated for every prefix.

    Row j of the batch becomes rows j * N to j * N + N - 1, of which number n has prefix n. Every
    row carries its prefix, so this takes N * examples times a prefix's memory.

    Raises:
        SpotError: as in `layout_of`, or prefixes that are not alike.
    """
    layouts = {layout_of(config, file) for file in files}
    if len(layouts) > 1:
        found = sorted(f"{one.length} in {'+'.join(one.places)}" for one in layouts)
        raise SpotError(
            f"an ensemble needs prefixes of one length and places, found {', '.join(found)}; "
            "leave some out"
        )
    rows = jnp.tile(jnp.stack([jnp.asarray(file.prompt) for file in files]), (examples, 1, 1))
    return Inference(with_prefix(params, config, rows, layouts.pop().places))


def stored_start(config: T5Config, file: PromptFile, *, mlp: bool) -> StoredInit:
    """The beginning that a file offers.

    Args:
        config: the backbone's shape.
        file: a prefix's, or with `mlp` one that was kept beside it.
        mlp: begin with the MLPs instead of the rows.

    Raises:
        SpotError: as in `layout_of`, or the file has no MLPs.
    """
    layout_of(config, file)
    if not mlp:
        return StoredInit(file.prompt)
    if not file.tensors:
        raise SpotError(
            "a prefix without its MLP cannot go on being reparameterised; give the file "
            f"{REPARAMETERISATION}-... that lies beside it, or set PrefixTuning.hidden = None"
        )
    return StoredInit(traverse_util.unflatten_dict(dict(file.tensors), sep="/"))
