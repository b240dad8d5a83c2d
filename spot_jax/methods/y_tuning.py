"""Y-Tuning (Liu, An & Qiu 2022): label vectors are tuned and read the text's fixed features.

The text's encoder is frozen and not even part of training: its features are an input, computed
once a text. What is trained is the label vectors and a small decoder over them, so a step costs as
much as the labels do, whatever the encoder's size. It chooses among a fixed set of labels.

The paper itself was not at hand; docs/y_tuning.md says what is known of it and what we chose.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from spot_jax.errors import SpotError
from spot_jax.methods.base import Batch, Defaults, Inference, Metrics, Tree
from spot_jax.methods.label_decoder import LabelDecoder, cross_entropies, triplet_losses
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone, flatten, unflatten
from spot_jax.t5.config import T5Config
from spot_jax.t5.features import encoder_features, feature_layers

NOISE = 0.1
INITS = ("labels", "vocabulary", "uniform", "prompt")


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """What a label's scores are trained by.

    Attributes:
        kind: "triplet" or "cross_entropy".
        margin: of "triplet".
    """

    kind: str = "triplet"
    margin: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("triplet", "cross_entropy"):
            raise SpotError(f"expected the loss 'triplet' or 'cross_entropy', found {self.kind!r}")

    def __call__(self, scores: Float[Array, "b c"], gold: Int[Array, " b"]) -> Float[Array, " b"]:
        """Each row's loss."""
        if self.kind == "triplet":
            return triplet_losses(scores, gold, self.margin)
        return cross_entropies(scores, gold)


@dataclasses.dataclass(frozen=True)
class LabelVectors:
    """How label vectors begin; every row is then scaled to a root mean square of 1.

    Attributes:
        labels: each label's piece ids.
        per_label: vectors a label.
        kind: "labels": the mean of a label's pieces, all but its first vector with a little noise
            to tell them apart, the task's vector a sampled token. "vocabulary": all sampled
            among the first 5,000 tokens. "uniform": all uniform in [-1, 1] before they are scaled.
    """

    labels: tuple[tuple[int, ...], ...]
    per_label: int = 1
    kind: str = "labels"

    def __post_init__(self) -> None:
        if self.kind not in INITS:
            raise SpotError(f"expected label vectors from {', '.join(INITS)}; found {self.kind!r}")
        for number, ids in enumerate(self.labels):
            if self.kind == "labels" and not ids:
                raise SpotError(f"label {number} has no pieces: it is empty text; give it words")

    def __call__(self, key: Key[Array, ""], embedding: Float[Array, "v d"]) -> Array:
        """float32 [1 + C V, d]: the task's vector and each label's in turn."""
        width, rows = embedding.shape[1], 1 + len(self.labels) * self.per_label
        draw, disturb = jax.random.split(key)
        if self.kind == "uniform":
            return _scaled(jax.random.uniform(draw, (rows, width), jnp.float32, -1.0, 1.0))
        population = min(5000, embedding.shape[0])
        count = 1 if self.kind == "labels" else rows
        ids = jax.random.choice(draw, population, (count,), replace=count > population)
        drawn = _scaled(embedding[ids].astype(jnp.float32))
        if self.kind == "vocabulary":
            return drawn
        means = [embedding[np.asarray(ids)].astype(jnp.float32).mean(axis=0) for ids in self.labels]
        first = _scaled(jnp.stack(means))
        noise = NOISE * jax.random.normal(disturb, (len(means), self.per_label, width))
        each = first[:, None] + noise.at[:, 0].set(0.0)
        return jnp.concatenate([drawn, _scaled(each.reshape(-1, width))])


def _scaled(rows: Float[Array, "r d"]) -> Float[Array, "r d"]:
    return rows * jax.lax.rsqrt(jnp.mean(jnp.square(rows), axis=1, keepdims=True) + 1e-12)


@dataclasses.dataclass(frozen=True)
class StoredLabels:
    """Begins from a stored file: its label vectors and its decoder."""

    file: PromptFile

    def weights(self, decoder: LabelDecoder) -> Tree:
        """The weights, checked against the decoder's shape."""
        if self.file.method.get("name") != "YTuning":
            found = self.file.method.get("name") or "unknown"
            raise SpotError(f"Y-Tuning begins from a file of its own, found one of {found}")
        like = jax.eval_shape(decoder.init, jax.random.key(0), _rows_like(decoder))
        expected = {name: leaf.shape for name, leaf in flatten(like)}
        weights = _weights(self.file)
        found = {name: leaf.shape for name, leaf in flatten(weights)}
        if found != expected:
            odd = min(n for n in found | expected if found.get(n) != expected.get(n))
            raise SpotError(
                f"the label decoder to begin from has {odd} of shape {found.get(odd)} where "
                f"{expected.get(odd)} is expected; use its own settings and as many labels"
            )
        return weights


@dataclasses.dataclass(frozen=True)
class LabelScorer:
    """The decoder in use; `Scorer` says what is asked of it.

    Its parameters are {"decoder": weights, "backbone": the T5}; the T5 is not needed where batches
    bring `features` and `feature_lengths`.

    Attributes:
        labels: in the order of the scores.
        decoder: its shape.
        loss: what it was trained by.
        layers: "last" or "mix", of the features.
        dtype: what features are rounded to, as a cache does.
    """

    labels: tuple[str, ...]
    decoder: LabelDecoder
    loss: LabelLoss
    layers: str
    dtype: str

    def __call__(self, params: Tree, config: T5Config, batch: Batch) -> Float[Array, "b c"]:
        """Every label's score for each row."""
        if "features" in batch:
            features, lengths = batch["features"], batch["feature_lengths"]
            mask = jnp.arange(features.shape[1])[None] < lengths[:, None]
        else:
            tokens = batch["encoder_input_tokens"]
            found = encoder_features(params["backbone"], config, tokens, self.layers)
            features, mask = found.astype(self.dtype), tokens > 0
        return self.decoder.scores(params["decoder"], features, mask)

    def losses(self, scores: Float[Array, "b c"], gold: Int[Array, " b"]) -> Float[Array, " b"]:
        """Each row's loss."""
        return self.loss(scores, gold)


@dataclasses.dataclass(frozen=True, eq=False)
class YTuning(Defaults):
    """N label decoders over the features of one frozen encoder.

    Every leaf of `trainable` has a leading axis N and nothing is frozen in training: the encoder
    is not there. A batch has `features` [N * B, t, l, d], `feature_lengths` and `label` [N * B],
    the rows of run 0 first.

    Attributes:
        config: the backbone's shape; its dropout rate is the decoder's.
        decoder: the shape of each decoder.
        inits: how each run begins.
        labels: each run's labels, equally many.
        loss: what is minimised, a mean over rows.
        layers: "last" or "mix", of the features.
        dtype: of the features.
    """

    config: T5Config
    decoder: LabelDecoder
    inits: Sequence[LabelVectors | StoredLabels]
    labels: Sequence[tuple[str, ...]]
    loss_of: LabelLoss = LabelLoss()
    layers: str = "last"
    dtype: str = "float16"

    def __post_init__(self) -> None:
        for labels in self.labels:
            if len(labels) != self.decoder.classes:
                raise SpotError(
                    f"runs of one program have as many labels, found {self.decoder.classes} and "
                    f"{len(labels)}; give tasks with other numbers of labels a program of their own"
                )

    @property
    def num_prompts(self) -> int:
        """N."""
        return len(self.inits)

    @property
    def prompt_length(self) -> int:
        """There are no virtual tokens."""
        return 0

    def init(self, keys: Key[Array, " n"], backbone: Backbone) -> tuple[Tree, Tree]:
        """trainable = {"labels": [n, r, d], "layer_0": ..., "norm": ...}; frozen = {}."""
        embedding = backbone.params["token_embedder"]["embedding"]

        @jax.jit
        def drawn(embedding: Array, keys: Array) -> list[Tree]:
            return [self._begun(*pair, embedding) for pair in zip(self.inits, keys, strict=True)]

        return jax.tree.map(lambda *x: jnp.stack(x), *drawn(embedding, keys)), {}

    def _begun(
        self, init: LabelVectors | StoredLabels, key: Key[Array, ""], embedding: Array
    ) -> Tree:
        if isinstance(init, StoredLabels):
            return init.weights(self.decoder)
        vectors = init(jax.random.fold_in(key, 0), embedding)
        return self.decoder.init(jax.random.fold_in(key, 1), vectors)

    def loss(
        self, trainable: Tree, frozen: Tree, batch: Batch, keys: Key[Array, " n"] | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The sum of the runs' losses, each the mean over its rows.

        Metrics have an axis of N: `loss`, `accuracy` (share of rows whose best label is right) and
        `tokens` (rows, each of which has one answer).
        """
        count, length = self.num_prompts, batch["features"].shape[1]
        rows = {name: x.reshape(count, -1, *x.shape[1:]) for name, x in batch.items()}
        drop = jnp.zeros(count) if keys is None else keys

        def one(weights: Tree, row: Batch, key: Array) -> tuple[Array, Array]:
            mask = jnp.arange(length)[None] < row["feature_lengths"][:, None]
            own, rate = (None, 0.0) if keys is None else (key, self.config.dropout_rate)
            scores = self.decoder.scores(weights, row["features"], mask, own, rate)
            right = jnp.argmax(scores, axis=1) == row["label"]
            return self.loss_of(scores, row["label"]).mean(), right.mean(dtype=jnp.float32)

        losses, accuracies = jax.vmap(one)(trainable, rows, drop)
        tokens = jnp.full(count, rows["label"].shape[1], jnp.float32)
        return losses.sum(), {"loss": losses, "accuracy": accuracies, "tokens": tokens}

    def scorer(self, i: int) -> LabelScorer:
        """Run i's decoder in use."""
        return LabelScorer(self.labels[i], self.decoder, self.loss_of, self.layers, self.dtype)

    def inference(self, trainable: Tree, frozen: Tree, i: int) -> Inference:
        """Run i's decoder without a backbone: it scores batches that bring features."""
        weights = jax.tree.map(lambda x: x[i], trainable)
        return Inference({"decoder": weights, "backbone": frozen}, None, self.scorer(i))

    def export(self, trainable: Tree, frozen: Tree, i: int) -> Float[Array, "r d"]:
        """Run i's label vectors, the task's first."""
        return trainable["labels"][i]

    def tensors(self, trainable: Tree, frozen: Tree, i: int) -> Mapping[str, Array]:
        """The decoder's other weights, as `decoder/layer_0/self_query`."""
        rest = {name: leaf for name, leaf in trainable.items() if name != "labels"}
        return {f"decoder/{name}": leaf[i] for name, leaf in flatten(rest)}

    def describe(self) -> dict[str, Any]:
        """The decoder's shape, its loss and what features it reads."""
        return {
            **super().describe(),
            "decoder": dataclasses.asdict(self.decoder),
            "loss": dataclasses.asdict(self.loss_of),
            "layers": self.layers,
            "dtype": self.dtype,
        }

    def describe_own(self, i: int) -> dict[str, Any]:
        """Run i's labels."""
        return {"labels": list(self.labels[i])}


def restore(params: Tree, config: T5Config, file: PromptFile) -> Inference:
    """What predictions with a stored decoder run with: the backbone encodes, the decoder scores.

    Raises:
        SpotError: features of another width or number of layers than the backbone's.
    """
    about: Any = file.method
    try:
        decoder, loss = LabelDecoder(**about["decoder"]), LabelLoss(**about["loss"])
        scorer = LabelScorer(tuple(about["labels"]), decoder, loss, about["layers"], about["dtype"])
    except (KeyError, TypeError) as error:
        raise SpotError(f"its Y-Tuning settings are damaged ({error}); tune it again") from error
    found = (config.emb_dim, feature_layers(config, scorer.layers))
    if found != (decoder.width, decoder.mixed):
        raise SpotError(
            f"a label decoder for features of width {decoder.width} and {decoder.mixed} layers "
            f"cannot go with this backbone's of {found[0]} and {found[1]}; load the backbone it "
            "was tuned on"
        )
    weights = jax.tree.map(jnp.asarray, StoredLabels(file).weights(decoder))
    return Inference({"decoder": weights, "backbone": params}, None, scorer)


def _weights(file: PromptFile) -> Tree:
    prefix = "decoder/"
    rest = {n.removeprefix(prefix): x for n, x in file.tensors.items() if n.startswith(prefix)}
    return unflatten({**rest, "labels": file.prompt})


def _rows_like(decoder: LabelDecoder) -> Array:
    return cast(Array, jax.ShapeDtypeStruct((decoder.rows, decoder.width), jnp.float32))
