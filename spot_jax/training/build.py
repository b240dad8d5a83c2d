"""The parts of a run: backbone, method, data and optimizer, built and checked together."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from spot_jax.data import loading
from spot_jax.data.batch_source import BatchSource, TrainingBatches
from spot_jax.data.batches import Batches, BatchShape, InputWriter
from spot_jax.data.choices import ChoiceWriter, answer_tokens
from spot_jax.data.data_source import DataSource
from spot_jax.data.examples import Examples, ExampleTable
from spot_jax.data.multi_prompt import MultiPromptBatches
from spot_jax.data.prefetch import Prefetched
from spot_jax.data.shared_examples import Hosts
from spot_jax.data.sources import Shuffled, Source
from spot_jax.data.table.lengths import suited_lengths
from spot_jax.data.virtual_tokens import input_writer
from spot_jax.errors import SpotError
from spot_jax.files import plain_fields
from spot_jax.methods.base import BaseMethod, StoredPrompt, Task
from spot_jax.methods.losses import Tree
from spot_jax.methods.program import Program
from spot_jax.t5.backbone import Backbone
from spot_jax.t5.int8 import weights_dtype
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.config import EvaluationPlan, RandomBackbone, StoredBackbone
from spot_jax.training.distributed import hosts
from spot_jax.training.optimizers import Optimizer, build
from spot_jax.training.run_info import RunSetup, absolute, task_facts
from spot_jax.training.sharding import BatchPlacement, place, replicated, tree_shardings
from spot_jax.training.step import State, init_state

AnyBackbone = StoredBackbone | RandomBackbone | Backbone


@dataclasses.dataclass
class RunParts:
    """What a run works with; where it says "each prompt's", lists have one entry a prompt.

    Attributes:
        mesh: mesh of the devices.
        backbone: loaded model, its config set for this run.
        vocabulary: vocabulary of the backbone; None where it has none.
        method: settings of what is trained, as they were given.
        program: the method on this backbone, for these tasks.
        trees: trainable and frozen tree that the run begins from.
        prompt_length: number of virtual tokens of an example's input, P; 0 for none.
        names: each prompt's task or mixture.
        tasks: tasks that each of these consists of.
        seeds: each prompt's seed.
        ancestry: prompts that each prompt begins from, nearest first.
        tuning: settings that each prompt is tuned with, for its file.
        tx: optimizer of all prompts.
        batches: data of all prompts.
        placement: function that puts a batch on the mesh.
        batch_source: source of the batches, where they are not of tokens.
        init_by_task: whether initial values depend on the task's name beside the seed.
    """

    mesh: Any
    backbone: Backbone
    vocabulary: Vocabulary | None
    method: BaseMethod
    program: Program
    trees: tuple[Tree, Tree]
    prompt_length: int
    names: list[str]
    tasks: list[tuple[str, ...]]
    seeds: list[int]
    ancestry: list[tuple[Mapping[str, Any], ...]]
    tuning: list[dict[str, Any]]
    tx: Any
    batches: TrainingBatches | Prefetched
    placement: BatchPlacement
    batch_source: BatchSource | None = None
    init_by_task: bool = False

    @classmethod
    def make(
        cls,
        backbone: AnyBackbone,
        method: BaseMethod,
        data: DataSource,
        optimizer: Optimizer,
        seeds: int | Sequence[int],
        mesh: Mesh,
        init_by_task: bool = False,
        directory: epath.Path | None = None,
    ) -> "RunParts":
        """Build the parts; `SpotError` for settings that do not fit together.

        Several processes tokenise their data together in the run's `directory`, where it is given.
        """
        if data.modules or data.text_directory:
            loading.import_modules(data.modules)
            if data.text_directory:
                loading.register_text(data.text_directory)
        seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        count = number_of_prompts(method, data, optimizer, seeds)
        names = _names(method, data, count)
        seeds = seeds * (count if len(seeds) == 1 else 1)
        placement = BatchPlacement(mesh, data.batch_size * count)
        loaded = loaded_on(backbone, mesh)
        path = loaded.vocabulary_path
        vocabulary = None if path is None else Vocabulary(path)
        origins = method.sources(loaded, count)
        if origins is not None and method.shares_weights:
            _check_pairs(origins, names)
        tasks = [
            Task(
                name,
                tuple(loading.labels_of(name) or ()),
                vocabulary,
                None if origins is None else origins[i],
            )
            for i, name in enumerate(names)
        ]
        program = Program.of(method, loaded, tasks)
        trees = program.init(init_keys(seeds, names if init_by_task else None), loaded)
        length = program.prompt_length(*trees)
        batches: TrainingBatches | Prefetched
        source = program.method.batch_source(loaded, tasks, data, seeds, placement.host_rows)
        if source is not None:
            batches = source.training
        else:
            writers = [
                input_writer(loaded.config.vocab_size, length, i, method.placement, vocabulary)
                for i in range(count)
            ]
            shared = None
            if directory is not None and method.placement == "before":
                shared = None if getattr(method, "chooses", False) else hosts(directory)
            sources = _sources(data, names, seeds, vocabulary, loaded.config.vocab_size, shared)
            choices = [
                _choices(program.method, task, each, data)
                for task, each in zip(tasks, sources, strict=True)
            ]
            batches = Prefetched(_batches(sources, data, writers, placement.host_rows, choices))
        return cls(
            mesh,
            loaded,
            vocabulary,
            method,
            program,
            trees,
            length,
            names,
            [loading.constituents(name) for name in names],
            seeds,
            _ancestry(origins, count),
            [_tuning(loaded, method, data, optimizer, i) for i in range(count)],
            build(optimizer, program.num_trained, method.shares_weights),
            batches,
            placement,
            source,
            init_by_task,
        )

    def description(self, data: DataSource, optimizer: Optimizer) -> dict[str, Any]:
        """Return what decides the run's path, for run.json."""
        return {
            "backbone": self.backbone.fingerprint,
            "vocabulary": self.vocabulary.sha256 if self.vocabulary else "",
            "dtype": self.backbone.config.dtype,
            "dropout_rate": self.backbone.config.dropout_rate,
            "parameter_dtype": weights_dtype(self.backbone.params),
            "scan_layers": self.backbone.config.scan_layers,
            "method": type(self.method).__name__,
            "method_settings": plain_fields(self.method),
            "tasks": self.names,
            "lengths": dict(data.lengths),
            "batch_size": data.batch_size,
            "pack": data.pack,
            "packed_lengths": data.packed_lengths,
            "split": data.split,
            "optimizer": type(optimizer).__name__,
            "optimizer_settings": plain_fields(optimizer),
            "seeds": self.seeds,
            **({"init_by_task": True} if self.init_by_task else {}),
            **self.program.method.content_marks(self.program.tasks),
        }

    def for_inference(
        self,
        backbone: AnyBackbone,
        data: DataSource,
        evaluation: EvaluationPlan,
    ) -> RunSetup:
        """Return what `spot eval` and `spot infer` need to know, for setup.json."""
        return RunSetup(
            backbone=absolute(getattr(backbone, "path", None)),
            dtype=self.backbone.config.dtype,
            parameter_dtype=getattr(backbone, "parameter_dtype", None),
            method=type(self.method).__name__,
            prompt_length=self.prompt_length,
            tunes_backbone=self.method.tunes_backbone,
            tasks=task_facts(self.names),
            lengths=dict(data.lengths),
            batch_size=evaluation.batch_size or data.batch_size,
            metric=evaluation.metric,
            modules=tuple(data.modules),
            text_directory=absolute(data.text_directory),
            tables=loading.table_facts(self.names),
        )

    def first_state(self) -> tuple[State, Tree]:
        """Return step 0 and the frozen tree, placed on the mesh."""
        trainable, frozen = self.trees
        keys = _root_keys(self.seeds)
        frozen = jax.tree.map(lambda leaf: on_mesh(leaf, self.mesh), frozen)
        state = jax.eval_shape(lambda: init_state(trainable, self.tx, keys))
        shardings = tree_shardings(self.mesh, state)
        make = jax.jit(lambda t, k: init_state(t, self.tx, k), out_shardings=shardings)
        return make(place(trainable, tree_shardings(self.mesh, trainable)), keys), frozen


def with_lengths(data: DataSource, backbone: AnyBackbone) -> DataSource:
    """Return the data with feature lengths: those that suit its files where it has none."""
    tables = [part for name in data.names for part in loading.constituents(name)]
    if data.task_feature_lengths is not None or not all(map(loading.is_table, tables)):
        _ = data.lengths  # that there are some is known before anything is compiled
        return data
    if isinstance(backbone, StoredBackbone):
        vocabulary = backbone.vocabulary()
    else:
        path = backbone.vocabulary if isinstance(backbone, RandomBackbone) else None
        path = path or getattr(backbone, "vocabulary_path", None)
        if path is None:
            return data
        vocabulary = Vocabulary(path)
    return dataclasses.replace(data, task_feature_lengths=suited_lengths(tables, vocabulary))


def loaded_on(backbone: AnyBackbone, mesh: Mesh) -> Backbone:
    """Return a backbone on the mesh, loaded now unless it was."""
    if not isinstance(backbone, Backbone):
        return backbone.load(mesh)
    shardings = tree_shardings(mesh, backbone.params)
    return dataclasses.replace(backbone, params=place(backbone.params, shardings))


def _root_keys(seeds: Sequence[int]) -> Any:
    return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))


def init_keys(seeds: Sequence[int], names: Sequence[str] | None) -> Any:
    """Return each prompt's key of initial values, by its task's name too where there are names."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(_root_keys(seeds), 0xFFFFFFFF)
    if names is None:
        return keys
    marks = [zlib.crc32(name.encode()) for name in names]
    return jax.vmap(jax.random.fold_in)(keys, np.asarray(marks, np.uint32))


def _ancestry(
    origins: Sequence[StoredPrompt] | None, count: int
) -> list[tuple[Mapping[str, Any], ...]]:
    if origins is None:
        return [()] * count
    return [(file.ancestor(path), *file.ancestry) for path, file in origins]


def _check_pairs(files: Sequence[StoredPrompt], names: Sequence[str]) -> None:
    """Check that of prompts trained as one none stands where another's task is."""
    for (path, file), name in zip(files, names, strict=True):
        if file.task != name and file.task in names:
            raise SpotError(
                f"{path} is a prompt of {file.task} but stands beside the data of {name}; give "
                "the prompts and MIXTURE_OR_TASK_NAME in the same order"
            )


def on_mesh(leaf: Any, mesh: Mesh) -> jax.Array:
    """Return a weight as it lies, each device with its slice; what a method adds goes to all."""
    placed = isinstance(getattr(leaf, "sharding", None), NamedSharding)
    return leaf if placed else place(leaf, replicated(mesh))


def number_of_prompts(
    method: BaseMethod, data: DataSource, optimizer: Optimizer, seeds: Sequence[int]
) -> int:
    """Return how many prompts a run tunes; `SpotError` for lists that do not go together."""
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


def _names(method: BaseMethod, data: DataSource, count: int) -> list[str]:
    """Return each prompt's task or mixture, in the method's template where it has one."""
    names = [*data.names] * (count if len(data.names) == 1 else 1)
    if not method.templates:
        return names
    templates = method.templates * (count if len(method.templates) == 1 else 1)
    return [loading.in_template(*pair) for pair in zip(names, templates, strict=True)]


def _tuning(
    backbone: Backbone, method: BaseMethod, data: DataSource, optimizer: Optimizer, i: int
) -> dict[str, Any]:
    """Return what another task's prompt must share with prompt i to be compared with it."""
    settings = plain_fields(optimizer)
    if isinstance(rates := settings["learning_rate"], list):
        settings["learning_rate"] = rates[i if len(rates) > 1 else 0]
    return {
        "init": getattr(method, "init", ""),
        "lengths": dict(data.lengths),
        "batch_size": data.batch_size,
        "pack": data.pack,
        "dropout_rate": backbone.config.dropout_rate,
        "optimizer": type(optimizer).__name__,
        "optimizer_settings": settings,
    }


def _sources(
    data: DataSource,
    names: Sequence[str],
    seeds: Sequence[int],
    vocabulary: Vocabulary | None,
    vocab_size: int,
    hosts: Hosts | None,
) -> list[Source]:
    """Return each prompt's data; prompts of one task share examples in memory, not their order."""
    examples: dict[str, ExampleTable] = {}
    sources: list[Source] = []
    for name, seed in zip(names, seeds, strict=True):
        if name in examples:
            sources.append(Shuffled(examples[name], seed))
            continue
        source = loading.training_source(
            name,
            vocabulary,
            seed,
            split=data.split,
            lengths=data.lengths,
            use_cached=data.use_cached_tasks,
            hosts=hosts,
        )
        if isinstance(source, Shuffled):
            source.examples.check_ids(vocab_size, name)
            examples[name] = source.examples
        sources.append(source)
    return sources


def _choices(
    method: BaseMethod, task: Task, source: Source, data: DataSource
) -> ChoiceWriter | None:
    """Return what adds a task's answers to batches, for a loss over them; None for other losses.

    Raises:
        SpotError: packed batches, a mixture, or a task without answers to choose among.
    """
    if not getattr(method, "chooses", False):
        return None
    setting = f"{type(method).__name__}.choice_loss"
    if data.pack:
        raise SpotError(
            f"{setting} scores answers of one example a row, but DataSource.pack packs several; "
            "set PACK = False"
        )
    if task.labels and task.vocabulary is not None:
        labels = answer_tokens(task.vocabulary, task.labels)
        return ChoiceWriter((labels.shape[0], labels.shape[1]), labels)
    examples = source.examples if isinstance(source, Shuffled) else None
    if examples is None or examples.choices is None:
        raise SpotError(
            f"{setting} needs answers to choose among, but {task.name} has neither labels nor "
            "examples with a field `choices`; name such a task, or leave the setting out"
        )
    return ChoiceWriter((examples.choices.shape[1], examples.choices.shape[2]))


def _batches(
    sources: Sequence[Source],
    data: DataSource,
    writers: Sequence[InputWriter | None],
    host_rows: slice,
    choices: Sequence[ChoiceWriter | None],
) -> MultiPromptBatches | Batches:
    lengths, packed = data.lengths, data.packed_lengths or {}
    shape = BatchShape(
        data.batch_size,
        lengths["inputs"],
        lengths["targets"],
        data.pack,
        packed.get("inputs"),
        packed.get("targets"),
    )
    batches = []
    shapes = [each.shape for each in choices if each is not None]
    room = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    for source, write, choice in zip(sources, writers, choices, strict=True):
        examples = source.examples if isinstance(source, Shuffled) else None
        if write is not None and isinstance(examples, Examples):
            write.check_examples(examples, shape.text_lengths(write.room)[0])
        rows = host_rows if len(sources) == 1 else None
        # Prompts of one program have answers of one shape.
        writer = None if choice is None else ChoiceWriter((room[0], room[1]), choice.labels)
        batches.append(Batches(source, shape, write=write, host_rows=rows, choices=writer))
    return batches[0] if len(batches) == 1 else MultiPromptBatches(batches, host_rows=host_rows)
