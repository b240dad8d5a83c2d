"""One job of a study of subspaces: tuned in one program, and scored on the test split."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from spot_jax.files import read_object, reading, write_object
from spot_jax.inference.tuned import Prompt, open_tuned
from spot_jax.library.library import Library
from spot_jax.methods.base import BaseMethod
from spot_jax.methods.fastfood import FastfoodTuning
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.subspace_file import load_subspace
from spot_jax.methods.subspace_finding import SubspaceFinding
from spot_jax.methods.subspace_tuning import RANDOM as RANDOM_SUBSPACE
from spot_jax.methods.subspace_tuning import SubspaceTuning
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.engine.plan import Stage
from spot_jax.studies.engine.running import JobRun, bare
from spot_jax.studies.engine.study import Study
from spot_jax.studies.subspace.jobs import (
    FASTFOOD,
    MODEL,
    PROMPTS,
    RANDOM,
    SECOND,
    SUBSPACE,
    TEST_IST,
    TEST_MSF,
    TUNED,
    Part,
    SubspaceJob,
    SubspaceResult,
    Tasks,
    prompts_job,
)
from spot_jax.studies.subspace.plan import SubspacePlan
from spot_jax.t5.config import parameter_shapes
from spot_jax.training.run import TrainResult


class SubspaceJobRun(JobRun[SubspacePlan, SubspaceJob]):
    """See `JobRun`.

    Attributes:
        tasks: tasks of the study.
    """

    def __init__(
        self,
        study: Study[SubspacePlan, SubspaceJob, Any],
        job: SubspaceJob,
        progress: bool | None,
        tasks: Tasks,
    ):
        super().__init__(study, job, progress)
        self.tasks = tasks

    def result(self) -> SubspaceResult:
        """Do the job, or what an earlier start left of it."""
        kinds = {PROMPTS: self.prompts, NO_PROMPT: self.bare, MODEL: self.model}
        kinds |= {SUBSPACE: self.subspace, TUNED: self.tuned, RANDOM: self.random}
        kinds |= {SECOND: self.second, FASTFOOD: self.fastfood}
        return dataclasses.replace(kinds[self.job.kind](), seconds=self.seconds)

    def bare(self) -> SubspaceResult:
        """Score the bare backbone on a task."""
        plan = self.plan
        prompt = self.no_prompt(
            self.job.parts[0].task,
            split=plan.test_split,
            decoding=plan.decoding,
            lengths=plan.lengths,
            rows=plan.prompt.batch_size,
        )
        return SubspaceResult(self.job.name, (prompt,))

    def prompts(self) -> SubspaceResult:
        """Take a task's prompts from the library, or tune them."""
        plan, task = self.plan, self.job.parts[0].task
        files = self._taken(task)
        missing = [seed for seed in self.seeds if seed not in files]
        if missing:
            init = plan.prompt.init or "sampled_vocabulary"
            method = PromptTuning(plan.prompt_length, init, **plan.reference_settings)
            result = self._tune(plan.prompt, method, [task], missing)
            files |= dict(zip(missing, result.prompts, strict=True))
        trained = plan.prompt_length * plan.backbone.description().config.emb_dim
        return self._scored([files[part.seed or 0] for part in self.job.parts], trained)

    def model(self) -> SubspaceResult:
        """Tune a whole model on a task; what is scored is its best step by validation."""
        plan, part = self.plan, self.job.parts[0]
        assert plan.model is not None
        method = ModelTuning(**plan.reference_settings)
        result = self._tune(plan.model, method, [part.task], self.seeds)
        tuned = open_tuned(result.directory, mesh=plan.mesh)
        (score,) = self.score(tuned, lengths=plan.lengths, rows=plan.prompt.batch_size)
        shapes = parameter_shapes(tuned.backbone.config)
        best = result.best[0]
        evaluated = best.step >= 0
        prompt = dataclasses.replace(
            self.prompt_result(score),
            validation=best.score if evaluated else None,
            step=best.step if evaluated else result.step,
        )
        return SubspaceResult(self.job.name, (prompt,), trained=_numbers(shapes))

    def subspace(self) -> SubspaceResult:
        """Find a subspace; put the prompts it was found from and held-out ones through it."""
        plan, job = self.plan, self.job
        seeds = list(plan.seeds)
        first = seeds.index(job.seed)
        pairs = [
            (task, seeds[(first + k) % len(seeds)])
            for k in range(plan.prompts_per_task)
            for task in job.tasks
        ]
        sources = [str(self._tuned_file(*pair)) for pair in pairs]
        method = SubspaceFinding(sources, job.dimension, **plan.msf_settings)
        result = self._tune(
            plan.msf, method, [task for task, _ in pairs], [seed for _, seed in pairs]
        )
        file = result.directory / "prompts" / "subspace-best-0.safetensors"
        # This seed's prompts come first, in the order of the training tasks.
        files = result.prompts[: len(job.tasks)]
        held_out = [part for part in job.parts if part.setting == TEST_MSF]
        files = [*files, *(self._through(file, part) for part in held_out)]
        scored = self._scored(files, _numbers(load_subspace(file).shape.tensor_shapes()))
        return dataclasses.replace(scored, subspace=self.place(file))

    def tuned(self) -> SubspaceResult:
        """Tune vectors in a found subspace."""
        subspace = self.study.needed(self.job.needs[0]).subspace
        method = SubspaceTuning(
            str(self.study.path / subspace),
            dim=self.job.dimension,
            **self.plan.ist_settings,
        )
        return self._vectors(method)

    def random(self) -> SubspaceResult:
        """Tune vectors in a random subspace that has the scale of the training tasks' prompts."""
        plan, job = self.plan, self.job
        files = [self._tuned_file(task, job.seed) for task in self.tasks.train]
        prompts = np.stack([load_prompt(file).rows for file in files])
        method = SubspaceTuning(
            RANDOM_SUBSPACE,
            dim=job.dimension,
            length=plan.prompt_length,
            scale=float(np.sqrt(np.mean(np.square(prompts, dtype=np.float64)))),
            subspace_seed=job.seed,
            **plan.ist_settings,
        )
        return self._vectors(method)

    def second(self) -> SubspaceResult:
        """Tune prompts that begin from the held-out tasks' prompts in a found subspace."""
        plan = self.plan
        files = {
            part.task: str(self.study.path / prompt.file)
            for name in self.job.needs
            for part, prompt in zip(
                self.study.job(name).parts, self.study.needed(name).prompts, strict=True
            )
            if part.setting == TEST_IST
        }
        tasks = [part.task for part in self.job.parts]
        method = PromptTuning(
            plan.prompt_length,
            "prompt",
            prompt=[files[task] for task in tasks],
            **plan.reference_settings,
        )
        result = self._tune(plan.prompt, method, tasks, self.seeds)
        trained = plan.prompt_length * plan.backbone.description().config.emb_dim
        return self._scored(result.prompts, trained)

    def fastfood(self) -> SubspaceResult:
        """Tune a vector that moves all weights, in directions of the seed's own."""
        plan, job = self.plan, self.job
        assert plan.fastfood is not None
        method = FastfoodTuning(job.dimension, job.seed, **plan.reference_settings)
        result = self._tune(plan.fastfood, method, [job.parts[0].task], self.seeds)
        return self._scored(result.prompts, job.dimension)

    def _vectors(self, method: SubspaceTuning) -> SubspaceResult:
        tasks = [part.task for part in self.job.parts]
        result = self._tune(self.plan.ist, method, tasks, self.seeds)
        return self._scored(result.prompts, self.job.dimension)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the prompts."""
        return [part.seed for part in self.job.parts if part.seed is not None]

    def _tuned_file(self, task: str, seed: int | None) -> epath.Path:
        """Return the tuned prompt of a task and seed."""
        number = [part.seed for part in self.study.job(prompts_job(task)).parts].index(seed)
        return self.study.path / self.study.needed(prompts_job(task)).prompts[number].file

    def _through(self, subspace: epath.Path, part: Part) -> epath.Path:
        """Return a task's tuned prompt as it comes out of a subspace, written down."""
        prompt = load_prompt(self._tuned_file(part.task, part.seed))
        through = load_subspace(subspace)
        rows = np.asarray(through.reconstruct(prompt.rows))
        path = self.directory / "made" / f"{prompts_job(part.task)}.safetensors"
        method = {**prompt.method, "through": {"subspace": through.mark}}
        dataclasses.replace(prompt, prompt=rows, method=method, metrics={}).save(path)
        return path

    def _taken(self, task: str) -> dict[int, epath.Path]:
        """Copy prompts of the library here, by seed; a start takes what the first one took."""
        plan = self.plan
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
            write_object(record, {str(seed): file for seed, file in files.items()})
        remedy = "remove it, and the job is begun again"
        taken = read_object(record, remedy) or {}
        with reading(record, remedy):
            return {int(seed): self.directory / file for seed, file in taken.items()}

    def _tune(
        self, stage: Stage, method: BaseMethod, tasks: Sequence[str], seeds: Sequence[int]
    ) -> TrainResult:
        # What is shared by tasks, a subspace or a model, begins by its seed alone.
        alone = self.job.kind in (SUBSPACE, MODEL)
        return self.train(
            method,
            list(tasks) if len(set(tasks)) > 1 else tasks[0],
            seeds,
            stage,
            self.plan.evaluation(stage),
            by_task=False if alone else None,
        )

    def _scored(self, files: Sequence[epath.Path], trained: int) -> SubspaceResult:
        """Score the prompts of the job's parts on their test splits."""
        plan = self.plan
        backbone = plan.backbone.description().fingerprint
        read = {str(path): load_prompt(path, backbone=backbone) for path in files}
        tuned = bare(plan.backbone, plan.mesh, [Prompt(path, file) for path, file in read.items()])
        scores = {
            score.prompt: score
            for score in self.score(tuned, lengths=plan.lengths, rows=plan.prompt.batch_size)
        }
        prompts = []
        for path in files:
            file = read[str(path)]
            validation = file.metrics.get("score")
            prompts.append(
                dataclasses.replace(
                    self.prompt_result(scores[str(path)]),
                    file=self.place(path),
                    validation=validation,
                    step=file.step if validation is not None else None,
                )
            )
        return SubspaceResult(self.job.name, tuple(prompts), trained=trained)


def _numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
