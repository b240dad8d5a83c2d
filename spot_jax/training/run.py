"""`train`: everything a training run does, from loading the backbone to its last checkpoint."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spot_jax.data import loading
from spot_jax.data.batches import Batches, BatchShape
from spot_jax.data.lanes import Lanes
from spot_jax.data.sources import Source
from spot_jax.data.virtual_tokens import VirtualTokens
from spot_jax.errors import SpotError
from spot_jax.methods.base import Method, Tree
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.t5.backbone import Backbone, fingerprint, save_backbone
from spot_jax.t5.model import unstack_layers
from spot_jax.t5.vocabulary import Vocabulary
from spot_jax.training.checkpoints import CheckpointPlan, Checkpoints
from spot_jax.training.loop import Hooks, fit
from spot_jax.training.metrics_log import MetricsLog
from spot_jax.training.optimizers import Optimizer, build
from spot_jax.training.progress import Progress
from spot_jax.training.recipes import (
    DataSource,
    EvaluationPlan,
    ModelTuningRecipe,
    PromptTuningRecipe,
    RandomBackbone,
    StoredBackbone,
)
from spot_jax.training.run_directory import (
    check_same_run,
    run_path,
    write_environment,
    write_json,
)
from spot_jax.training.run_setup import RunSetup, absolute, task_facts
from spot_jax.training.sharding import (
    BatchPlacement,
    MeshShape,
    make_mesh,
    place,
    tree_shardings,
)
from spot_jax.training.state import State, init_state, train_step
from spot_jax.training.validation import Best, Validation, prompt_of


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        directory: the run directory.
        step: updates done.
        finished: False if a signal stopped the run before its last step.
        best: for each prompt its best checkpoint by validation.
        last: for each prompt the metrics of the last evaluation; empty if there was none.
        prompts: for each prompt the file of the best checkpoint (the last one's without
            evaluation); empty for model tuning.
        truncated_inputs: examples whose text was cut, of `examples`.
        examples: examples trained on.
    """

    directory: Path
    step: int
    finished: bool
    best: list[Best]
    last: list[dict[str, float]]
    prompts: list[Path]
    truncated_inputs: int
    examples: int


def train(
    *,
    model_dir: str,
    backbone: StoredBackbone | RandomBackbone,
    method: PromptTuningRecipe | ModelTuningRecipe,
    data: DataSource,
    optimizer: Optimizer,
    train_steps: int,
    seeds: int | Sequence[int] = 0,
    evaluation: EvaluationPlan | None = None,
    checkpoints: CheckpointPlan | None = None,
    mesh: MeshShape | None = None,
    progress: bool | None = None,
    operative_config: str = "",
) -> TrainResult:
    """Trains, or goes on training, in a run directory.

    Lists of tasks, seeds, learning rates and prompts to begin from make several prompts, tuned in
    one program; each takes the path it would take alone.

    Args:
        model_dir: the run directory; a run that is there is resumed exactly, its data order too.
        backbone: the T5.
        method: what is trained.
        data: what on; a list of tasks gives each prompt its own.
        optimizer: of the trainable tree.
        train_steps: the run's last step.
        seeds: of initialisation, data order and dropout; a list for several prompts.
        evaluation: when and how checkpoints are scored.
        checkpoints: when steps are saved.
        mesh: how devices are arranged; one device by default.
        progress: a progress bar; None for one where stderr is a terminal.
        operative_config: text to keep in the run directory.

    Raises:
        SpotError: anything wrong in what was given, before long work starts; NaN in the loss.
    """
    directory = run_path(model_dir)
    if train_steps < 1:
        raise SpotError(f"TRAIN_STEPS is at least 1, found {train_steps}")
    built = make_mesh(mesh or MeshShape(data=1, model=1))
    setup = _Setup.make(backbone, method, data, optimizer, seeds, built)
    description = setup.description(backbone, method, data, optimizer)
    check_same_run(directory, description)
    if jax.process_index() == 0:
        write_environment(directory)
        if operative_config:
            (directory / "config.gin").write_text(operative_config)
    plans = evaluation or EvaluationPlan(), checkpoints or CheckpointPlan()
    if jax.process_index() == 0:
        setup.for_inference(backbone, data, plans[0]).save(directory)
    return _Run(directory, setup, data, *plans).go(train_steps, progress)


@dataclasses.dataclass
class _Setup:
    """The parts of a run, built and checked."""

    mesh: Any
    backbone: Backbone
    vocabulary: Vocabulary | None
    method: Method
    names: list[str]
    seeds: list[int]
    ancestry: list[tuple[dict[str, Any], ...]]
    tx: Any
    batches: Lanes | Batches
    placement: BatchPlacement

    @classmethod
    def make(cls, backbone, method, data, optimizer, seeds, mesh) -> "_Setup":
        if data.modules or data.text_directory:
            loading.import_modules(data.modules)
            if data.text_directory:
                loading.register_text(data.text_directory)
        seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        rates = optimizer.learning_rate
        rates = list(rates) if isinstance(rates, Sequence) else [rates]
        counts = {
            "tasks": len(data.names),
            "seeds": len(seeds),
            "learning rates": len(rates),
            "prompts to begin from": method.copies,
        }
        count = max(counts.values())
        for what, number in counts.items():
            if number not in (1, count):
                raise SpotError(
                    f"{number} {what} for {count} prompts; give one for all or one for each"
                )
        names, seeds = ([*x] * (count if len(x) == 1 else 1) for x in (data.names, seeds))
        rows = BatchPlacement(mesh, data.batch_size * count)
        loaded = backbone.load(mesh)
        path = loaded.vocabulary_path
        vocabulary = None if path is None else Vocabulary(path)
        labels = [loading.labels_of(name) for name in names]
        built = method.build(loaded, vocabulary, labels)
        files = method.sources(loaded, count)
        ancestry = [
            () if files is None else (files[i][1].ancestor(files[i][0]), *files[i][1].ancestry)
            for i in range(count)
        ]
        sources = [
            loading.training_source(
                name,
                vocabulary,
                seed,
                split=data.split,
                lengths=data.task_feature_lengths,
                use_cached=data.use_cached_tasks,
            )
            for name, seed in zip(names, seeds, strict=True)
        ]
        batches = _batches(sources, data, built, loaded.config.vocab_size, rows.host_rows)
        tx = build(optimizer, count)
        return cls(mesh, loaded, vocabulary, built, names, seeds, ancestry, tx, batches, rows)

    def description(self, backbone, method, data, optimizer) -> dict[str, Any]:
        """What decides the run's path, for run.json."""
        return {
            "backbone": self.backbone.fingerprint,
            "dtype": self.backbone.config.dtype,
            "dropout_rate": self.backbone.config.dropout_rate,
            "method": type(method).__name__,
            "method_settings": _plain(method),
            "tasks": self.names,
            "lengths": dict(data.task_feature_lengths),
            "batch_size": data.batch_size,
            "pack": data.pack,
            "packed_lengths": data.packed_lengths,
            "split": data.split,
            "optimizer": type(optimizer).__name__,
            "optimizer_settings": _plain(optimizer),
            "seeds": self.seeds,
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
        trainable, frozen = self.method.init(fresh, self.backbone)
        state = jax.eval_shape(lambda: init_state(trainable, self.tx, keys))
        shardings = tree_shardings(self.mesh, state)
        make = jax.jit(lambda t, k: init_state(t, self.tx, k), out_shardings=shardings)
        return make(place(trainable, tree_shardings(self.mesh, trainable)), keys), frozen


def _plain(recipe: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"type": type(value).__name__, **plain(dataclasses.asdict(value))}
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value if isinstance(value, str | int | float | bool | None) else repr(value)

    return {f.name: plain(getattr(recipe, f.name)) for f in dataclasses.fields(recipe)}


def _batches(
    sources: Sequence[Source], data: DataSource, method: Method, vocab_size: int, host_rows: slice
) -> Lanes | Batches:
    lengths, packed = data.task_feature_lengths, data.packed_lengths or {}
    for name in ("inputs", "targets"):
        if name not in lengths:
            raise SpotError(
                f"TASK_FEATURE_LENGTHS lacks {name!r}; give {{'inputs': .., 'targets': ..}}"
            )
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
        write = None
        if method.prompt_length:
            write = VirtualTokens(vocab_size, method.prompt_length, i)
        one = host_rows if len(sources) == 1 else None
        lanes.append(Batches(source, shape, write=write, host_rows=one))
    return lanes[0] if len(lanes) == 1 else Lanes(lanes, host_rows=host_rows)


class _Run:
    """One start of a run: resumes, trains, evaluates, saves."""

    def __init__(self, directory, setup, data, evaluation, checkpoints):
        self.directory, self.setup, self.plan = directory, setup, evaluation
        self.lead = jax.process_index() == 0
        self.saved = Checkpoints(directory / "checkpoints", checkpoints)
        self.best = [Best() for _ in setup.names]
        self.last: list[dict[str, float]] = []
        self.validation = None
        if evaluation.period:
            self.validation = Validation(
                setup.method, setup.vocabulary, data, setup.names, evaluation, setup.mesh
            )

    def go(self, steps: int, progress: bool | None) -> TrainResult:
        state, self.frozen = self.setup.first_state()
        if self.saved.newest() is not None:
            state, place_in_data = self.saved.restore(state)
            self.setup.batches.restore(place_in_data["batches"])
            self.best = [Best(**one) for one in place_in_data["best"]]
            self.last = place_in_data["last"]
        first = int(state.step)
        if first > steps:
            raise SpotError(
                f"{self.directory} is at step {first} already, TRAIN_STEPS is {steps}; raise it, "
                "or choose another MODEL_DIR"
            )
        self.log = MetricsLog(self.directory)
        self.log.truncate_after(first)
        self.bar = Progress(steps, first, progress)
        hooks = Hooks(
            self.save,
            self.evaluate,
            self.report,
            self.saved.plan.period,
            self.plan.period,
        )
        setup = self.setup
        step = train_step(setup.method, setup.tx, setup.backbone.config.dropout_rate > 0)
        try:
            state, finished = fit(
                state, self.frozen, step, setup.batches, setup.placement, steps, hooks
            )
        finally:
            self.bar.close()
            self.log.close()
            self.saved.close()
        return self.result(state, finished)

    def save(self, state: State) -> None:
        place_in_data = {
            "batches": self.setup.batches.state(),
            "best": [dataclasses.asdict(b) for b in self.best],
            "last": self.last,
        }
        self.saved.save(state, place_in_data)

    def evaluate(self, step: int, state: State) -> dict[str, Any]:
        if self.validation is None:
            return {}
        self.last = self.validation(state.trainable, self.frozen)
        scalars: dict[str, Any] = {}
        for i, metrics in enumerate(self.last):
            if metrics["score"] > self.best[i].score:
                self.best[i] = Best(step, metrics["score"], metrics)
                self._write_prompt("best", i, step, state, metrics)
        for name in self.last[0]:
            each = [metrics.get(name, float("nan")) for metrics in self.last]
            scalars[f"validation/{name}"] = each[0] if len(each) == 1 else each
        self.log.write(step, scalars)
        self.bar.note(scalars)
        return scalars

    def report(self, step: int, scalars: dict[str, np.ndarray]) -> None:
        batches = self.setup.batches
        values: dict[str, Any] = {}
        for name in ("loss", "accuracy", "tokens"):
            each = scalars[name]
            values[f"train/{name}"] = each[0] if len(each) == 1 else each
        values["train/grad_norm"] = float(scalars["grad_norm"])
        values["train/truncated_inputs"] = batches.truncated_inputs
        self.bar.update(step, float(np.mean(scalars["loss"])), batches.examples)
        self.log.write(step, values)

    def _write_prompt(self, which, i, step, state, metrics) -> Path | None:
        setup = self.setup
        prompt = prompt_of(setup.method, state.trainable, i)
        path = self.directory / "prompts" / f"{which}-{i}.safetensors"
        if prompt is not None and self.lead:
            PromptFile(
                prompt,
                method={"name": type(setup.method).__name__, "length": setup.method.prompt_length},
                backbone=setup.backbone.fingerprint,
                vocabulary=setup.vocabulary.sha256 if setup.vocabulary else "",
                task=setup.names[i],
                step=step,
                seed=setup.seeds[i],
                metrics=metrics,
                ancestry=setup.ancestry[i],
            ).save(path)
        return None if prompt is None else path

    def result(self, state: State, finished: bool) -> TrainResult:
        setup, step, batches = self.setup, int(state.step), self.setup.batches
        paths = []
        if finished:
            for i in range(len(setup.names)):
                metrics = self.last[i] if self.last else {}
                last = self._write_prompt("last", i, step, state, metrics)
                best = self.directory / "prompts" / f"best-{i}.safetensors"
                if last is not None:
                    paths.append(best if self.best[i].step >= 0 else last)
            if not setup.method.prompt_length and self.lead:
                self._write_backbone(state, step)
        found = TrainResult(
            self.directory,
            step,
            finished,
            self.best,
            self.last,
            paths,
            batches.truncated_inputs,
            batches.examples,
        )
        if finished and self.lead:
            write_json(self.directory / "result.json", _plain(found))
        return found

    def _write_backbone(self, state: State, step: int) -> None:
        config, loaded = self.setup.backbone.config, self.setup.backbone
        params = self.setup.method.backbone_params(state.trainable, self.frozen)
        params = jax.tree.map(np.asarray, params)
        if config.scan_layers:
            params = unstack_layers(params, config)
        destination = self.directory / "backbone"
        if destination.exists():
            return
        source = f"{loaded.source}; then {step} steps on {', '.join(self.setup.names)}"
        mark = fingerprint(config, params)
        save_backbone(
            destination, Backbone(config, params, mark, loaded.vocabulary_path, source.strip("; "))
        )
