"""What a method is: one frozen dataclass of hyper-parameters in one file, and two functions.

    @dataclasses.dataclass(frozen=True)
    class PromptTuning(Method):
        length: int = 100                        # hyper-parameters: what gin and Python users set

        def start(self, key, backbone, task):    # the trainable tree of ONE prompt
            return {"prompt": ...}

        def adapt(self, trainable, frozen, config):    # what the T5 runs with because of it
            return Adapted(table=trainable["prompt"])

Everything else follows: N prompts in one program, the loss, inference, the prompt's file and how
it is read back, resuming, and the name by which gin, Python and files know the method, which is
the class's. A class of a user's own needs no more than to be imported.

Three names of fields have a meaning to a run. `init` says how prompts begin; with "prompt" they
begin from the files in `prompt`, and each `start` gets its own as `task.source`. `template` writes
a task's text anew, around places for virtual tokens (`spot_jax.data.templates`).
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Float, Int, Key

from spot_jax.data.batch_source import BatchSource
from spot_jax.data.data_source import DataSource
from spot_jax.errors import Range, SpotError, check_choice, check_fields, short, whole
from spot_jax.files import input_path, plain, plain_fields
from spot_jax.methods.losses import (
    CHOICE_LOSSES,
    Batch,
    Metrics,
    Tree,
    choice_loss,
    seq2seq_loss,
)
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import is_prompt, load_prompt
from spot_jax.t5.backbone import Backbone, flatten, unflatten
from spot_jax.t5.config import T5Config
from spot_jax.t5.int8 import check_kernels_stay
from spot_jax.t5.vocabulary import Vocabulary

TOKENS = whole(1, 100_000)
"""Range of the number of virtual tokens of a prompt, and of other sizes of it."""


class Scorer(Protocol):
    """Scores a task's labels in one step, where a method does not write text.

    It is hashable, by its values: programs are compiled for it.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels to choose among."""
        ...

    def __call__(self, params: Tree, config: T5Config, batch: Batch) -> Float[Array, "b c"]:
        """Score every label for each row, float32; the greatest is the prediction."""
        ...

    def losses(self, scores: Float[Array, "b c"], gold: Int[Array, " b"]) -> Float[Array, " b"]:
        """Compute what training would make of these scores, given each row's label by number."""
        ...


class Inference(NamedTuple):
    """What predictions run with.

    Attributes:
        params: tree of the T5, or what the scorer takes.
        table: rows of one prompt's virtual tokens, float32 [p, d]; None without.
        scorer: chooser of the label, instead of the T5's decoder; None for methods of text.
    """

    params: Tree
    table: Float[Array, "p d"] | None = None
    scorer: Scorer | None = None


class Adapted(NamedTuple):
    """What a T5 runs with because of one prompt.

    Attributes:
        params: tree of the T5 with the leaves that the prompt changes; None for the frozen one.
        table: rows of the prompt's virtual tokens, float32 [p, d]; None without.
    """

    params: Tree | None = None
    table: Float[Array, "p d"] | None = None


class StoredPrompt(NamedTuple):
    """A prompt file to begin from, and its path."""

    path: str
    file: PromptFile


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What one prompt is tuned for.

    Attributes:
        name: task or mixture.
        labels: verbalizers; empty for a task without.
        vocabulary: vocabulary of the backbone; None where it has none.
        source: stored prompt to begin from; None where prompts begin otherwise.
    """

    name: str = ""
    labels: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    source: StoredPrompt | None = None

    def pieces(self, text: str, init: str) -> tuple[int, ...]:
        """Return a text's ids, without the end; `SpotError` where there is no vocabulary."""
        if self.vocabulary is None:
            raise SpotError(
                f"init {init!r} needs the backbone's vocabulary, which it lacks; "
                "use 'sampled_vocabulary', or convert the backbone with its vocabulary"
            )
        return tuple(self.vocabulary.encode(text))


class Saveable(Protocol):
    """What can be written to a path, such as a `PromptFile`."""

    def save(self, path: epath.Path) -> None:
        """Write the file in one move."""
        ...


_METHODS: dict[str, type["BaseMethod"]] = {}


@dataclasses.dataclass(frozen=True)
class BaseMethod:
    """What a run asks of a method, whatever its loss is; `Method` is the base of nearly all.

    Functions that are given `tasks` have one entry for each of the run's N prompts.
    """

    extras: ClassVar[tuple[str, ...]] = ()
    """Names of what `freeze` puts beside the T5's own branches."""
    placement: ClassVar[str] = "before"
    """Place of the virtual tokens, see `spot_jax.data.virtual_tokens.input_writer`."""
    rows_are: ClassVar[str] = "virtual tokens"
    """What the rows of a file are; only virtual tokens can stand in an input."""
    source_kind: ClassVar[str] = "a prompt file"
    """Name of the files in `prompt`, for errors."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        namesake = _METHODS.get(cls.__name__)
        # gin derives a class of the same name from each that it configures.
        if cls.__module__ == __name__ or (namesake is not None and issubclass(cls, namesake)):
            return
        other = cls.__module__ if namesake is None else namesake.__module__
        # A script's module has two names where something imports it, too.
        if len({other, cls.__module__} - {"__main__"}) > 1:
            raise SpotError(
                f"two methods are called {cls.__name__}, in {other} and in {cls.__module__}; "
                "rename one, as files and gin know a method by its name"
            )
        _METHODS[cls.__name__] = cls

    @property
    def tunes_backbone(self) -> bool:
        """Whether what is stored is a tuned T5."""
        return False

    @property
    def changes_kernels(self) -> bool:
        """Whether the T5's kernels are trained or moved, which int8 ones cannot be."""
        return self.tunes_backbone

    @property
    def shares_weights(self) -> bool:
        """Whether all prompts come of one trainable tree; otherwise each leaf has an axis of N."""
        return False

    @property
    def templates(self) -> list[str]:
        """Templates of the tasks' text, one for all or one a prompt; empty for the tasks' own."""
        return _as_list(getattr(self, "template", None))

    @property
    def source_paths(self) -> list[str]:
        """Paths of stored prompts, one for all or one a prompt; empty for none."""
        return _as_list(getattr(self, "prompt", None))

    @property
    def copies(self) -> int:
        """Number of prompts that the settings themselves name; 1 where they name none."""
        return max(1, len(self.source_paths), len(self.templates))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the settings that have a default, in JSON's types."""
        return {
            f.name: plain(f.default)
            for f in dataclasses.fields(cls)
            if f.default is not dataclasses.MISSING and not f.metadata.get("place")
        }

    def sources(self, backbone: Backbone, count: int) -> list[StoredPrompt] | None:
        """Read the files to begin from, one a prompt; None if prompts begin otherwise."""
        if getattr(self, "init", None) != "prompt":
            return None
        if not self.source_paths:
            name = type(self).__name__
            raise SpotError(f"init 'prompt' needs {self.source_kind}; set {name}.prompt")
        return self._load(self.source_paths, backbone, count)

    def check_source(self) -> None:
        """Raise `SpotError` for files to begin from that are missing, or that nothing reads."""
        init, name = getattr(self, "init", None), type(self).__name__
        if self.source_paths and init not in (None, "prompt"):
            raise SpotError(
                f"{name}.prompt (SOURCE_PROMPT) is {short(self.source_paths[0])}, but {name}.init "
                f"is {init!r}, which begins from no file; set {name}.init = 'prompt' "
                "(PROMPT_INIT), or leave the file out"
            )
        for path in self.source_paths:
            place = input_path(path, "the prompt to begin from (SOURCE_PROMPT)")
            if not is_prompt(place):
                raise SpotError(
                    f"{path}: a directory; give the file of the prompt to begin from "
                    "(SOURCE_PROMPT), such as RUN_DIR/prompts/best-0.safetensors"
                )

    def _load(self, paths: Sequence[str], backbone: Backbone, count: int) -> list[StoredPrompt]:
        paths = [*paths] * count if len(paths) == 1 else paths
        mark = backbone.fingerprint
        return [StoredPrompt(path, load_prompt(path, backbone=mark)) for path in paths]

    def resolve(self, backbone: Backbone, tasks: Sequence[Task]) -> Self:
        """Check the settings against backbone and tasks, and fill in what depends on them."""
        del backbone, tasks
        return self

    def start(self, key: Key[Array, ""], backbone: Backbone, task: Task) -> Tree:
        """Return the trainable tree that one prompt begins with, float32 leaves."""
        raise NotImplementedError(f"{type(self).__name__}.start")

    def freeze(self, backbone: Backbone, tasks: Sequence[Task]) -> dict[str, Tree]:
        """Return the tree that stays as it is: the T5's, and the method's `extras`."""
        del tasks
        return backbone.params

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
        """Return the scalar whose gradient in `trainable` is taken, and metrics with an axis of N.

        Args:
            trainable: tree of all prompts.
            frozen: tree of `freeze`.
            batch: rows of all prompts, which `row_prompt` tells apart where there are several.
            keys: dropout keys, one a prompt; None for no dropout.
            config: shape of the T5, with this run's dropout and dtype.
            tasks: tasks of the prompts.
        """
        raise NotImplementedError(f"{type(self).__name__}.batch_loss")

    def infer(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> Inference:
        """Return what predictions with prompt i run with; its virtual tokens count from 0."""
        raise NotImplementedError(f"{type(self).__name__}.infer")

    def store(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> tuple[Array | None, Mapping[str, Array]]:
        """Return what prompt i's file holds: rows or None, and named tensors."""
        raise NotImplementedError(f"{type(self).__name__}.store")

    def describe(self, *, config: T5Config, tasks: Sequence[Task], i: int) -> dict[str, Any]:
        """Return what prompt i's file says of the method, in JSON's types; `read` reads it.

        The settings, but for those of how prompts begin and of the loss, which have done their
        work when a prompt is stored.
        """
        names = plain_fields(self).keys() - _DONE
        settings = {name: value for name, value in plain_fields(self).items() if name in names}
        return {"name": type(self).__name__, "placement": self.placement, **settings}

    def companions(
        self,
        trainable: Tree,
        frozen: Tree,
        file: PromptFile,
        *,
        config: T5Config,
        tasks: Sequence[Task],
        i: int,
    ) -> Mapping[str, Saveable]:
        """Return what is written beside prompt i's file for training to go on from, by kind."""
        return {}

    def content_marks(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        """Return hashes of files read at every start: a run goes on with no others."""
        return {}

    def batch_source(
        self,
        backbone: Backbone,
        tasks: Sequence[Task],
        data: DataSource,
        seeds: Sequence[int],
        host_rows: slice,
    ) -> BatchSource | None:
        """Return the batches of a method that reads no tokens; None for batches of tokens."""
        return None

    @classmethod
    def read(cls, file: PromptFile, params: Tree, config: T5Config) -> Inference:
        """Return what predictions with a stored prompt run with; `SpotError` if it cannot be."""
        raise NotImplementedError(f"{cls.__name__}.read")

    @classmethod
    def read_several(
        cls, files: Sequence[PromptFile], params: Tree, config: T5Config, examples: int
    ) -> Inference | None:
        """Return what an ensemble runs with, each of `examples` rows repeated for every file.

        None for a method that has no ensembles of its own.
        """
        return None

    def part_of(self, trainable: Tree, i: int) -> Tree:
        """Return prompt i's part of the trainable tree; all of it where weights are shared."""
        if self.shares_weights:
            return trainable
        return jax.tree.map(lambda leaf: leaf[i], trainable)

    def backbone_of(self, frozen: Tree) -> Tree:
        """Return the T5's own branches of a frozen tree."""
        return {name: leaf for name, leaf in frozen.items() if name not in self.extras}


@dataclasses.dataclass(frozen=True)
class Method(BaseMethod):
    """A method whose T5 is trained to write its targets: `start` and `adapt` are all it needs.

    Attributes:
        z_loss: weight of the squared log normaliser; 1e-4 in T5X.
        per_token: whether the loss is averaged over target tokens; T5X sums.
        label_smoothing: share of the target's weight that all other ids have alike, as in T5X.
        choice_loss: loss over the answers that an example is chosen among, its own or the task's
            verbalizers, instead of the target's tokens alone: "cross_entropy" or "hinge" (see
            `losses.choice_loss`), which know no z-loss and no smoothing; None for the target's.
        margin: margin of the hinge, in nats a token; 1 in P-Tuning's code.
    """

    z_loss: float = dataclasses.field(default=1e-4, kw_only=True)
    per_token: bool = dataclasses.field(default=False, kw_only=True)
    label_smoothing: float = dataclasses.field(default=0.0, kw_only=True)
    choice_loss: str | None = dataclasses.field(default=None, kw_only=True)
    margin: float = dataclasses.field(default=1.0, kw_only=True)

    @property
    def chooses(self) -> bool:
        """Whether the loss is over answers to choose among; `SpotError` for an unknown one."""
        if self.choice_loss is None:
            return False
        check_choice(f"{type(self).__name__}.choice_loss", self.choice_loss, CHOICE_LOSSES)
        if type(self).batch_loss is not Method.batch_loss:
            raise SpotError(
                f"{type(self).__name__} has a loss of its own; leave choice_loss = "
                f"{self.choice_loss!r} out"
            )
        return True

    def __post_init__(self) -> None:
        """Raise `SpotError` for weights of the loss that are out of their range."""
        check_fields(self, z_loss=Range(0, 1000), label_smoothing=Range(0, 1, "high"))
        check_fields(self, margin=Range(0, 1e6))
        _ = self.chooses

    def adapt(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Return the weights and virtual tokens that the T5 runs with.

        Args:
            trainable: tree of one prompt, as `start` returns it; of all prompts where they share
                weights, and the table then has the rows of prompt 0 first.
            frozen: tree of `freeze`.
            config: shape of the T5.
        """
        raise NotImplementedError(f"{type(self).__name__}.adapt")

    def adapt_batch(
        self, trainable: Tree, frozen: Tree, config: T5Config, batch: Batch, count: int
    ) -> Adapted | None:
        """Return what a batch of several prompts' rows runs with; None if rows need a T5 each.

        Tables of virtual tokens stand one below the other. Weights that differ from prompt to
        prompt need a T5 each, unless a method that overrides this can give rows their own.
        """
        if self.shares_weights:
            return self._adapt_checked(trainable, frozen, config)
        first = self.part_of(trainable, 0)
        kind = jax.eval_shape(lambda tree: self._adapt_checked(tree, frozen, config), first)
        if kind.params is None and kind.table is not None:

            def table_of(tree: Tree) -> Array:
                table = self._adapt_checked(tree, frozen, config).table
                assert table is not None, "the shapes have one"
                return table

            tables = jax.vmap(table_of)(trainable)
            return Adapted(table=tables.reshape(-1, tables.shape[-1]))
        return self._adapt_checked(first, frozen, config) if count == 1 else None

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
        """See `seq2seq_loss`."""
        count = len(tasks)
        adapted = self.adapt_batch(trainable, frozen, config, batch, count)
        if adapted is None:
            return self._loss_of_each(trainable, frozen, batch, keys, config, count)
        return self._sequence_loss(adapted, frozen, config, batch, keys, count)

    def _adapt_checked(self, trainable: Tree, frozen: Tree, config: T5Config) -> Adapted:
        """Adapt; raise `SpotError` if int8 kernels were changed, which would round them again."""
        adapted = self.adapt(trainable, frozen, config)
        if adapted.params is not None and not self.tunes_backbone:
            backbone = self.backbone_of(frozen)
            check_kernels_stay(backbone, adapted.params, type(self).__name__)
        return adapted

    def _sequence_loss(
        self,
        adapted: Adapted,
        frozen: Tree,
        config: T5Config,
        batch: Batch,
        keys: Key[Array, " n"] | None,
        count: int,
    ) -> tuple[Float[Array, ""], Metrics]:
        params = self.backbone_of(frozen) if adapted.params is None else adapted.params
        if self.choice_loss is not None:
            return choice_loss(
                params,
                config,
                batch,
                keys,
                kind=self.choice_loss,
                margin=self.margin,
                table=adapted.table,
                per_row=self.per_token,
                num_prompts=count,
            )
        return seq2seq_loss(
            params,
            config,
            batch,
            keys,
            table=adapted.table,
            z_loss=self.z_loss,
            per_token=self.per_token,
            num_prompts=count,
            label_smoothing=self.label_smoothing,
        )

    def _loss_of_each(
        self,
        trainable: Tree,
        frozen: Tree,
        batch: Batch,
        keys: Key[Array, " n"] | None,
        config: T5Config,
        count: int,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Compute the same with each prompt's own weights: the T5 is mapped over prompts and rows.

        A batch holds as many rows of each prompt, those of prompt 0 first.
        """
        rows = {name: x.reshape(count, -1, *x.shape[1:]) for name, x in batch.items()}
        rows.pop("row_prompt", None)

        def of_prompt(tree: Tree, part: Batch, key: Array, i: Array) -> tuple[Array, Metrics]:
            adapted = self._adapt_checked(tree, frozen, config)
            if adapted.table is not None:
                # Ids of virtual tokens count through the prompts; each table here is alone.
                ids = part["encoder_input_tokens"]
                shift = i * adapted.table.shape[0]
                part = {
                    **part,
                    "encoder_input_tokens": jnp.where(ids >= config.vocab_size, ids - shift, ids),
                }
            drop = None if keys is None else key[None]
            return self._sequence_loss(adapted, frozen, config, part, drop, 1)

        spare = jnp.zeros(count) if keys is None else keys
        losses, metrics = jax.vmap(of_prompt)(trainable, rows, spare, jnp.arange(count))
        return losses.sum(), {name: value[:, 0] for name, value in metrics.items()}

    def infer(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> Inference:
        """Return the T5 as prompt i adapts it."""
        adapted = self._adapt_checked(self.part_of(trainable, i), frozen, config)
        table = adapted.table
        if table is not None and self.shares_weights:
            table = table.reshape(len(tasks), -1, table.shape[-1])[i]
        params = self.backbone_of(frozen) if adapted.params is None else adapted.params
        return Inference(params, table)

    def store(
        self, trainable: Tree, frozen: Tree, *, config: T5Config, tasks: Sequence[Task], i: int
    ) -> tuple[Array | None, Mapping[str, Array]]:
        """Return the virtual tokens as rows, or the trainable tree's leaves by their paths.

        Where virtual tokens are all that a prompt comes to, or a tuned T5 is stored beside them,
        whatever they were computed from is folded away.
        """
        part = self.part_of(trainable, i)
        kind = jax.eval_shape(lambda tree: self._adapt_checked(tree, frozen, config), part)
        if kind.table is not None and (kind.params is None or self.tunes_backbone):
            return self.infer(trainable, frozen, config=config, tasks=tasks, i=i).table, {}
        return None, {} if self.tunes_backbone else dict(flatten(part))

    @classmethod
    def read(cls, file: PromptFile, params: Tree, config: T5Config) -> Inference:
        """Return the T5 with the file's rows, or as its tensors adapt it."""
        if file.prompt is not None:
            return virtual_token_inference(file, params, config)
        fields = {f.name for f in dataclasses.fields(cls)}
        try:
            settings = {k: _tuple(v) for k, v in file.method.items() if k in fields}
            method = cls(**settings)
            tree = unflatten({name: jnp.asarray(x) for name, x in file.tensors.items()})
            adapted = method._adapt_checked(tree, params, config)
        except (KeyError, TypeError, ValueError) as error:
            raise SpotError(
                f"the tensors of {cls.__name__} do not go with this backbone ({error}); load the "
                "backbone it was tuned on, or tune it again"
            ) from error
        return Inference(params if adapted.params is None else adapted.params, adapted.table)


def virtual_token_inference(file: PromptFile, params: Tree, config: T5Config) -> Inference:
    """Return the T5 with a file's rows as virtual tokens; `SpotError` for another width."""
    rows = file.rows
    if rows.shape[1] != config.emb_dim:
        raise SpotError(
            f"a prompt of width {rows.shape[1]} cannot go with this backbone of width "
            f"{config.emb_dim}; load the backbone it was tuned on"
        )
    return Inference(params, jnp.asarray(rows))


# Settings that a stored prompt needs no more: how it began, and its loss.
_DONE = {"init", "prompt", "text", "template", "class_words"}
_DONE |= {f.name for f in dataclasses.fields(Method)}


def methods() -> Mapping[str, type[BaseMethod]]:
    """Return every method by its name: those of this package, and those that were imported."""
    _import_shipped()
    return _METHODS


@functools.cache
def _import_shipped() -> None:
    package = importlib.import_module("spot_jax.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
