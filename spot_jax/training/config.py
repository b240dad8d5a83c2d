"""What a run is made of, as plain data: the dataclasses that a configuration file fills in."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from spot_jax.data.word_vectors import load_word_vectors
from spot_jax.errors import SpotError
from spot_jax.methods.base import Method, Tree
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_tuning import (
    ArrayInit,
    ClassLabelInit,
    Initialiser,
    PromptTuning,
    SampledVocabularyInit,
    TextInit,
    UniformInit,
)
from spot_jax.methods.restored import check_virtual
from spot_jax.t5.backbone import Backbone, fingerprint, load_backbone
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.model import init_params, stack_layers
from spot_jax.t5.stored import Description, read_description
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.sharding import parameter_sharding, place, tree_shardings
from spot_jax.training.stored_beginnings import StoredBeginnings


@dataclasses.dataclass(frozen=True)
class StoredBackbone:
    """A backbone in our stored form (`spot convert` makes it).

    Attributes:
        path: its directory.
        dtype: of the activations, "float32" or "bfloat16".
        parameter_dtype: of the weights in memory; None keeps what is stored.
        dropout_rate: 0.1 when prompts are tuned in the papers (SPoT says so; Lester does not).
        scan_layers: one `lax.scan` over the layers.
        remat: recompute layers in the backward pass.
    """

    path: str
    dtype: str = "float32"
    parameter_dtype: str | None = None
    dropout_rate: float = 0.1
    scan_layers: bool = False
    remat: bool = False

    def description(self) -> Description:
        """Its shape, fingerprint and vocabulary, without the weights; `SpotError` without it."""
        return read_description(epath.Path(self.path))

    def title(self) -> str:
        """Its name and the beginning of its fingerprint, for people."""
        return f"{epath.Path(self.path).name} ({self.description().fingerprint[:12]})"

    def vocabulary(self) -> Vocabulary:
        """Its vocabulary; `SpotError` if it has none."""
        path = self.description().vocabulary_path
        if path is None:
            raise SpotError(
                f"the backbone {self.path} has no vocabulary, which reading tasks needs; "
                "convert it with one"
            )
        return Vocabulary(path)

    def load(self, mesh: Mesh) -> Backbone:
        """The backbone on the mesh, each device with its slice, its config set for this run."""
        shapes = parameter_shapes(self.description().config)
        found = load_backbone(
            self.path,
            dtype=self.parameter_dtype,
            shardings=lambda path: parameter_sharding(mesh, path, shapes[path]),
        )
        config = dataclasses.replace(
            found.config,
            dtype=self.dtype,
            dropout_rate=self.dropout_rate,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )
        params = found.params
        if self.scan_layers:
            shardings = tree_shardings(mesh, jax.eval_shape(lambda: stack_layers(params, config)))
            params = jax.jit(stack_layers, static_argnums=1, out_shardings=shardings)(
                params, config
            )
        return dataclasses.replace(found, config=config, params=params)


@dataclasses.dataclass(frozen=True)
class RandomBackbone:
    """A backbone with random weights, asked for by name: where pre-training begins.

    Attributes:
        config: its shape, dtype and dropout.
        vocabulary: path of the SentencePiece model it will read.
        seed: of the weights.
        word_vectors: a file of `spot_jax.data.word_vectors` that the embeddings, and the weights of
            the logits, begin with; a small model then learns in fewer steps.
    """

    config: T5Config
    vocabulary: str
    seed: int = 0
    word_vectors: str | None = None

    def load(self, mesh: Mesh) -> Backbone:
        """Random float32 weights, placed on the mesh."""
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
        known = np.isfinite(vectors)
        embedding = params["token_embedder"]["embedding"]
        params["token_embedder"]["embedding"] = jnp.where(known, vectors, embedding)
        if not self.config.logits_via_embedding:
            logits = params["decoder"]["logits_dense"]
            # Columns of length 1, which is how they begin at random as well.
            columns = vectors.T / np.sqrt(width)
            logits["kernel"] = jnp.where(known.T, columns, logits["kernel"])
        return params


class MethodRecipe(Protocol):
    """What a method's dataclass of settings offers a run."""

    @property
    def copies(self) -> int:
        """How many prompts the recipe itself names; 1 where it names none."""
        ...

    @property
    def tunes_backbone(self) -> bool:
        """See `Method`."""
        ...

    def sources(self, backbone: Backbone, count: int) -> list[tuple[str, PromptFile]] | None:
        """The prompt files to begin from, one a prompt; None if they begin otherwise."""
        ...

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method for as many prompts as `labels` has entries, each its task's labels."""
        ...


@runtime_checkable
class Templated(Protocol):
    """A recipe that writes its tasks' text in templates of its own (`spot_jax.data.templates`)."""

    @property
    def templates(self) -> list[str]:
        """One for all prompts or one a prompt; none where the tasks have places themselves."""
        ...


@dataclasses.dataclass(frozen=True)
class PromptTuningRecipe(StoredBeginnings):
    """Prompt Tuning (Lester 2021, §3.2): how prompts begin and how long they are.

    Attributes:
        length: P; 100 in the paper.
        init: "class_labels" (the paper's default; sampled vocabulary where a task has no labels),
            "sampled_vocabulary", "uniform", "text", or "prompt".
        text: what "text" embeds.
        prompt: for "prompt": a prompt file, or one for each prompt of the run.
        z_loss: 1e-4 in T5X.
        per_token: average the loss over target tokens; T5X sums.
    """

    length: int = 100
    init: str = "class_labels"
    text: str | None = None
    prompt: str | Sequence[str] | None = None
    z_loss: float = 1e-4
    per_token: bool = False

    def sources(self, backbone: Backbone, count: int) -> list[tuple[str, PromptFile]] | None:
        """See `StoredBeginnings`; the files hold rows of virtual tokens."""
        files = super().sources(backbone, count)
        for path, file in files or ():
            check_virtual(path, file)
        return files

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method for as many prompts as `labels` has entries.

        Args:
            backbone: the frozen model.
            vocabulary: turns labels and text into pieces.
            labels: each prompt's class labels, None where its task has none.

        Raises:
            SpotError: an unknown `init`, or what it needs is missing.
        """
        files = self.sources(backbone, len(labels))
        inits: list[Initialiser]
        if files is not None:
            inits = [ArrayInit(np.asarray(file.prompt)) for _, file in files]
        else:
            inits = [self._initialiser(vocabulary, own) for own in labels]
        return PromptTuning(
            backbone.config, self.length, tuple(inits), z_loss=self.z_loss, per_token=self.per_token
        )

    def _initialiser(
        self, vocabulary: Vocabulary | None, labels: Sequence[str] | None
    ) -> Initialiser:
        def pieces(text: str) -> tuple[int, ...]:
            if vocabulary is None:
                raise SpotError(
                    f"init {self.init!r} needs the backbone's vocabulary, which it lacks; "
                    "use 'sampled_vocabulary', or convert the backbone with its vocabulary"
                )
            return tuple(vocabulary.encode(text))

        if self.init == "class_labels":
            if not labels:
                return SampledVocabularyInit()
            return ClassLabelInit(tuple(pieces(label) for label in labels))
        if self.init == "sampled_vocabulary":
            return SampledVocabularyInit()
        if self.init == "uniform":
            return UniformInit()
        if self.init == "text":
            return TextInit(pieces(self.text or ""))
        raise SpotError(
            f"unknown prompt initialisation {self.init!r}; expected class_labels, "
            "sampled_vocabulary, uniform, text or prompt"
        )


@dataclasses.dataclass(frozen=True)
class ModelTuningRecipe:
    """All weights are tuned.

    Attributes:
        z_loss: 1e-4 in T5X.
        per_token: average the loss over target tokens.
    """

    z_loss: float = 1e-4
    per_token: bool = True
    copies: ClassVar[int] = 1
    tunes_backbone: ClassVar[bool] = True

    def sources(self, backbone: Backbone, count: int) -> None:
        """There is no prompt to begin from."""
        return

    def build(
        self,
        backbone: Backbone,
        vocabulary: Vocabulary | None,
        labels: Sequence[Sequence[str] | None],
    ) -> Method:
        """The method; one run tunes one model."""
        if len(labels) != 1:
            raise SpotError(f"model tuning tunes one model a run, {len(labels)} tasks were given")
        return ModelTuning(backbone.config, z_loss=self.z_loss, per_token=self.per_token)


@dataclasses.dataclass(frozen=True)
class DataSource:
    """What is trained on.

    Attributes:
        mixture_or_task_name: a seqio task or mixture, or a file of arrays (`spot_jax.data.loading`
            says which); a list gives each prompt of the run one.
        task_feature_lengths: {"inputs": ..., "targets": ...} in tokens of text, end included; the
            prompt's room is added.
        batch_size: rows a step, for each prompt.
        split: of training.
        pack: several examples in a row.
        packed_lengths: rows' whole lengths when packing, prompts included; None for one example's.
        modules: Python modules that register tasks.
        text_directory: plain text for `span_corruption` and `prefix_lm`.
        use_cached_tasks: read seqio's offline cache.
    """

    mixture_or_task_name: str | Sequence[str]
    task_feature_lengths: Mapping[str, int]
    batch_size: int = 32
    split: str = "train"
    pack: bool = False
    packed_lengths: Mapping[str, int] | None = None
    modules: Sequence[str] = ()
    text_directory: str | None = None
    use_cached_tasks: bool = False

    @property
    def names(self) -> list[str]:
        """The names as a list."""
        name = self.mixture_or_task_name
        return [name] if isinstance(name, str) else list(name)


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """How a checkpoint is scored while training, and by which score the best one is chosen.

    Attributes:
        period: steps between evaluations; 0 for none. 1,000 in the released prompt tuning, 500 in
            SPoT; Lester's paper does not say.
        split: of the task.
        examples: at most so many, the first ones; None for all.
        batch_size: rows; None for the training batch's.
        decoding: "rank" (the best of the task's verbalizers), "greedy", "beam", or "auto": rank
            where the task has verbalizers, greedy elsewhere.
        metric: what the best is chosen by; None for the mean of the task's metrics.
    """

    period: int = 1000
    split: str = "validation"
    examples: int | None = None
    batch_size: int | None = None
    decoding: str = "auto"
    metric: str | None = None
