"""A run's examples as a frozen encoder's features, each computed once and kept on disk."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int32

from spot_jax.data import loading
from spot_jax.data.batches import Batch, BatchShape
from spot_jax.data.data_source import DataSource
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
from spot_jax.files import as_path
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.features import encoder_features, feature_layers
from spot_jax.t5.int8 import INT8, has_int8
from spot_jax.t5.target import Jitted
from spot_jax.t5.vocabulary import Vocabulary


class T5Features:
    """A T5's encoder as `FeatureStore` takes one.

    Attributes:
        layers: number of vectors a token, l.
        width: width of a vector, d.
    """

    def __init__(self, backbone: Backbone, layers: str = "last"):
        """Take the features of a backbone's "last" layer, or of all of them for a "mix"."""
        config = backbone.config
        self.layers, self.width = feature_layers(config, layers), config.emb_dim
        self._backbone, self._kind = backbone, layers
        self._encode = Jitted(functools.partial(encoder_features, config=config, layers=layers))

    @property
    def mark(self) -> dict[str, str]:
        """Fingerprint, layers, and the arithmetic that rounds."""
        params = self._backbone.params
        kind = params["token_embedder"]["embedding"].dtype
        return {
            "backbone": self._backbone.fingerprint,
            "layers": self._kind,
            "dtype": self._backbone.config.dtype,
            "parameter_dtype": INT8 if has_int8(params) else str(kind),
        }

    def __call__(self, tokens: Int32[np.ndarray, "b t"]) -> Float[np.ndarray, "b t l d"]:
        """Return the features, float32."""
        return np.asarray(self._encode(self._backbone.params, tokens=tokens))


class CachedFeatures:
    """A run's examples as features and label numbers; see `BatchSource`.

    Attributes:
        training: endless batches of all the run's tasks.
    """

    def __init__(
        self,
        store: FeatureStore,
        vocabulary: Vocabulary,
        labels: Mapping[str, Sequence[str]],
        data: DataSource,
        names: Sequence[str],
        seeds: Sequence[int],
        host_rows: slice,
    ):
        """Read the training split of every task, and encode what the cache lacks.

        Args:
            store: cache of the features.
            vocabulary: vocabulary of the backbone.
            labels: labels of each task.
            data: data that is trained on.
            names: task of each run.
            seeds: seed of each run.
            host_rows: rows of a batch that this process needs.
        """
        self.store, self.vocabulary, self.labels = store, vocabulary, labels
        self.length = data.lengths["inputs"]
        self._labelled: dict[tuple[str, str], LabelledFeatures] = {}
        runs = [self._read(name, data) for name in names]
        self.training = FeatureBatches(runs, seeds, data.batch_size, host_rows=host_rows)

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        vocabulary: Vocabulary,
        labels: Mapping[str, Sequence[str]],
        data: DataSource,
        names: Sequence[str],
        seeds: Sequence[int],
        host_rows: slice,
        *,
        cache: str,
        layers: str = "last",
        dtype: str = "float16",
        rebuild: bool = True,
    ) -> "CachedFeatures":
        """Return the features of a backbone's encoder; the other arguments as in the class.

        Args:
            cache: directory of the features.
            layers: "last" or "mix".
            dtype: type of the features.
            rebuild: whether features that are missing or damaged are made.
        """
        directory = as_path(cache)
        store = FeatureStore(directory, T5Features(backbone, layers), dtype, rebuild)
        return cls(store, vocabulary, labels, data, names, seeds, host_rows)

    def _read(self, name: str, data: DataSource) -> LabelledFeatures:
        key = name, f"training on {data.split}"
        if key not in self._labelled:
            source = loading.training_source(
                name,
                self.vocabulary,
                0,
                split=data.split,
                lengths=data.lengths,
                use_cached=data.use_cached_tasks,
            )
            if not isinstance(source, Shuffled) or not isinstance(source.examples, Examples):
                raise SpotError(
                    f"{name} is a mixture or a stream without end, of which no features can be "
                    "kept; give single tasks"
                )
            self._labelled[key] = self._label(name, data.split, source.examples)
        return self._labelled[key]

    def _label(self, name: str, split: str, examples: Examples) -> LabelledFeatures:
        # Labels first: a wrong one shows before the encoder has run for hours.
        labels = label_numbers(examples, self.labels[name], self.vocabulary, f"{name} {split}")
        cut = (np.diff(examples.inputs_offsets) > self.length).astype(np.int32)
        return LabelledFeatures(self.store.of(name, split, examples, self.length), labels, cut)

    def evaluation(
        self, name: str, split: str, examples: Examples, shape: BatchShape, host_rows: slice
    ) -> Iterator[Batch]:
        """Return a split's examples in order; its features are cached too."""
        key = name, split
        if key not in self._labelled:
            self._labelled[key] = self._label(name, split, examples)
        return features_in_order(self._labelled[key], shape.batch_size, host_rows)
