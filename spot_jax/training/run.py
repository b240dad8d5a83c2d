"""`train`: everything a training run does, from loading the backbone to its last checkpoint."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from spot_jax.data import loading
from spot_jax.data.data_source import DataSource
from spot_jax.data.prefetch import Prefetched
from spot_jax.data.table import Table, forget
from spot_jax.errors import COUNT, SEED, SpotError, SpotWarning, check_range
from spot_jax.files import (
    is_local,
    plain_fields,
    read_object,
    remove_tree,
    write_object,
    write_whole,
)
from spot_jax.files.digests import json_digest
from spot_jax.files.records import from_plain
from spot_jax.methods.base import BaseMethod
from spot_jax.methods.losses import Tree
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.t5.backbone import Backbone, fingerprint, save_backbone
from spot_jax.t5.model import unstack_layers
from spot_jax.t5.stored import read_description
from spot_jax.training.best_weights import BestWeights
from spot_jax.training.build import AnyBackbone, RunParts, with_lengths
from spot_jax.training.checkpoints import CheckpointPlan, Checkpoints
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.distributed import agreed, by_lead, check_one_directory
from spot_jax.training.loop import Hooks, fit
from spot_jax.training.metrics_log import MetricsLog
from spot_jax.training.optimizers import Optimizer
from spot_jax.training.profiler import Profiled
from spot_jax.training.progress import Progress
from spot_jax.training.run_directory import (
    RUN_REMEDY,
    check_same_run,
    owned,
    run_path,
    write_environment,
)
from spot_jax.training.run_info import check_tables, task_facts
from spot_jax.training.sharding import MeshShape, make_mesh, on_lead
from spot_jax.training.step import State, check_divisible_loss, train_step
from spot_jax.training.step_timer import StepTimer
from spot_jax.training.trackers import Background, check_trackers, tracking
from spot_jax.training.validation import Best, Validation

# Metrics of a step as a whole; all others have an entry for each prompt.
WHOLE = ("grad_norm", "finite")
T5X_FIRST_STEP = 1_100_000


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        directory: run directory.
        step: number of updates done.
        finished: whether the run reached its last step; False if a signal stopped it before.
        best: best checkpoint by validation, for each prompt.
        last: metrics of the last evaluation, for each prompt; empty if there was none.
        prompts: file of the best checkpoint (the last one's without evaluation), for each prompt;
            empty for model tuning, whose best weights are in `backbone/`.
        embeddings: file of its embedding, for each prompt, once `CheckpointPlan.embedding_step`
            is past; empty if there is none.
        truncated_inputs: number of examples whose inputs were cut, of `examples`.
        examples: number of examples trained on.
        trainable: count of what is trained for each prompt; of all where they share weights.
        seconds: duration of updates, as long as they take once compiled, without evaluations and
            saves.
        truncated_targets: number of examples whose targets were cut, of `examples`.
    """

    directory: epath.Path
    step: int
    finished: bool
    best: list[Best]
    last: list[dict[str, float]]
    prompts: list[epath.Path]
    embeddings: list[epath.Path]
    truncated_inputs: int
    examples: int
    trainable: int = 0
    seconds: float = 0.0
    truncated_targets: int = 0


def train(
    *,
    model_dir: str,
    backbone: AnyBackbone,
    method: BaseMethod,
    data: DataSource | Table | str,
    optimizer: Optimizer,
    train_steps: int,
    seeds: int | Sequence[int] = 0,
    evaluation: EvaluationPlan | None = None,
    checkpoints: CheckpointPlan | None = None,
    mesh: MeshShape | None = None,
    progress: bool | None = None,
    operative_config: str = "",
    init_by_task: bool = False,
    num_microbatches: int = 1,
    profile_steps: int = 0,
    trackers: Sequence[str] = (),
    stats_period: int = 1,
) -> TrainResult:
    """Train, or go on training, in a run directory.

    Lists of tasks, seeds, learning rates and prompts to begin from make several prompts, tuned in
    one program; each takes the path it would take alone.

    Args:
        model_dir: run directory; a run that is there is resumed exactly, its data order too.
        backbone: T5, loaded or to be loaded.
        method: hyper-parameters of what is trained.
        data: tasks to train on; a list of tasks gives each prompt its own. A `Table`, or the path
            of a file of rows, is a task whose feature lengths follow from its texts.
        optimizer: optimizer of the trainable tree.
        train_steps: number of the run's last step.
        seeds: seed of initialisation, data order and dropout; a list for several prompts.
        evaluation: plan of how checkpoints are scored.
        checkpoints: plan of when steps are saved.
        mesh: arrangement of devices; one device by default.
        progress: whether there is a progress bar; None for one where stderr is a terminal.
        operative_config: text to keep in the run directory.
        init_by_task: whether initial values depend on the task's name beside the seed, so that
            prompts of one seed and several tasks do not begin alike and find each other.
        num_microbatches: number of parts that a batch is taken in, where memory is short: gradients
            are added up, and a step is the same as with the whole batch.
        profile_steps: number of steps of each start, from its third, whose profile is written to
            `profile/` in the run directory, for TensorBoard or xprof; 0 for none.
        trackers: names of services that get the metrics too, of "wandb" and "mlflow"; a run that is
            resumed goes on in the same tracked run.
        stats_period: number of steps between two that are logged; a line of many prompts takes
            milliseconds and kilobytes.

    Raises:
        SpotError: anything wrong in what was given, before long work starts; NaN in the loss.
    """
    if isinstance(data, Table | str):
        data = DataSource(data)
    check_trackers(trackers)
    directory = run_path(model_dir)
    plans = evaluation or EvaluationPlan(), checkpoints or CheckpointPlan()
    plans[1].check()
    _check_steps(train_steps, plans[1], method)
    check_range("SEEDS", seeds, SEED)
    method.check_source()
    forget(data.names)
    check_tables(directory, data.names)
    _check_parts(num_microbatches, data.batch_size, method, profile_steps)
    check_range("train.stats_period", stats_period, COUNT)
    devices = make_mesh(mesh or MeshShape(data=1, model=1))
    check_one_directory(directory)
    with owned(directory):
        if not isinstance(backbone, Backbone):
            backbone.check()
        loading.check_names(data.names, data.modules, data.text_directory)
        data = with_lengths(data, backbone)
        setup = RunParts.make(
            backbone, method, data, optimizer, seeds, devices, init_by_task, directory
        )
        description = setup.description(data, optimizer)

        def begin() -> None:
            check_same_run(directory, description, method.defaults())
            write_environment(directory)
            if operative_config:
                write_whole(directory / "config.gin", operative_config)
            setup.for_inference(backbone, data, plans[0]).save(directory)

        by_lead(begin)
        with tracking(directory, trackers, description) as tracked:
            views = tracked.trackers
            run = _Run(directory, setup, data, *plans, num_microbatches, profile_steps, views)
            run.stats_period = stats_period
            result = run.go(train_steps, progress)
            tracked.finished = result.finished
        if result.finished:
            by_lead(lambda: remove_tree(directory / "tokens"))
        return result


def _check_steps(train_steps: int, plan: CheckpointPlan, method: BaseMethod) -> None:
    embedding_step = plan.embedding_step
    if train_steps < 1:
        raise SpotError(f"TRAIN_STEPS is at least 1, found {train_steps}")
    check_range("TRAIN_STEPS", train_steps, COUNT)
    if train_steps > T5X_FIRST_STEP:
        warnings.warn(
            f"TRAIN_STEPS is {train_steps:,}: T5X counts on from the {T5X_FIRST_STEP:,} steps of "
            f"its backbones, here a run begins at 0; was {train_steps - T5X_FIRST_STEP:,} meant?",
            SpotWarning,
            stacklevel=3,
        )
    if not 0 <= embedding_step <= train_steps:
        raise SpotError(
            f"embedding_step is {embedding_step}, but the run's steps are 1 to {train_steps}; "
            "raise TRAIN_STEPS, or set CheckpointPlan.embedding_step to one of them, 0 for none"
        )
    if embedding_step and method.tunes_backbone:
        raise SpotError(
            f"embedding_step is {embedding_step}, but model tuning has no prompt to embed a task "
            "by; set CheckpointPlan.embedding_step = 0"
        )
    beyond = [step for step in plan.prompt_steps if step > train_steps]
    if beyond or (plan.prompt_steps and method.tunes_backbone):
        reason = "a tuned model is not kept by steps"
        if beyond:
            reason = f"the run's steps are 1 to {train_steps}"
        raise SpotError(
            f"CheckpointPlan.prompt_steps is {list(plan.prompt_steps)}, but {reason}; leave out "
            "what cannot be"
        )


def _check_parts(count: int, rows: int, method: BaseMethod, profile_steps: int) -> None:
    if profile_steps < 0:
        raise SpotError(f"train.profile_steps is 0 or more, found {profile_steps}")
    if count < 1 or rows % count:
        raise SpotError(
            f"train.num_microbatches is {count}, but a batch has {rows} rows; give a number that "
            "divides BATCH_SIZE"
        )
    check_divisible_loss(method, count)


class _Run:
    """One start of a run: resumes, trains, evaluates, saves."""

    def __init__(
        self,
        directory: epath.Path,
        setup: RunParts,
        data: DataSource,
        evaluation: EvaluationPlan,
        checkpoints: CheckpointPlan,
        microbatches: int,
        profile_steps: int,
        trackers: Sequence[Background],
    ):
        self.directory, self.setup, self.plan = directory, setup, evaluation
        self.microbatches, self.profile_steps = microbatches, profile_steps
        self.trackers, self.stats_period = trackers, 1
        self.lead = jax.process_index() == 0
        self.saved = Checkpoints(directory / "checkpoints", checkpoints)
        # What its steps are of.
        self.mark = json_digest(read_object(directory / "run.json", RUN_REMEDY) or {})
        self.best = [Best() for _ in setup.names]
        lengths = data.lengths
        self.uses = [facts.use(lengths) for facts in task_facts(setup.names)]
        self.last: list[dict[str, float]] = []
        # Step of the best weights that the newest checkpoint names.
        self.named = -1
        self.weights = None
        if setup.method.tunes_backbone and evaluation.period:
            self.weights = BestWeights(directory / "best")
        self.validation = None
        if evaluation.period:
            self.validation = Validation(setup, data, evaluation)

    def go(self, steps: int, progress: bool | None) -> TrainResult:
        state, self.frozen = self.setup.first_state()
        if self.saved.newest() is not None:
            state, place_in_data = self.saved.restore(state)
            if place_in_data.get("run", self.mark) != self.mark:
                raise SpotError(
                    f"{self.directory / 'checkpoints'}: steps of another run than run.json's; "
                    "restore this run's own, or choose another MODEL_DIR"
                )
            self.setup.batches.restore(place_in_data["batches"])
            self.best = [from_plain(Best, fields, "best") for fields in place_in_data["best"]]
            self.last = place_in_data["last"]
            self._check_best_prompts()
        sizes = [leaf.size for leaf in jax.tree.leaves(state.trainable)]
        self.trainable = sum(sizes) // self.setup.program.num_trained
        first = int(state.step)
        if first > steps:
            raise SpotError(
                f"{self.directory} is at step {first} already, TRAIN_STEPS is {steps}; raise it, "
                "or choose another MODEL_DIR"
            )
        self._check_embeddings(first)
        if first < steps:
            self._resume_best_weights()
        self.log = MetricsLog(self.directory, self.trackers)
        self.log.truncate_after(first)
        self.bar = Progress(steps, first, progress)
        self.timer = StepTimer()
        hooks = Hooks(
            self.timer.untimed(self.save),
            self.timer.untimed(self.evaluate),
            self.report,
            self.saved.plan.period,
            self.plan.period,
            self.timer.untimed(self.keep_prompts),
            {self.saved.plan.embedding_step, *self.saved.plan.prompt_steps},
            self.is_over,
        )
        setup = self.setup
        dropout = setup.backbone.config.dropout_rate > 0
        step = Profiled(
            train_step(setup.program, setup.tx, dropout, self.microbatches, setup.mesh),
            self.directory / "profile",
            self.profile_steps,
        )
        if self.is_over(first):
            steps = first
        try:
            state, finished = fit(
                state, self.frozen, step, setup.batches, setup.placement, steps, hooks
            )
        finally:
            step.close()
            if isinstance(setup.batches, Prefetched):
                setup.batches.close()
            self.bar.close()
            self.log.close()
            self.saved.close()
        result = self.result(state, finished)
        if self.weights is not None:
            self.weights.close()
        return result

    def _resume_best_weights(self) -> None:
        """Hold on to the best weights that the checkpoint names, and to no others.

        Runs of before kept the last weights alone: their best step is forgotten.
        """
        if self.weights is None:
            return
        self.named = self.best[0].step
        if self.named >= 0 and not self.weights.holds(self.named):
            warnings.warn(
                f"{self.directory} has not kept the weights of step {self.named}, its best so far; "
                "the best of the steps from here on is kept",
                SpotWarning,
                stacklevel=1,
            )
            self.best, self.named = [Best() for _ in self.setup.names], -1
        self.weights.drop_all_but({self.named})

    def _check_best_prompts(self) -> None:
        """Forget a best step whose prompt's file is gone or another: what is said is what is kept.

        A file of a later step was written between its evaluation and a kill, and will be again.
        """
        if self.weights is not None:
            return
        for i, best in enumerate(self.best):
            if best.step < 0:
                continue
            fault, path = "", self._prompt_path("best", i)
            try:
                file = load_prompt(path)
                if (file.task, file.seed) != (self.setup.names[i], self.setup.seeds[i]):
                    fault = f"{path}: of the task {file.task}, seed {file.seed}"
                elif file.step < best.step:
                    fault = f"{path}: of step {file.step}"
            except SpotError as error:
                fault = str(error)
            if fault:
                warnings.warn(
                    f"{fault}; the best prompt so far, of step {best.step}, is lost, and the best "
                    "of the steps from here on is kept",
                    SpotWarning,
                    stacklevel=1,
                )
                self.best[i] = Best()

    def is_over(self, step: int) -> bool:
        """Return whether no score has been better for as long as the plan has patience."""
        best = max(each.step for each in self.best)
        if self.plan.patience is None or best < 0:
            return False
        return (step - best) // self.plan.period >= self.plan.patience

    def save(self, state: State) -> None:
        place_in_data = {
            "run": self.mark,
            "batches": self.setup.batches.state(),
            "best": [dataclasses.asdict(b) for b in self.best],
            "last": self.last,
        }
        # First, so that the log reaches as far as any step that a run can go on from.
        self.log.sync()
        self.saved.save(state, place_in_data)
        if self.weights is not None:
            self.named = self.best[0].step
            self.weights.drop_all_but({self.named})

    def evaluate(self, step: int, state: State) -> dict[str, Any]:
        if self.validation is None:
            return {}
        self.last = self.validation(state.trainable, self.frozen)
        scalars: dict[str, Any] = {}
        chosen_by = [metrics["score"] for metrics in self.last]
        if self.setup.program.num_trained == 1:
            # Prompts that come of the same numbers have their best step together.
            chosen_by = [float(np.mean(chosen_by))] * len(chosen_by)
        for i, metrics in enumerate(self.last):
            if self.best[i].is_beaten_by(chosen_by[i]):
                self.best[i] = Best(step, chosen_by[i], metrics)
                # A prompt on tuned weights is written when they are, at the end.
                if self.weights is None:
                    self._write_prompt("best", i, step, state, metrics)
        if self.weights is not None and self.best[0].step == step:
            self.weights.save(step, state.trainable, self.named)
        for name in dict.fromkeys(name for metrics in self.last for name in metrics):
            each = [metrics.get(name, float("nan")) for metrics in self.last]
            scalars[f"validation/{name}"] = each[0] if len(each) == 1 else each
        self.log.write(step, scalars)
        self.bar.note(scalars)
        return scalars

    def report(self, step: int, scalars: dict[str, np.ndarray]) -> None:
        self.timer.step()
        batches = self.setup.batches
        self.bar.update(step, float(np.mean(scalars["loss"])), batches.examples)
        if step % self.stats_period:
            return
        values: dict[str, Any] = {}
        methods_scalars = sorted(scalars.keys() - {"loss", "accuracy", "tokens", "z_loss", *WHOLE})
        for name in ("loss", "accuracy", "tokens", *methods_scalars):
            each = scalars[name]
            values[f"train/{name}"] = each[0] if len(each) == 1 else each
        values["train/grad_norm"] = float(scalars["grad_norm"])
        values["train/truncated_inputs"] = batches.truncated_inputs
        self.log.write(step, values)

    def keep_prompts(self, step: int, state: State) -> None:
        plan = self.saved.plan
        kinds = ["embedding"] if step == plan.embedding_step else []
        kinds += [f"step-{step}"] if step in plan.prompt_steps else []
        for kind in kinds:
            for i in range(len(self.setup.names)):
                self._write_prompt(kind, i, step, state, {})

    def _embeddings(self) -> list[epath.Path]:
        """Return the embeddings' files, if each exists and is of the step that was asked for."""
        step = self.saved.plan.embedding_step
        paths = [self._prompt_path("embedding", i) for i in range(len(self.setup.names))]
        complete = step and all(path.is_file() and load_prompt(path).step == step for path in paths)
        return paths if complete else []

    def _check_embeddings(self, first: int) -> None:
        """Check that a run past the embedding's step has been through it with this setting."""
        step = self.saved.plan.embedding_step
        if 0 < step <= first and not self._embeddings():
            raise SpotError(
                f"{self.directory} is at step {first} and kept no embedding at step {step}; "
                "set CheckpointPlan.embedding_step as when the run began, or choose another "
                "MODEL_DIR"
            )
        for step in self.saved.plan.prompt_steps:
            if step <= first and not self._prompt_path(f"step-{step}", 0).is_file():
                raise SpotError(
                    f"{self.directory} is at step {first} and kept no prompt at step {step}; leave "
                    "it out of CheckpointPlan.prompt_steps, or choose another MODEL_DIR"
                )

    def _prompt_path(self, which: str, i: int) -> epath.Path:
        return self.directory / "prompts" / f"{which}-{i}.safetensors"

    def _write_prompt(
        self,
        which: str,
        i: int,
        step: int,
        state: State,
        metrics: Mapping[str, float],
        backbone: str = "",
    ) -> epath.Path | None:
        setup, trees = self.setup, (state.trainable, self.frozen)
        file = setup.program.file(
            *trees,
            i,
            backbone=backbone or setup.backbone.fingerprint,
            vocabulary=setup.vocabulary.sha256 if setup.vocabulary else "",
            task=setup.names[i],
            step=step,
            seed=setup.seeds[i],
            metrics=metrics,
            ancestry=setup.ancestry[i],
            tasks=setup.tasks[i],
            tuning=setup.tuning[i],
            use=self.uses[i],
        )
        if file is None:
            return None
        path = self._prompt_path(which, i)
        # Every process computes them, since the trees lie on all of them.
        others = setup.program.companions(*trees, i, file)
        if self.lead:
            file.save(path)
            for kind, other in others.items():
                other.save(self._prompt_path(f"{kind}-{which}", i))
        return path

    def result(self, state: State, finished: bool) -> TrainResult:
        setup, step, batches = self.setup, int(state.step), self.setup.batches
        paths = []
        if finished:
            tuned = setup.method.tunes_backbone
            stored = self._best_state(state)
            which = "best" if self.weights is not None else "last"
            mark = self._write_backbone(stored) if tuned else ""
            for i in range(len(setup.names)):
                metrics = self.last[i] if self.last else {}
                if which == "best":
                    metrics = self.best[i].metrics
                path = self._write_prompt(which, i, int(stored.step), stored, metrics, mark)
                if path is None:
                    continue
                if tuned and self.lead:
                    # The others were on weights that are stored no more.
                    other = "last" if which == "best" else "best"
                    for stale in path.parent.glob(f"*{other}-{i}.safetensors"):
                        stale.unlink()
                best = self._prompt_path("best", i)
                paths.append(path if tuned or self.best[i].step < 0 else best)
        result = TrainResult(
            self.directory,
            step,
            finished,
            self.best,
            self.last,
            paths,
            self._embeddings(),
            batches.truncated_inputs,
            batches.examples,
            self.trainable,
            round(step * self.timer.per_step(), 3),
            batches.truncated_targets,
        )
        if finished and self.lead:
            write_object(self.directory / "result.json", plain_fields(result))
        return result

    def _best_state(self, state: State) -> State:
        """Return the state whose weights are stored at the end: the best one's if it is on disk."""
        step = self.best[0].step
        if self.weights is None or step == int(state.step) or not self.weights.holds(step):
            return state
        trainable = self.weights.restore(step, state.trainable)
        return State(jnp.asarray(step, jnp.int32), trainable, state.opt_state, state.keys)

    def _write_backbone(self, state: State) -> str:
        """Store the tuned weights unless they are stored already, and return their fingerprint."""
        params = self.setup.program.infer(state.trainable, self.frozen, 0).params
        params = jax.tree.map(on_lead, params)
        mark = ""
        if self.lead:
            mark = self._store_backbone(params, int(state.step))
        return agreed(mark)

    def _store_backbone(self, params: Tree, step: int) -> str:
        config, loaded = self.setup.backbone.config, self.setup.backbone
        if config.scan_layers:
            params = unstack_layers(params, config)
        destination, mark = self.directory / "backbone", fingerprint(config, params)
        if destination.exists() and read_description(destination).fingerprint == mark:
            return mark
        source = f"{loaded.source}; then {step} steps on {', '.join(self.setup.names)}"
        tuned = Backbone(config, params, mark, loaded.vocabulary_path, source.strip("; "))
        if not is_local(destination):
            # Without a rename the old go first; the checkpoint has the new.
            remove_tree(destination)
            save_backbone(destination, tuned)
            return mark
        # A run that goes on after its end has other weights: they are whole before the old go.
        new = self.directory / "backbone.new"
        remove_tree(new)
        save_backbone(new, tuned)
        remove_tree(destination)
        new.rename(destination)
        return mark
