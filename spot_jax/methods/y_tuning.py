"""Y-Tuning (Liu, An & Qiu 2022): label vectors are tuned and read the text's fixed features.

The text's encoder is frozen and not even part of training: its features are an input, computed
once a text. What is trained is the label vectors and a small decoder over them, so a step costs as
much as the labels do, whatever the encoder's size. It chooses among a fixed set of labels.

The paper itself was not at hand; docs/y_tuning.md says what is known of it and what we chose.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from spot_jax.data.cached_features import CachedFeatures
from spot_jax.data.data_source import DataSource
from spot_jax.errors import (
    POSITIVE,
    Range,
    SpotError,
    check_choice,
    check_fields,
    short,
    whole,
)
from spot_jax.methods.base import BaseMethod, Inference, Task
from spot_jax.methods.label_decoder import LabelDecoder, cross_entropies, triplet_losses
from spot_jax.methods.losses import Batch, Metrics, Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone, flatten, unflatten
from spot_jax.t5.config import T5Config
from spot_jax.t5.features import LAYERS, encoder_features, feature_layers

NOISE = 0.1
POPULATION = 5000
INITS = ("labels", "vocabulary", "uniform", "prompt")
LOSSES = ("triplet", "cross_entropy")


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """What a label's scores are trained by.

    Attributes:
        kind: "triplet" or "cross_entropy".
        margin: margin of "triplet".
    """

    kind: str = "triplet"
    margin: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in LOSSES:
            raise SpotError(f"expected the loss 'triplet' or 'cross_entropy', found {self.kind!r}")

    def __call__(self, scores: Float[Array, "b c"], gold: Int[Array, " b"]) -> Float[Array, " b"]:
        """Compute each row's loss."""
        if self.kind == "triplet":
            return triplet_losses(scores, gold, self.margin)
        return cross_entropies(scores, gold)


@dataclasses.dataclass(frozen=True)
class LabelScorer:
    """The decoder in use; `Scorer` says what is asked of it.

    Its parameters are {"decoder": weights, "backbone": the T5}; the T5 is not needed where batches
    bring `features` and `feature_lengths`.

    Attributes:
        labels: labels in the order of the scores.
        decoder: shape of the decoder.
        loss: loss that it was trained by.
        layers: "last" or "mix", layers of the features.
        dtype: type that features are rounded to, as a cache does.
    """

    labels: tuple[str, ...]
    decoder: LabelDecoder
    loss: LabelLoss
    layers: str
    dtype: str

    def __call__(self, params: Tree, config: T5Config, batch: Batch) -> Float[Array, "b c"]:
        """Compute every label's score for each row."""
        if "features" in batch:
            features, lengths = batch["features"], batch["feature_lengths"]
            mask = jnp.arange(features.shape[1])[None] < lengths[:, None]
        else:
            tokens = batch["encoder_input_tokens"]
            encoded = encoder_features(params["backbone"], config, tokens, self.layers)
            features, mask = encoded.astype(self.dtype), tokens > 0
        return self.decoder.scores(params["decoder"], features, mask)

    def losses(self, scores: Float[Array, "b c"], gold: Int[Array, " b"]) -> Float[Array, " b"]:
        """Compute each row's loss."""
        return self.loss(scores, gold)


@dataclasses.dataclass(frozen=True)
class YTuning(BaseMethod):
    """A label decoder over the features of a frozen encoder; every default but the loss is ours.

    A batch of N runs has `features` [N * B, t, l, d], `feature_lengths` and `label` [N * B], the
    rows of run 0 first. Nothing is frozen in training: the encoder is not there.

    Attributes:
        layers: number of layers of the label decoder, L.
        heads: number of heads of its attention; they divide the backbone's width.
        mlp_dim: width of its feed-forward layers; None for twice the backbone's width.
        per_label: number of vectors a label, V.
        init: initialisation of label vectors, each then scaled to a root mean square of 1.
            "labels": the mean of a label's pieces, all but its first vector with a little noise to
            tell them apart, the task's vector a sampled token. "vocabulary": all sampled among the
            first 5,000 tokens. "uniform": all uniform. "prompt": a stored file with its decoder.
        prompt: path of the file that "prompt" begins from, or one for each run.
        labels: label set; None for the task's own.
        loss: "triplet" or "cross_entropy".
        margin: margin of "triplet".
        score: "dot" or "cosine", between the task's vector and a label's.
        scale: factor on the score; None for d ** -0.5 with "dot" and 1 with "cosine".
        reduce: "max" or "mean" over a label's vectors.
        features: "last", the encoder's last layer, or "mix", a learnt mix of all.
        cache: directory of the features.
        cache_dtype: type of the features, "float16" or "bfloat16".
        rebuild: whether features that are missing or damaged are made; False refuses the run.
    """

    source_kind: ClassVar[str] = "a file of Y-Tuning"

    layers: int = 1
    heads: int = 4
    mlp_dim: int | None = None
    per_label: int = 1
    init: str = "labels"
    prompt: str | Sequence[str] | None = None
    labels: Sequence[str] | None = None
    loss: str = "triplet"
    margin: float = 1.0
    score: str = "dot"
    scale: float | None = None
    reduce: str = "max"
    features: str = "last"
    cache: str = dataclasses.field(default="features", metadata={"place": True})
    cache_dtype: str = "float16"
    rebuild: bool = dataclasses.field(default=True, metadata={"place": True})

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise SpotError(f"expected label vectors from {', '.join(INITS)}; found {self.init!r}")
        LabelLoss(self.loss, self.margin)
        if self.labels is not None and len(set(self.labels)) < 2:
            raise SpotError(
                f"YTuning.labels is {short(self.labels)}; give two labels or more, or None for the "
                "task's own"
            )
        sizes = whole(1, 10_000)
        check_fields(self, layers=sizes, heads=sizes, per_label=sizes, mlp_dim=whole(1, 10**6))
        check_fields(self, margin=Range(0, 1e6), scale=POSITIVE)
        check_choice("YTuning.score", self.score, ("dot", "cosine"))
        check_choice("YTuning.reduce", self.reduce, ("max", "mean"))
        check_choice("YTuning.features", self.features, LAYERS)
        if not self.cache.strip() or "\0" in self.cache:
            raise SpotError(f"YTuning.cache is {self.cache!r}; give the directory of the features")

    @property
    def label_loss(self) -> LabelLoss:
        """Loss of a label's scores."""
        return LabelLoss(self.loss, self.margin)

    def labels_of(self, task: Task) -> tuple[str, ...]:
        """Return the labels to choose among; `SpotError` for a task with fewer than two."""
        labels = tuple(self.labels or task.labels)
        if not labels:
            raise SpotError(
                "Y-Tuning chooses among a task's labels, and this task has none: it writes text "
                "or is a mixture; give the labels as YTuning.labels, or tune a prompt"
            )
        if len(set(labels)) < 2:
            raise SpotError(
                f"expected at least two different labels to choose among, found "
                f"{', '.join(map(repr, labels))}; give the task's whole label set"
            )
        return labels

    def decoder(self, config: T5Config, task: Task) -> LabelDecoder:
        """Return the shape of a task's decoder."""
        return LabelDecoder(
            config.emb_dim,
            len(self.labels_of(task)),
            self.per_label,
            self.layers,
            self.heads,
            self.mlp_dim or 2 * config.emb_dim,
            feature_layers(config, self.features),
            self.score,
            self.scale,
            self.reduce,
        )

    def scorer(self, config: T5Config, task: Task) -> LabelScorer:
        """Return a task's decoder in use."""
        labels, decoder = self.labels_of(task), self.decoder(config, task)
        return LabelScorer(labels, decoder, self.label_loss, self.features, self.cache_dtype)

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Return the settings.

        Raises:
            SpotError: a task without a label set or with one label, labels of different number,
                no vocabulary, a setting that there is not, or a stored decoder of another shape.
        """
        decoders = [self.decoder(backbone.config, task) for task in tasks]
        for decoder, task in zip(decoders, tasks, strict=True):
            if decoder.classes != decoders[0].classes:
                raise SpotError(
                    f"runs of one program have as many labels, found {decoders[0].classes} and "
                    f"{decoder.classes}; give tasks with other numbers of labels a program of "
                    "their own"
                )
            if task.vocabulary is None:
                raise SpotError(
                    "Y-Tuning reads its labels with the backbone's vocabulary, which it lacks; "
                    "convert the backbone with one"
                )
            if task.source is not None:
                decoder_weights(task.source.file, decoder)
        return self

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return {"labels": [r, d], "layer_0": ..., "norm": ...}."""
        decoder = self.decoder(backbone.config, task)
        if task.source is not None:
            return jax.tree.map(jnp.asarray, decoder_weights(task.source.file, decoder))
        pieces = [task.pieces(label, self.init) for label in self.labels_of(task)]

        @jax.jit
        def draw(embedding: Array, key: Array) -> Tree:
            vectors = label_vectors(
                jax.random.fold_in(key, 0), embedding, pieces, self.per_label, self.init
            )
            return decoder.init(jax.random.fold_in(key, 1), vectors)

        return draw(backbone.params["token_embedder"]["embedding"], key)

    def freeze(self, backbone: Backbone, tasks: Sequence[Task]) -> dict[str, Tree]:
        """Return nothing: features are in the batches."""
        return {}

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
        """Return the sum of the runs' losses, each the mean over its rows.

        Metrics have an axis of N: `loss`, `accuracy` (share of rows whose best label is right) and
        `tokens` (rows, each of which has one answer).
        """
        count, length = len(tasks), batch["features"].shape[1]
        decoder, label_loss = self.decoder(config, tasks[0]), self.label_loss
        rows = {name: x.reshape(count, -1, *x.shape[1:]) for name, x in batch.items()}
        spare = jnp.zeros(count) if keys is None else keys

        def of_run(weights: Tree, row: Batch, key: Array) -> tuple[Array, Array]:
            mask = jnp.arange(length)[None] < row["feature_lengths"][:, None]
            drop, rate = (None, 0.0) if keys is None else (key, config.dropout_rate)
            scores = decoder.scores(weights, row["features"], mask, drop, rate)
            right = jnp.argmax(scores, axis=1) == row["label"]
            return label_loss(scores, row["label"]).mean(), right.mean(dtype=jnp.float32)

        losses, accuracies = jax.vmap(of_run)(trainable, rows, spare)
        tokens = jnp.full(count, rows["label"].shape[1], jnp.float32)
        return losses.sum(), {"loss": losses, "accuracy": accuracies, "tokens": tokens}

    def infer(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> Inference:
        """Return run i's decoder without a backbone: it scores batches that bring features."""
        weights = {"decoder": self.part_of(trainable, i), "backbone": frozen}
        return Inference(weights, None, self.scorer(config, tasks[i]))

    def store(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> tuple[None, Mapping[str, Array]]:
        """Return run i's `labels`, the task's vector first, and other weights as `decoder/...`."""
        weights = dict(self.part_of(trainable, i))
        labels = weights.pop("labels")
        rest = {f"decoder/{name}": leaf for name, leaf in flatten(weights)}
        return None, {"labels": labels, **rest}

    def describe(self, *, config: T5Config, tasks: Sequence[Task], i: int) -> dict[str, Any]:
        """Return the decoder's shape, its loss, its labels, and what features it reads."""
        return {
            "name": type(self).__name__,
            "decoder": dataclasses.asdict(self.decoder(config, tasks[i])),
            "loss": dataclasses.asdict(self.label_loss),
            "layers": self.features,
            "dtype": self.cache_dtype,
            "labels": list(self.labels_of(tasks[i])),
        }

    def batch_source(
        self,
        backbone: Backbone,
        tasks: Sequence[Task],
        data: DataSource,
        seeds: Sequence[int],
        host_rows: slice,
    ) -> CachedFeatures:
        """Return batches of cached features; the caches are made here, first of training."""
        if data.pack:
            raise SpotError("features of single texts are not packed; set PACK = False")
        vocabulary = tasks[0].vocabulary
        assert vocabulary is not None, "resolve has refused a backbone without"
        return CachedFeatures.of(
            backbone,
            vocabulary,
            {task.name: self.labels_of(task) for task in tasks},
            data,
            [task.name for task in tasks],
            seeds,
            host_rows,
            cache=self.cache,
            layers=self.features,
            dtype=self.cache_dtype,
            rebuild=self.rebuild,
        )

    @classmethod
    def read(cls, file: PromptFile, params: Tree, config: T5Config) -> Inference:
        """Return a stored decoder in use: the backbone encodes, the decoder scores.

        Raises:
            SpotError: features of another width or number of layers than the backbone's.
        """
        about: Any = file.method
        try:
            decoder, loss = LabelDecoder(**about["decoder"]), LabelLoss(**about["loss"])
            labels = tuple(about["labels"])
            scorer = LabelScorer(labels, decoder, loss, about["layers"], about["dtype"])
        except (KeyError, TypeError) as error:
            raise SpotError(
                f"its Y-Tuning settings are damaged ({error}); tune it again"
            ) from error
        features = (config.emb_dim, feature_layers(config, scorer.layers))
        if features != (decoder.width, decoder.mixed):
            raise SpotError(
                f"a label decoder for features of width {decoder.width} and {decoder.mixed} layers "
                f"cannot go with this backbone's of {features[0]} and {features[1]}; load the "
                "backbone it was tuned on"
            )
        weights = jax.tree.map(jnp.asarray, decoder_weights(file, decoder))
        return Inference({"decoder": weights, "backbone": params}, None, scorer)


def label_vectors(
    key: Key[Array, ""],
    embedding: Float[Array, "v d"],
    labels: Sequence[Sequence[int]],
    per_label: int = 1,
    init: str = "labels",
) -> Float[Array, "r d"]:
    """Draw the task's vector and each label's in turn, r = 1 + C V; see `YTuning.init`.

    Args:
        key: random key.
        embedding: table of the backbone.
        labels: piece ids of each label.
        per_label: number of vectors a label, V.
        init: "labels", "vocabulary" or "uniform".

    Raises:
        SpotError: "labels" and a label without pieces.
    """
    for number, ids in enumerate(labels):
        if init == "labels" and not ids:
            raise SpotError(f"label {number} has no pieces: it is empty text; give it words")
    width, rows = embedding.shape[1], 1 + len(labels) * per_label
    draw, disturb = jax.random.split(key)
    if init == "uniform":
        return _scaled(jax.random.uniform(draw, (rows, width), jnp.float32, -1.0, 1.0))
    population = min(POPULATION, embedding.shape[0])
    count = 1 if init == "labels" else rows
    pieces = jax.random.choice(draw, population, (count,), replace=count > population)
    drawn = _scaled(embedding[pieces].astype(jnp.float32))
    if init == "vocabulary":
        return drawn
    means = [embedding[np.asarray(ids)].astype(jnp.float32).mean(axis=0) for ids in labels]
    first = _scaled(jnp.stack(means))
    noise = NOISE * jax.random.normal(disturb, (len(means), per_label, width))
    each = first[:, None] + noise.at[:, 0].set(0.0)
    return jnp.concatenate([drawn, _scaled(each.reshape(-1, width))])


def _scaled(rows: Float[Array, "r d"]) -> Float[Array, "r d"]:
    return rows * jax.lax.rsqrt(jnp.mean(jnp.square(rows), axis=1, keepdims=True) + 1e-12)


def decoder_weights(file: PromptFile, decoder: LabelDecoder) -> Tree:
    """Return a file's label vectors and decoder; `SpotError` for another decoder's shape."""
    name = file.method.get("name")
    if name != YTuning.__name__:
        raise SpotError(f"Y-Tuning begins from a file of its own, found one of {name or 'unknown'}")
    weights = unflatten({n.removeprefix("decoder/"): x for n, x in file.tensors.items()})
    shapes = {n: leaf.shape for n, leaf in flatten(weights)}
    expected = _decoder_shapes(decoder)
    if shapes != expected:
        odd = min(n for n in shapes | expected if expected.get(n) != shapes.get(n))
        raise SpotError(
            f"the label decoder to begin from has {odd} of shape {shapes.get(odd)} where "
            f"{expected.get(odd)} is expected; use its own settings and as many labels"
        )
    return weights


@functools.lru_cache
def _decoder_shapes(decoder: LabelDecoder) -> dict[str, tuple[int, ...]]:
    rows = cast(Array, jax.ShapeDtypeStruct((decoder.rows, decoder.width), jnp.float32))
    like = jax.eval_shape(decoder.init, jax.random.key(0), rows)
    return {name: leaf.shape for name, leaf in flatten(like)}
