"""The parts of a run: backbone, method, data and optimizer, built and checked together."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from spot_jax.data import loading
from spot_jax.data.batches import Batches, BatchShape
from spot_jax.data.examples import Examples
from spot_jax.data.multi_prompt import MultiPromptBatches
from spot_jax.data.sources import Shuffled, Source
from spot_jax.data.virtual_tokens import input_writer
from spot_jax.errors import SpotError
from spot_jax.methods.base import Method, Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.batch_source import OwnBatches, OwnBatchesRecipe, TrainingBatches
from spot_jax.training.config import (
    DataSource,
    EvaluationPlan,
    MethodRecipe,
    RandomBackbone,
    StoredBackbone,
    Templated,
)
from spot_jax.training.optimizers import Optimizer, build
from spot_jax.training.run_info import RunSetup, absolute, task_facts
from spot_jax.training.sharding import BatchPlacement, place, replicated, tree_shardings
from spot_jax.training.step import State, init_state


@dataclasses.dataclass
class RunParts:
    """What a run works with; where it says "each prompt's", lists have one entry a prompt.

    Attributes:
        mesh: of the devices.
        backbone: the loaded model, its config set for this run.
        vocabulary: of the backbone; None where it has none.
        method: what is trained.
        names: each prompt's task or mixture.
        tasks: the tasks that each of these consists of.
        seeds: each prompt's.
        ancestry: the prompts that each prompt begins from, nearest first.
        tuning: how each prompt is tuned, for its file.
        tx: the optimizer of all prompts.
        batches: the data of all prompts.
        placement: puts a batch on the mesh.
        own_batches: where the batches come from, if not from tokens.
        init_by_task: whether initial values depend on the task's name beside the seed.
    """

    mesh: Any
    backbone: Backbone
    vocabulary: Vocabulary | None
    method: Method
    names: list[str]
    tasks: list[tuple[str, ...]]
    seeds: list[int]
    ancestry: list[tuple[Mapping[str, Any], ...]]
    tuning: list[dict[str, Any]]
    tx: Any
    batches: TrainingBatches
    placement: BatchPlacement
    own_batches: OwnBatches | None = None
    init_by_task: bool = False

    @classmethod
    def make(
        cls,
        backbone: StoredBackbone | RandomBackbone,
        method: MethodRecipe,
        data: DataSource,
        optimizer: Optimizer,
        seeds: int | Sequence[int],
        mesh: Mesh,
    ) -> "RunParts":
        """Builds the parts; `SpotError` for recipes that do not fit together."""
        if data.modules or data.text_directory:
            loading.import_modules(data.modules)
            if data.text_directory:
                loading.register_text(data.text_directory)
        seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        count = _number_of_prompts(method, data, optimizer, seeds)
        names = _names(method, data, count)
        seeds = seeds * (count if len(seeds) == 1 else 1)
        rows = BatchPlacement(mesh, data.batch_size * count)
        loaded = backbone.load(mesh)
        path = loaded.vocabulary_path
        vocabulary = None if path is None else Vocabulary(path)
        labels = [loading.labels_of(name) for name in names]
        built = method.build(loaded, vocabulary, labels)
        files = method.sources(loaded, count)
        if files is not None and built.num_trained == 1:
            _check_pairs(files, names)
        ancestry = [
            () if files is None else (files[i][1].ancestor(files[i][0]), *files[i][1].ancestry)
            for i in range(count)
        ]
        _check_lengths(data)
        own: OwnBatches | None = None
        batches: TrainingBatches
        if isinstance(method, OwnBatchesRecipe):
            where = loaded, vocabulary, built, data, names, seeds
            own = method.batches(*where, rows.host_rows)
            batches = own.training
        else:
            sources = _sources(data, names, seeds, vocabulary)
            size = loaded.config.vocab_size
            batches = _batches(sources, data, built, size, vocabulary, rows.host_rows)
        return cls(
            mesh,
            loaded,
            vocabulary,
            built,
            names,
            [loading.constituents(name) for name in names],
            seeds,
            ancestry,
            [_tuning(loaded, method, data, optimizer, i) for i in range(count)],
            build(optimizer, built.num_trained),
            batches,
            rows,
            own,
        )

    def description(
        self, method: MethodRecipe, data: DataSource, optimizer: Optimizer
    ) -> dict[str, Any]:
        """What decides the run's path, for run.json."""
        return {
            "backbone": self.backbone.fingerprint,
            "vocabulary": self.vocabulary.sha256 if self.vocabulary else "",
            "dtype": self.backbone.config.dtype,
            "dropout_rate": self.backbone.config.dropout_rate,
            "method": type(method).__name__,
            "method_settings": plain_fields(method),
            "tasks": self.names,
            "lengths": dict(data.task_feature_lengths),
            "batch_size": data.batch_size,
            "pack": data.pack,
            "packed_lengths": data.packed_lengths,
            "split": data.split,
            "optimizer": type(optimizer).__name__,
            "optimizer_settings": plain_fields(optimizer),
            "seeds": self.seeds,
            **({"init_by_task": True} if self.init_by_task else {}),
            **self.method.reads(),
        }

    def for_inference(
        self,
        backbone: StoredBackbone | RandomBackbone,
        data: DataSource,
        evaluation: EvaluationPlan,
    ) -> RunSetup:
        """What `spot eval` and `spot infer` need to know, for setup.json."""
        return RunSetup(
            backbone=absolute(getattr(backbone, "path", None)),
            dtype=self.backbone.config.dtype,
            parameter_dtype=getattr(backbone, "parameter_dtype", None),
            method=type(self.method).__name__,
            prompt_length=self.method.prompt_length,
            tunes_backbone=self.method.tunes_backbone,
            tasks=task_facts(self.names),
            lengths=dict(data.task_feature_lengths),
            batch_size=evaluation.batch_size or data.batch_size,
            metric=evaluation.metric,
            modules=tuple(data.modules),
            text_directory=absolute(data.text_directory),
        )

    def first_state(self) -> tuple[State, Tree]:
        """Step 0 and the frozen tree, placed on the mesh."""
        keys = jax.vmap(jax.random.key)(np.asarray(self.seeds, np.uint32))
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, 0xFFFFFFFF)
        if self.init_by_task:
            marks = [zlib.crc32(name.encode()) for name in self.names]
            fresh = jax.vmap(jax.random.fold_in)(fresh, np.asarray(marks, np.uint32))
        trainable, frozen = self.method.init(fresh, self.backbone)
        frozen = jax.tree.map(lambda leaf: _on_mesh(leaf, self.mesh), frozen)
        state = jax.eval_shape(lambda: init_state(trainable, self.tx, keys))
        shardings = tree_shardings(self.mesh, state)
        make = jax.jit(lambda t, k: init_state(t, self.tx, k), out_shardings=shardings)
        return make(place(trainable, tree_shardings(self.mesh, trainable)), keys), frozen


def _check_pairs(files: Sequence[tuple[str, PromptFile]], names: Sequence[str]) -> None:
    """Of prompts that are trained as one, none stands where another's task is."""
    for (path, file), name in zip(files, names, strict=True):
        if file.task != name and file.task in names:
            raise SpotError(
                f"{path} is a prompt of {file.task} but stands beside the data of {name}; give "
                "the prompts and MIXTURE_OR_TASK_NAME in the same order"
            )


def _on_mesh(leaf: Any, mesh: Mesh) -> jax.Array:
    """A weight as it lies, each device with its slice; what a method adds to them goes to all."""
    placed = isinstance(getattr(leaf, "sharding", None), NamedSharding)
    return leaf if placed else place(leaf, replicated(mesh))


def _number_of_prompts(
    method: MethodRecipe, data: DataSource, optimizer: Optimizer, seeds: Sequence[int]
) -> int:
    rates = optimizer.learning_rate
    counts = {
        "tasks": len(data.names),
        "seeds": len(seeds),
        "learning rates": len(rates) if isinstance(rates, Sequence) else 1,
        "prompts to begin from": method.copies,
    }
    count = max(counts.values())
    for what, number in counts.items():
        if number not in (1, count):
            raise SpotError(
                f"{number} {what} for {count} prompts; give one for all or one for each"
            )
    return count


def _names(method: MethodRecipe, data: DataSource, count: int) -> list[str]:
    """Each prompt's task or mixture, in the method's template where it has one."""
    names = [*data.names] * (count if len(data.names) == 1 else 1)
    if not isinstance(method, Templated) or not method.templates:
        return names
    templates = method.templates * (count if len(method.templates) == 1 else 1)
    return [loading.in_template(*pair) for pair in zip(names, templates, strict=True)]


def _tuning(
    backbone: Backbone, method: MethodRecipe, data: DataSource, optimizer: Optimizer, i: int
) -> dict[str, Any]:
    """What another task's prompt must share with prompt i to be compared with it."""
    settings = plain_fields(optimizer)
    if isinstance(rates := settings["learning_rate"], list):
        settings["learning_rate"] = rates[i if len(rates) > 1 else 0]
    return {
        "init": getattr(method, "init", ""),
        "lengths": dict(data.task_feature_lengths),
        "batch_size": data.batch_size,
        "pack": data.pack,
        "dropout_rate": backbone.config.dropout_rate,
        "optimizer": type(optimizer).__name__,
        "optimizer_settings": settings,
    }


def _sources(
    data: DataSource, names: Sequence[str], seeds: Sequence[int], vocabulary: Vocabulary | None
) -> list[Source]:
    """Each prompt's data; prompts of one task share its examples in memory, not their order."""
    held: dict[str, Examples] = {}
    sources: list[Source] = []
    for name, seed in zip(names, seeds, strict=True):
        if name in held:
            sources.append(Shuffled(held[name], seed))
            continue
        source = loading.training_source(
            name,
            vocabulary,
            seed,
            split=data.split,
            lengths=data.task_feature_lengths,
            use_cached=data.use_cached_tasks,
        )
        if isinstance(source, Shuffled):
            held[name] = source.examples
        sources.append(source)
    return sources


def plain_fields(recipe: Any) -> dict[str, Any]:
    """A dataclass as JSON's types; what JSON lacks is written as Python would."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"type": type(value).__name__, **plain(dataclasses.asdict(value))}
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value if isinstance(value, str | int | float | bool | None) else repr(value)

    # Where something lies does not decide what a run is.
    fields = [f for f in dataclasses.fields(recipe) if not f.metadata.get("place")]
    return {f.name: plain(getattr(recipe, f.name)) for f in fields}


def _check_lengths(data: DataSource) -> None:
    for name in ("inputs", "targets"):
        if name not in data.task_feature_lengths:
            raise SpotError(
                f"TASK_FEATURE_LENGTHS lacks {name!r}; give {{'inputs': .., 'targets': ..}}"
            )


def _batches(
    sources: Sequence[Source],
    data: DataSource,
    method: Method,
    vocab_size: int,
    vocabulary: Vocabulary | None,
    host_rows: slice,
) -> MultiPromptBatches | Batches:
    lengths, packed = data.task_feature_lengths, data.packed_lengths or {}
    shape = BatchShape(
        data.batch_size,
        lengths["inputs"],
        lengths["targets"],
        data.pack,
        packed.get("inputs"),
        packed.get("targets"),
    )
    lanes = []
    for i, source in enumerate(sources):
        write = input_writer(vocab_size, method.prompt_length, i, method.placement, vocabulary)
        if write is not None and isinstance(source, Shuffled):
            write.check_examples(source.examples, shape.text_lengths(write.room)[0])
        one = host_rows if len(sources) == 1 else None
        lanes.append(Batches(source, shape, write=write, host_rows=one))
    return lanes[0] if len(lanes) == 1 else MultiPromptBatches(lanes, host_rows=host_rows)
