"""One job under way: its runs and its scores, as the plan of its study has them.

Whatever takes long is a call of `train`, which continues where a killed start stopped; what else a
job writes is made again by each start, with the same content. The result comes last.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from etils import epath

from spot_jax.data import loading
from spot_jax.data.data_source import DataSource
from spot_jax.evaluation.evaluate import measure
from spot_jax.evaluation.scored_task import score_of
from spot_jax.files import absolute
from spot_jax.inference.scores import Score, score
from spot_jax.inference.tuned import Prompt, Tuned
from spot_jax.methods.base import BaseMethod
from spot_jax.metrics import Outputs
from spot_jax.studies.engine.job import Job, PromptResult
from spot_jax.studies.engine.plan import Plan, Stage
from spot_jax.studies.engine.study import Study
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.run import TrainResult
from spot_jax.training.sharding import MeshShape, make_mesh
from spot_jax.transfer.tuning import finish_training

P = TypeVar("P", bound=Plan)
J = TypeVar("J", bound=Job)


class JobRun(Generic[P, J]):
    """A job that this process does.

    Attributes:
        study: study of the job; the jobs that it needs are done.
        job: job to do, locked by this process.
        progress: whether each run shows a progress bar; None for where stderr is a terminal.
    """

    def __init__(self, study: Study[P, J, Any], job: J, progress: bool | None):
        self.study, self.job, self.progress = study, job, progress
        self._start = time.monotonic()

    @property
    def plan(self) -> P:
        """Plan of the study."""
        return self.study.plan

    @property
    def directory(self) -> epath.Path:
        """Directory of the job."""
        return self.study.directory(self.job)

    @property
    def seconds(self) -> float:
        """Time since the job was started."""
        return round(time.monotonic() - self._start, 2)

    def place(self, path: epath.Path) -> str:
        """Return a file's path from the study's directory on, which may be moved."""
        return str(absolute(path).relative_to(self.study.path))

    def train(
        self,
        method: BaseMethod,
        tasks: str | Sequence[str],
        seeds: Sequence[int],
        stage: Stage,
        evaluation: EvaluationPlan,
        *,
        name: str = "run",
        lengths: Mapping[str, int] | None = None,
        steps: int | None = None,
        embedding_step: int = 0,
        by_task: bool | None = None,
    ) -> TrainResult:
        """Tune prompts in one program, to the end.

        Args:
            method: method of all of them.
            tasks: task of all, or of each.
            seeds: seed of each.
            stage: stage of the study that says how they are tuned.
            evaluation: plan of the evaluations that choose checkpoints.
            name: directory of the run, in the job's.
            lengths: feature lengths; None for the plan's.
            steps: number of updates; None for the stage's.
            embedding_step: step at which prompts are their tasks' embeddings; 0 for none.
            by_task: whether they begin by their tasks' names too; None for as in the study.

        Raises:
            SpotError: see `train`.
            Stopped: by a signal; the next start goes on.
        """
        plan = self.plan
        return finish_training(
            model_dir=str(self.directory / name),
            backbone=plan.backbone,
            method=method,
            data=DataSource(
                tasks,
                dict(lengths or plan.lengths),
                batch_size=stage.batch_size,
                modules=plan.modules,
                text_directory=plan.text_directory,
                use_cached_tasks=plan.use_cached_tasks,
            ),
            optimizer=stage.optimizer,
            train_steps=steps or stage.steps,
            seeds=list(seeds) if len(seeds) > 1 else seeds[0],
            evaluation=evaluation,
            checkpoints=CheckpointPlan(plan.checkpoint_period, embedding_step=embedding_step),
            mesh=plan.mesh,
            progress=self.progress,
            init_by_task=self.study.by_task if by_task is None else by_task,
        )

    def score(
        self,
        tuned: Tuned,
        *,
        split: str | None = None,
        decoding: str = "",
        lengths: Mapping[str, int] | None = None,
        tasks: Sequence[str] = (),
        rows: int | None = None,
    ) -> list[Score]:
        """Score prompts, or the bare backbone, as the plan says; see `inference.scores.score`."""
        plan = self.plan
        return score(
            tuned,
            split=split or plan.test_split,
            tasks=tasks,
            decoding=decoding or plan.decoding,
            batch_size=plan.evaluation_batch_size or rows,
            lengths=lengths,
            examples=plan.test_examples,
        )

    def prompt_result(self, score: Score) -> PromptResult:
        """Return a score as a result, by the plan's metric."""
        metric = self.plan.metric
        return PromptResult(
            test=score_of(score.task, score.metrics, score.loss, metric),
            metrics=dict(score.metrics),
            majority=majority_score(score, metric),
        )

    def no_prompt(
        self, task: str, *, split: str, decoding: str, lengths: Mapping[str, int], rows: int
    ) -> PromptResult:
        """Return the score of the bare backbone, read and decoded as with a prompt."""
        loading.import_modules(self.plan.modules)
        if self.plan.text_directory:
            loading.register_text(self.plan.text_directory)
        (score,) = self.score(
            bare(self.plan.backbone, self.plan.mesh),
            split=split,
            decoding=decoding,
            lengths=lengths,
            tasks=[task],
            rows=rows,
        )
        return self.prompt_result(score)


def bare(
    backbone: StoredBackbone,
    mesh: MeshShape | None = None,
    prompts: Sequence[Prompt] = (Prompt("no prompt"),),
) -> Tuned:
    """Return a stored backbone ready to predict, without a prompt if there is none."""
    built = make_mesh(mesh or MeshShape(data=1, model=1))
    return Tuned(backbone.load(built), backbone.vocabulary(), built, tuple(prompts))


def majority_score(score: Score, metric: str | None) -> float | None:
    """Return the score of always giving the most common answer, by the metric of the prompts.

    None for tasks without labels, but for those of lists of right answers (CrossFit's) of which
    at most half are different: they write their labels as text.
    """
    commonest = commonest_answer(score.targets, labelled=score.majority is not None)
    if commonest is None:
        return None
    texts = [commonest] * len(score.targets)
    metrics = measure(loading.metric_fns(score.task), score.targets, Outputs(texts))
    return score_of(score.task, metrics, None, metric if metric in metrics else None)


def commonest_answer(targets: Sequence[Any], *, labelled: bool) -> str | None:
    """Return the most common answer, of several the first by the alphabet; None if there is none.

    Args:
        targets: label of each example, or all its right answers, of which the first counts.
        labelled: whether they are labels; other answers count if they come again and again.
    """
    if not labelled:
        if not targets or not all(isinstance(target, list) and target for target in targets):
            return None
        targets = [target[0] for target in targets]
        if not all(isinstance(t, str) for t in targets) or 2 * len(set(targets)) > len(targets):
            return None
    return max(sorted(set(targets)), key=list(targets).count)
