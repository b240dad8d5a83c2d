"""What a run is given besides its method and data, as plain data: a backbone, an evaluation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from spot_jax.data.data_source import ROWS
from spot_jax.data.word_vectors import load_word_vectors
from spot_jax.errors import (
    COUNT,
    SEED,
    Range,
    SpotError,
    check_choice,
    check_fields,
    check_range,
    whole,
)
from spot_jax.evaluation.scored_task import DECODINGS
from spot_jax.files import input_path
from spot_jax.methods.losses import Tree
from spot_jax.t5.backbone import Backbone, fingerprint, load_backbone
from spot_jax.t5.config import LIGHT, T5Config, check_shape, parameter_shapes
from spot_jax.t5.int8 import INT8, scale_shapes
from spot_jax.t5.model import init_params, stack_layers
from spot_jax.t5.stored import Description, read_description
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.sharding import parameter_sharding, place, tree_shardings

DTYPES = ("float32", "bfloat16")
WEIGHT_DTYPES = (*DTYPES, INT8)
DROPOUT = Range(0, 1, "high")


@dataclasses.dataclass(frozen=True)
class SuitedBackbone:
    """How a backbone runs; see the fields of `StoredBackbone`."""

    dtype: str
    dropout_rate: float
    scan_layers: bool
    remat: bool | str

    def of(self, config: T5Config) -> T5Config:
        """Return the shape of a T5 with these settings."""
        return dataclasses.replace(config, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class StoredBackbone:
    """A backbone in our stored form (`spot convert` makes it).

    Attributes:
        path: directory of the backbone.
        dtype: type of the activations, "float32" or "bfloat16"; None for bfloat16 on accelerators
            and float32 on CPUs.
        parameter_dtype: type of the weights in memory, "float32", "bfloat16", or "int8" for
            kernels with a scale for each output (a quarter or half of the memory; other weights
            keep the stored type; for methods that leave kernels alone); None keeps what is stored.
        dropout_rate: probability of dropping; 0.1 when prompts are tuned in the papers (SPoT says
            so; Lester does not).
        scan_layers: whether layers run as one `lax.scan`; None for so on accelerators alone.
        remat: share of layers that is computed again backwards: False for nothing, True for all,
            "light" for what takes much memory and few products; None for "light" on accelerators
            and nothing on CPUs.
    """

    path: str
    dtype: str | None = None
    parameter_dtype: str | None = None
    dropout_rate: float = 0.1
    scan_layers: bool | None = None
    remat: bool | str | None = None

    def __post_init__(self) -> None:
        if not str(self.path).strip():
            raise SpotError("the path of the backbone is empty; give a directory of `spot convert`")
        check_fields(self, dropout_rate=DROPOUT)
        if self.dtype is not None:
            check_choice("StoredBackbone.dtype", self.dtype, DTYPES)
        if isinstance(self.remat, str):
            check_choice("StoredBackbone.remat", self.remat, (LIGHT,))
        if self.parameter_dtype is not None:
            check_choice("StoredBackbone.parameter_dtype", self.parameter_dtype, WEIGHT_DTYPES)

    def suited(self, platform: str | None = None) -> "SuitedBackbone":
        """Return the settings with those that are None as the platform has them.

        Args:
            platform: platform of the devices, as JAX names it; None for this process's.
        """
        cpu = (platform or jax.default_backend()) == "cpu"
        return SuitedBackbone(
            dtype=self.dtype or ("float32" if cpu else "bfloat16"),
            dropout_rate=self.dropout_rate,
            scan_layers=not cpu if self.scan_layers is None else self.scan_layers,
            remat=(False if cpu else LIGHT) if self.remat is None else self.remat,
        )

    def description(self) -> Description:
        """Return its shape, fingerprint and vocabulary; `SpotError` if there is no backbone."""
        return read_description(self.path)

    def weights_dtype(self) -> str | None:
        """Return the dtype that results depend on; None for floating point as stored."""
        stored = self.description().dtype
        return self.parameter_dtype or (INT8 if stored == INT8 else None)

    def title(self) -> str:
        """Return its name and the beginning of its fingerprint, for people."""
        return f"{epath.Path(self.path).name} ({self.description().fingerprint[:12]})"

    def vocabulary(self) -> Vocabulary:
        """Return its vocabulary; `SpotError` if it has none."""
        path = self.description().vocabulary_path
        if path is None:
            raise SpotError(
                f"the backbone {self.path} has no vocabulary, which reading tasks needs; convert "
                "it with one: spot convert SOURCE DEST --vocabulary FILE"
            )
        return Vocabulary(path)

    def check(self) -> None:
        """Raise `SpotError` unless it is there and can be read; its weights are read later."""
        self.description()

    def load(self, mesh: Mesh) -> Backbone:
        """Return the backbone on the mesh, each device with its slice, configured for this run."""
        shapes = parameter_shapes(self.description().config)
        shapes |= scale_shapes(shapes)
        stored = load_backbone(
            self.path,
            dtype=self.parameter_dtype,
            shardings=lambda path: parameter_sharding(mesh, path, shapes[path]),
        )
        config = self.suited(mesh.devices.flat[0].platform).of(stored.config)
        params = stored.params
        if config.scan_layers:
            shardings = tree_shardings(mesh, jax.eval_shape(lambda: stack_layers(params, config)))
            params = jax.jit(stack_layers, static_argnums=1, out_shardings=shardings)(
                params, config
            )
        return dataclasses.replace(stored, config=config, params=params)


@dataclasses.dataclass(frozen=True)
class RandomBackbone:
    """A backbone with random weights, asked for by name: where pre-training begins.

    Attributes:
        config: shape, dtype and dropout of the T5.
        vocabulary: path of the SentencePiece model it will read.
        seed: seed of the weights.
        word_vectors: path of a file of `spot_jax.data.word_vectors` that the embeddings, and the
            weights of the logits, begin with; a small model then learns in fewer steps.
    """

    config: T5Config
    vocabulary: str
    seed: int = 0
    word_vectors: str | None = None

    def __post_init__(self) -> None:
        check_shape(self.config)
        check_range("T5Config.dropout_rate", self.config.dropout_rate, DROPOUT)
        check_choice("T5Config.dtype", self.config.dtype, DTYPES)
        check_fields(self, seed=SEED)

    def check(self) -> None:
        """Raise `SpotError` unless the files that it begins from are there."""
        input_path(self.vocabulary, "the vocabulary")
        if self.word_vectors is not None:
            input_path(self.word_vectors, "the word vectors")

    def load(self, mesh: Mesh) -> Backbone:
        """Return random float32 weights, placed on the mesh."""
        vocabulary = Vocabulary(self.vocabulary)
        if vocabulary.size > self.config.vocab_size:
            raise SpotError(
                f"the vocabulary {self.vocabulary} has {vocabulary.size} ids, sentinels included, "
                f"the embedding {self.config.vocab_size} rows; raise T5Config.vocab_size"
            )
        params = init_params(jax.random.key(self.seed), self.config)
        if self.word_vectors:
            params = self._with_word_vectors(params)
        if self.config.scan_layers:
            params = stack_layers(params, self.config)
        mark = fingerprint(self.config, params) if not self.config.scan_layers else ""
        return Backbone(
            self.config,
            place(params, tree_shardings(mesh, params)),
            mark,
            epath.Path(self.vocabulary),
            f"random weights, seed {self.seed}",
        )

    def _with_word_vectors(self, params: Tree) -> Tree:
        rows, width = self.config.vocab_size, self.config.emb_dim
        vectors = load_word_vectors(self.word_vectors or "", rows, width)
        finite = np.isfinite(vectors)
        embedding = params["token_embedder"]["embedding"]
        params["token_embedder"]["embedding"] = jnp.where(finite, vectors, embedding)
        if not self.config.logits_via_embedding:
            logits = params["decoder"]["logits_dense"]
            # Columns of length 1, which is how they begin at random as well.
            columns = vectors.T / np.sqrt(width)
            logits["kernel"] = jnp.where(finite.T, columns, logits["kernel"])
        return params


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """How a checkpoint is scored while training, and by which score the best one is chosen.

    Attributes:
        period: number of steps between evaluations; 0 for none. 1,000 in the released prompt
            tuning, 500 in SPoT; Lester's paper does not say.
        split: split of the task.
        examples: number of examples at most, the first ones; None for all.
        batch_size: number of rows; None for the training batch's.
        decoding: "rank" (the best of the task's verbalizers), "greedy", "beam", or "auto": rank
            where the task has verbalizers, greedy elsewhere.
        metric: name of the metric that the best is chosen by; None for the mean of the task's.
        beams: number of sequences of "beam"; 4 in T5X.
        alpha: length penalty of "beam"; 0.6 in T5X.
        patience: number of evaluations in a row without a better score of any prompt after which
            the run is finished; None to do all steps.
    """

    period: int = 1000
    split: str = "validation"
    examples: int | None = None
    batch_size: int | None = None
    decoding: str = "auto"
    metric: str | None = None
    beams: int = 4
    alpha: float = 0.6
    patience: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, period=whole(0, 10**9), examples=COUNT, batch_size=ROWS, patience=COUNT)
        check_fields(self, beams=whole(1, 1000), alpha=Range(0, 100))
        check_choice("EvaluationPlan.decoding", self.decoding, DECODINGS)
        if self.patience is not None and self.period < 1:
            raise SpotError(
                "EvaluationPlan.patience counts evaluations, but EvaluationPlan.period = 0 makes "
                "none; set a period, or leave patience out"
            )
