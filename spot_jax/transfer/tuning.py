"""How the prompts of one transfer are tuned: a target from its starts, its embedding, a mixture."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from spot_jax.data import loading
from spot_jax.data.data_source import DataSource
from spot_jax.errors import COUNT, SEED, SpotError, check_fields, check_range
from spot_jax.methods.base import BaseMethod
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import Adafactor, Optimizer
from spot_jax.training.run import TrainResult, train
from spot_jax.training.sharding import MeshShape
from spot_jax.transfer.initialisation import beginning, check_method


class Stopped(KeyboardInterrupt):
    """A signal ended a run between two steps; it is saved, and the same command goes on."""


def finish_training(**options: Any) -> TrainResult:
    """Return what `train` returns for a run that came to its end.

    Raises:
        SpotError: see `train`.
        Stopped: a signal ended it before.
    """
    result = train(**options)
    if not result.finished:
        raise Stopped(f"{options['model_dir']} stopped and is saved at step {result.step}")
    return result


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What every run of a transfer shares; the defaults are those of SPoT's section 3.

    Attributes:
        backbone: T5 of every run.
        data: target task, and lengths and batch size for it and for mixtures with it.
        method: method of all prompts, any that `initialisation.check_method` lets pass; its `init`
            is that of a target without a source.
        optimizer: optimizer of every prompt.
        train_steps: number of updates of the target.
        seeds: seeds of the target's runs; results are by seed and as their mean.
        evaluation: evaluation of the target's checkpoints; its split is the one that chooses.
        checkpoints: plan of saving; `embedding_step` is the target's embedding's, the library's
            prompts should have the same.
        mesh: arrangement of the devices; one device by default.
        source_init: initialisation of the target's embedding and of mixtures, as of the library's
            prompts; None for the method's own `init`.
        source_steps: number of updates of a mixture's prompt.
        prompts_at_once: greatest number of prompts tuned in one program; None for all.
    """

    backbone: StoredBackbone
    data: DataSource
    method: BaseMethod = PromptTuning()
    optimizer: Optimizer = Adafactor()
    train_steps: int = 100_000
    seeds: int | Sequence[int] = 0
    evaluation: EvaluationPlan = EvaluationPlan(period=500)
    checkpoints: CheckpointPlan = CheckpointPlan(period=500, embedding_step=10_000)
    mesh: MeshShape | None = None
    source_init: str | None = "sampled_vocabulary"
    source_steps: int = 262_144
    prompts_at_once: int | None = None

    def __post_init__(self) -> None:
        """Raise `SpotError` for a method that cannot be transferred."""
        check_method(self.method)
        check_range("SEEDS", self.seeds, SEED)
        check_fields(self, train_steps=COUNT, source_steps=COUNT, prompts_at_once=COUNT)

    @property
    def target(self) -> str:
        """The target task's name."""
        if len(self.data.names) != 1:
            raise SpotError(
                f"a transfer has one target, found {len(self.data.names)}: give one "
                "MIXTURE_OR_TASK_NAME, and start the command once for each"
            )
        return self.data.names[0]

    @property
    def seed_list(self) -> list[int]:
        """The seeds as a list."""
        return [self.seeds] if isinstance(self.seeds, int) else list(self.seeds)

    def register(self) -> None:
        """Register the tasks that the user's modules and text define.

        Raises:
            SpotError: no backbone, text or task of the names; some are found out later.
        """
        self.backbone.check()
        loading.check_names(self.data.names, self.data.modules, self.data.text_directory)
        if self.data.modules:
            loading.import_modules(self.data.modules)
        if self.data.text_directory:
            loading.register_text(self.data.text_directory)

    def embed(self, directory: epath.Path, progress: bool | None = None) -> list[epath.Path]:
        """Tune the target to the embedding step, nothing evaluated; return a file a seed.

        Raises:
            SpotError: there is no embedding step.
            Stopped: by a signal.
        """
        step = self.checkpoints.embedding_step
        if step < 1:
            raise SpotError(
                "retrieval compares task embeddings, which need a step to be taken at; set "
                "CheckpointPlan.embedding_step (EMBEDDING_STEP) to that of the library's prompts"
            )
        return self._run(
            directory,
            progress,
            method=beginning(self.method, self.source_init),
            train_steps=step,
            seeds=self.seed_list,
            evaluation=EvaluationPlan(period=0),
            checkpoints=self.checkpoints,
        ).embeddings

    def tune_mixtures(
        self, directory: epath.Path, mixtures: Sequence[str], progress: bool | None = None
    ) -> list[epath.Path]:
        """Tune a prompt on each mixture, with the first seed; return the final checkpoints."""
        return self._run(
            directory,
            progress,
            method=beginning(self.method, self.source_init),
            data=dataclasses.replace(
                self.data, mixture_or_task_name=mixtures if len(mixtures) > 1 else mixtures[0]
            ),
            train_steps=self.source_steps,
            seeds=self.seed_list[0],
            evaluation=EvaluationPlan(period=0),
        ).prompts

    def tune(
        self,
        directory: epath.Path,
        starts: Sequence[str | None],
        seeds: Sequence[int],
        evaluation: EvaluationPlan,
        progress: bool | None = None,
    ) -> TrainResult:
        """Tune the target, a prompt for each start and seed, all in one program.

        Args:
            directory: path of the run.
            starts: path of a prompt file, or None for from scratch, for each prompt.
            seeds: seed of each prompt.
            evaluation: plan of the evaluations that choose checkpoints.
            progress: whether to show a progress bar; None for where stderr is a terminal.
        """
        files = [start for start in starts if start is not None]
        assert len(files) in (0, len(starts)), "a run begins from prompts or from scratch"
        return self._run(
            directory,
            progress,
            method=beginning(self.method, None, files or None),
            train_steps=self.train_steps,
            seeds=list(seeds),
            evaluation=evaluation,
        )

    def _run(self, directory: epath.Path, progress: bool | None, **options: Any) -> TrainResult:
        shared = {
            "backbone": self.backbone,
            "data": self.data,
            "optimizer": self.optimizer,
            "checkpoints": dataclasses.replace(self.checkpoints, embedding_step=0),
            "mesh": self.mesh,
        }
        return finish_training(model_dir=str(directory), progress=progress, **shared | options)
