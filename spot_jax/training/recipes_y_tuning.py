"""Y-Tuning as plain data: the label decoder's settings, and where features are kept."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float, Int32

from spot_jax.data import loading
from spot_jax.data.batches import Batch, BatchShape
from spot_jax.data.examples import Examples
from spot_jax.data.feature_batches import (
    FeatureBatches,
    LabelledFeatures,
    features_in_order,
    label_numbers,
)
from spot_jax.data.feature_cache import FeatureStore
from spot_jax.data.sources import Shuffled
from spot_jax.errors import SpotError
from spot_jax.evaluation.scored_task import ScoredTask
from spot_jax.methods.base import Method
from spot_jax.methods.label_decoder import LabelDecoder
from spot_jax.methods.y_tuning import INITS, LabelLoss, LabelVectors, StoredLabels, YTuning
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.features import encoder_features, feature_layers
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.config import DataSource
from spot_jax.training.stored_beginnings import StoredBeginnings


@dataclasses.dataclass(frozen=True)
class YTuningRecipe(StoredBeginnings):
    """Y-Tuning (Liu, An & Qiu 2022); every default but the triplet loss is ours.

    Attributes:
        layers: L, of the label decoder.
        heads: of its attention; they divide the backbone's width.
        mlp_dim: of its feed-forward layers; None for twice the backbone's width.
        per_label: V, vectors a label.
        init: how label vectors begin: "labels" (their tokens), "vocabulary", "uniform", or
            "prompt", a stored file with its decoder.
        prompt: for "prompt": a file, or one for each run.
        labels: the label set; None for the task's own.
        loss: "triplet" or "cross_entropy".
        margin: of "triplet".
        score: "dot" or "cosine".
        scale: factor on the score; None for d ** -0.5 with "dot" and 1 with "cosine".
        reduce: "max" or "mean" over a label's vectors.
        features: "last", the encoder's last layer, or "mix", a learnt mix of all.
        cache: directory of the features.
        cache_dtype: "float16" or "bfloat16".
        rebuild: make features that are missing or damaged; False refuses the run instead.
    """

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
    file_kind: ClassVar[str] = "a file of Y-Tuning"

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method for as many runs as `labels` has entries.

        Raises:
            SpotError: a task without a label set or with one label, labels of different number,
                no vocabulary, or a setting that there is not.
        """
        if self.init not in INITS:
            raise SpotError(f"expected label vectors from {', '.join(INITS)}; found {self.init!r}")
        sets = [self._label_set(own) for own in labels]
        words = _needed(vocabulary)
        width = backbone.config.emb_dim
        decoder = LabelDecoder(
            width,
            len(sets[0]),
            self.per_label,
            self.layers,
            self.heads,
            self.mlp_dim or 2 * width,
            feature_layers(backbone.config, self.features),
            self.score,
            self.scale,
            self.reduce,
        )
        files = self.sources(backbone, len(sets))
        inits: list[LabelVectors | StoredLabels]
        if files is None:
            pieces = [tuple(tuple(words.encode(label)) for label in own) for own in sets]
            inits = [LabelVectors(own, self.per_label, self.init) for own in pieces]
        else:
            inits = [StoredLabels(file) for _, file in files]
        return YTuning(
            backbone.config,
            decoder,
            tuple(inits),
            tuple(sets),
            LabelLoss(self.loss, self.margin),
            self.features,
            self.cache_dtype,
        )

    def _label_set(self, own: Sequence[str] | None) -> tuple[str, ...]:
        labels = tuple(self.labels or own or ())
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

    def batches(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        method: Method,
        data: DataSource,
        names: Sequence[str],
        seeds: Sequence[int],
        host_rows: slice,
    ) -> "CachedFeatures":
        """Batches of cached features; the caches are made here, the training split's first."""
        assert isinstance(method, YTuning)
        if data.pack:
            raise SpotError("features of single texts are not packed; set PACK = False")
        store = FeatureStore(
            Path(self.cache).expanduser(),
            T5Features(backbone, self.features),
            self.cache_dtype,
            self.rebuild,
        )
        return CachedFeatures(store, _needed(vocabulary), method, data, names, seeds, host_rows)


class CachedFeatures:
    """A run's examples as features and label numbers; see `OwnBatches`."""

    def __init__(
        self,
        store: FeatureStore,
        vocabulary: Vocabulary,
        method: YTuning,
        data: DataSource,
        names: Sequence[str],
        seeds: Sequence[int],
        host_rows: slice,
    ):
        self.store, self.vocabulary = store, vocabulary
        self.length = data.task_feature_lengths["inputs"]
        self.labels = dict(zip(names, method.labels, strict=True))
        self._held: dict[tuple[str, str], LabelledFeatures] = {}
        runs = [self._read(name, data) for name in names]
        self.training = FeatureBatches(runs, seeds, data.batch_size, host_rows=host_rows)

    def _read(self, name: str, data: DataSource) -> LabelledFeatures:
        key = name, f"training on {data.split}"
        if key not in self._held:
            source = loading.training_source(
                name,
                self.vocabulary,
                0,
                split=data.split,
                lengths=data.task_feature_lengths,
                use_cached=data.use_cached_tasks,
            )
            if not isinstance(source, Shuffled):
                raise SpotError(
                    f"{name} is a mixture or a stream without end, of which no features can be "
                    "kept; give single tasks"
                )
            self._held[key] = self._labelled(name, data.split, source.examples)
        return self._held[key]

    def _labelled(self, name: str, split: str, examples: Examples) -> LabelledFeatures:
        # Labels first: a wrong one is found before the encoder has run for hours.
        labels = label_numbers(examples, self.labels[name], self.vocabulary, f"{name} {split}")
        cut = (np.diff(examples.inputs_offsets) > self.length).astype(np.int32)
        return LabelledFeatures(self.store.of(name, split, examples, self.length), labels, cut)

    def evaluation(self, task: ScoredTask, shape: BatchShape, host_rows: slice) -> Iterator[Batch]:
        """A split's examples in order; its features are cached too."""
        key = task.name, task.split
        if key not in self._held:
            self._held[key] = self._labelled(task.name, task.split, task.examples)
        return features_in_order(self._held[key], shape.batch_size, host_rows)


class T5Features:
    """A T5's encoder as `FeatureStore` takes one.

    Attributes:
        layers: l, vectors a token.
        width: d.
    """

    def __init__(self, backbone: Backbone, layers: str = "last"):
        """Features of a backbone's "last" layer or of all, for a "mix"."""
        config = backbone.config
        self.layers, self.width = feature_layers(config, layers), config.emb_dim
        self._backbone, self._kind = backbone, layers
        self._encode = jax.jit(functools.partial(encoder_features, config=config, layers=layers))

    @property
    def mark(self) -> dict[str, str]:
        """Fingerprint, layers, and the arithmetic that rounds."""
        embedding = self._backbone.params["token_embedder"]["embedding"]
        return {
            "backbone": self._backbone.fingerprint,
            "layers": self._kind,
            "dtype": self._backbone.config.dtype,
            "parameter_dtype": str(embedding.dtype),
        }

    def __call__(self, tokens: Int32[np.ndarray, "b t"]) -> Float[np.ndarray, "b t l d"]:
        """float32."""
        return np.asarray(self._encode(self._backbone.params, tokens=tokens))


def _needed(vocabulary: Vocabulary | None) -> Vocabulary:
    if vocabulary is None:
        raise SpotError(
            "Y-Tuning reads its labels with the backbone's vocabulary, which it lacks; convert the "
            "backbone with one"
        )
    return vocabulary
