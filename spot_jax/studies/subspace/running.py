"""One cell of a study of subspaces, done: tuned in one program, and scored on the test split.

Everything that takes long is a call of `train`, which goes on where a killed start stopped; what
else a cell writes is made anew by each start, with the same content. Its result comes last.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spot_jax.evaluation.scored_task import score_of
from spot_jax.files import write_json
from spot_jax.inference.scores import Score, score
from spot_jax.inference.tuned import Prompt, Tuned, open_tuned
from spot_jax.library.library import Library
from spot_jax.methods.prompt_file import load_prompt
from spot_jax.methods.subspace_file import load_subspace
from spot_jax.studies.subspace.directory import CellResult, IntrinsicStudy, Made
from spot_jax.studies.subspace.jobs import (
    MODEL,
    PROMPTS,
    RANDOM,
    SUBSPACE,
    TEST_MSF,
    TUNED,
    Cell,
    Part,
    prompts_cell,
)
from spot_jax.studies.transfer.plan import Stage
from spot_jax.studies.transfer.running import majority_score
from spot_jax.t5.config import parameter_shapes
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import (
    DataSource,
    EvaluationPlan,
    MethodRecipe,
    ModelTuningRecipe,
    PromptTuningRecipe,
)
from spot_jax.training.recipes_intrinsic import (
    RANDOM as RANDOM_SUBSPACE,
)
from spot_jax.training.recipes_intrinsic import (
    SubspaceFindingRecipe,
    SubspaceTuningRecipe,
)
from spot_jax.training.run import TrainResult, train
from spot_jax.training.sharding import MeshShape, make_mesh
from spot_jax.transfer.tuning import Stopped


def run_cell(study: IntrinsicStudy, cell: Cell, progress: bool | None = None) -> CellResult:
    """Does a cell, or what an earlier start left of it, and writes its result.

    Args:
        study: the study; what the cell needs is done.
        cell: one of its cells, claimed by this process.
        progress: a bar for each run; None for one where stderr is a terminal.

    Raises:
        SpotError: of `train` and `score`.
        Stopped: by a signal; the next start goes on.
    """
    start = time.monotonic()
    work = _Work(study, cell, progress)
    study.begin(cell, ("run", "made"))
    kinds = {PROMPTS: work.prompts, MODEL: work.model, SUBSPACE: work.subspace}
    kinds |= {TUNED: work.tuned, RANDOM: work.random}
    result = kinds[cell.kind]()
    result = dataclasses.replace(result, seconds=round(time.monotonic() - start, 2))
    study.save(result)
    if cell.kind == MODEL:
        # Its score is all that is asked of it, and hundreds of models would fill a disk.
        for name in ("backbone", "checkpoints"):
            shutil.rmtree(work.directory / "run" / name, ignore_errors=True)
    return result


@dataclasses.dataclass(frozen=True)
class _Work:
    study: IntrinsicStudy
    cell: Cell
    progress: bool | None

    @property
    def directory(self) -> Path:
        return self.study.directory(self.cell)

    def prompts(self) -> CellResult:
        """A task's prompts, taken from the library or tuned."""
        plan, task = self.study.plan, self.cell.parts[0].task
        files = self._taken(task)
        missing = [part.seed for part in self.cell.parts if part.seed not in files]
        if missing:
            init = plan.prompt.init or "sampled_vocabulary"
            method = PromptTuningRecipe(length=plan.prompt_length, init=init)
            result = self._train(plan.prompt, method, [task], missing)
            files |= dict(zip(missing, result.prompts, strict=True))
        trained = plan.prompt_length * plan.backbone.description().config.emb_dim
        return self._scored([files[part.seed] for part in self.cell.parts], trained)

    def model(self) -> CellResult:
        """A whole model tuned on a task; what is scored is its last step."""
        plan, part = self.study.plan, self.cell.parts[0]
        assert plan.model is not None
        result = self._train(plan.model, ModelTuningRecipe(), [part.task], [part.seed])
        tuned = open_tuned(result.directory, mesh=plan.mesh)
        (found,) = self._scores(tuned)
        shapes = parameter_shapes(tuned.backbone.config)
        validation = result.last[0]["score"] if result.last else None
        made = dataclasses.replace(self._made(found), validation=validation, step=result.step)
        return CellResult(self.cell.name, (made,), trained=_numbers(shapes))

    def subspace(self) -> CellResult:
        """A subspace, the prompts it was found from and held-out ones gone through it."""
        plan, cell = self.study.plan, self.cell
        seeds = list(plan.seeds)
        first = seeds.index(cell.seed)
        lanes = [
            (task, seeds[(first + k) % len(seeds)])
            for k in range(plan.prompts_per_task)
            for task in cell.tasks
        ]
        sources = [str(self._tuned_file(*lane)) for lane in lanes]
        method = SubspaceFindingRecipe(sources, cell.dimension, **plan.msf_settings)
        result = self._train(plan.msf, method, *zip(*lanes, strict=True))
        file = result.directory / "prompts" / "subspace-best-0.safetensors"
        # The lanes of this seed's prompts come first, in the order of the training tasks.
        own = result.prompts[: len(cell.tasks)]
        gone = [part for part in cell.parts if part.setting == TEST_MSF]
        files = [*own, *(self._through(file, part) for part in gone)]
        found = self._scored(files, _numbers(load_subspace(file).shape.tensor_shapes()))
        return dataclasses.replace(found, subspace=str(self._place(file)))

    def tuned(self) -> CellResult:
        """Vectors in a found subspace."""
        found = self.study.needed(self.cell.needs[0])
        method = SubspaceTuningRecipe(
            str(self.study.path / found.subspace),
            dim=self.cell.dimension,
            **self.study.plan.ist_settings,
        )
        return self._vectors(method)

    def random(self) -> CellResult:
        """Vectors in a random subspace that has the scale of the training tasks' prompts."""
        plan, cell = self.study.plan, self.cell
        files = [self._tuned_file(task, cell.seed) for task in self.study.tasks.train]
        prompts = np.stack([load_prompt(file).prompt for file in files])
        method = SubspaceTuningRecipe(
            RANDOM_SUBSPACE,
            dim=cell.dimension,
            length=plan.prompt_length,
            scale=float(np.sqrt(np.mean(np.square(prompts, dtype=np.float64)))),
            subspace_seed=cell.seed,
            **plan.ist_settings,
        )
        return self._vectors(method)

    def _vectors(self, method: SubspaceTuningRecipe) -> CellResult:
        parts = self.cell.parts
        result = self._train(
            self.study.plan.ist,
            method,
            [part.task for part in parts],
            [part.seed for part in parts],
        )
        return self._scored(result.prompts, self.cell.dimension)

    def _tuned_file(self, task: str, seed: int) -> Path:
        """The tuned prompt of a task and seed."""
        place = list(self.study.plan.seeds).index(seed)
        return self.study.path / self.study.needed(prompts_cell(task)).made[place].file

    def _through(self, subspace: Path, part: Part) -> Path:
        """A task's tuned prompt as it comes out of a subspace, written down."""
        prompt = load_prompt(self._tuned_file(part.task, part.seed))
        found = load_subspace(subspace)
        made = np.asarray(found.reconstruct(prompt.prompt))
        path = self.directory / "made" / f"{prompts_cell(part.task)}.safetensors"
        method = {**prompt.method, "through": {"subspace": found.mark}}
        dataclasses.replace(prompt, prompt=made, method=method, metrics={}).save(path)
        return path

    def _taken(self, task: str) -> dict[int, Path]:
        """Prompts of the library by seed, copied here; a start takes what the first one took."""
        plan = self.study.plan
        if plan.library is None:
            return {}
        record = self.directory / "taken.json"
        if not record.exists():
            library, files = Library(plan.library), {}
            for entry in library.entries(backbone=plan.backbone.description().fingerprint):
                fits = entry.length == plan.prompt_length and entry.seed in plan.seeds
                if entry.task == task and fits and entry.seed not in files:
                    path = self.directory / "made" / f"library-{entry.seed}.safetensors"
                    load_prompt(entry.path).save(path)
                    files[entry.seed] = str(path.relative_to(self.directory))
            write_json(record, {str(seed): file for seed, file in files.items()})
        found = json.loads(record.read_text())
        return {int(seed): self.directory / file for seed, file in found.items()}

    def _train(
        self, stage: Stage, method: MethodRecipe, tasks: Sequence[str], seeds: Sequence[int]
    ) -> TrainResult:
        plan = self.study.plan
        names = list(tasks) if len(set(tasks)) > 1 else tasks[0]
        own = list(seeds) if len(seeds) > 1 else seeds[0]
        result = train(
            model_dir=str(self.directory / "run"),
            backbone=plan.backbone,
            method=method,
            data=DataSource(
                names,
                dict(plan.lengths),
                batch_size=stage.batch_size,
                modules=plan.modules,
                use_cached_tasks=plan.use_cached_tasks,
            ),
            optimizer=stage.optimizer,
            train_steps=stage.steps,
            seeds=own,
            evaluation=EvaluationPlan(
                period=stage.period,
                split=plan.validation_split,
                examples=plan.validation_examples,
                batch_size=plan.evaluation_batch_size,
                decoding=plan.decoding,
                metric=plan.metric,
            ),
            checkpoints=CheckpointPlan(plan.checkpoint_period),
            mesh=plan.mesh,
            progress=self.progress,
        )
        if not result.finished:
            raise Stopped(f"{self.cell.name} stopped and is saved at step {result.step}")
        return result

    def _scored(self, files: Sequence[Path], trained: int) -> CellResult:
        """The prompts of the cell's parts on their test splits."""
        plan = self.study.plan
        mesh = make_mesh(plan.mesh or MeshShape(data=1, model=1))
        loaded = plan.backbone.load(mesh)
        read = {str(path): load_prompt(path, backbone=loaded.fingerprint) for path in files}
        prompts = tuple(Prompt(path, file) for path, file in read.items())
        scores = {
            found.prompt: found
            for found in self._scores(Tuned(loaded, plan.backbone.vocabulary(), mesh, prompts))
        }
        made = []
        for path in files:
            file = read[str(path)]
            known = file.metrics.get("score")
            made.append(
                dataclasses.replace(
                    self._made(scores[str(path)]),
                    file=str(self._place(path)),
                    validation=known,
                    step=file.step if known is not None else None,
                )
            )
        return CellResult(self.cell.name, tuple(made), trained=trained)

    def _scores(self, tuned: Tuned) -> list[Score]:
        plan = self.study.plan
        return score(
            tuned,
            split=plan.test_split,
            decoding=plan.decoding,
            batch_size=plan.evaluation_batch_size or plan.prompt.batch_size,
            lengths=plan.lengths,
            examples=plan.test_examples,
        )

    def _made(self, found: Score) -> Made:
        metric = self.study.plan.metric
        return Made(
            test=score_of(found.task, found.metrics, found.loss, metric),
            metrics=dict(found.metrics),
            majority=majority_score(found, metric),
        )

    def _place(self, path: Path) -> Path:
        return path.absolute().relative_to(self.study.path)


def _numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
