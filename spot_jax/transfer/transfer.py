"""`transfer`: one target, one way to begin its prompt, from retrieval to the score on test.

MODEL_DIR/embedding/                the target's run to the embedding step, shared by all methods
MODEL_DIR/METHOD or METHOD-K/       one method:
  retrieved.json, sources/          what was retrieved, with copies of the prompts
  average.safetensors, mixture/     what the method makes of them
  target/                           the target's runs, all prompts of the method in one program
  transfer.json                     the result
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from typing import Any

from etils import epath

from spot_jax.data import loading
from spot_jax.errors import SpotError
from spot_jax.files import as_path, plain_fields
from spot_jax.inference.scores import Score, score
from spot_jax.inference.tuned import open_tuned
from spot_jax.library.library import Library
from spot_jax.library.similarity import Metric, check_metric
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.training.run_directory import run_path
from spot_jax.transfer import retrieval
from spot_jax.transfer.initialisation import stored_shape
from spot_jax.transfer.result import Candidate, Result, read_result
from spot_jax.transfer.retrieval import Retrieved
from spot_jax.transfer.splits import AUTO, Splits, splits_of
from spot_jax.transfer.strategies import Context, Start, Strategy, strategy
from spot_jax.transfer.tuning import Tuning


@dataclasses.dataclass(frozen=True)
class Request:
    """One transfer, as a command describes it.

    Attributes:
        tuning: settings of every run.
        method: name of a strategy, of `strategies.STRATEGIES`.
        library: directory or bucket of source prompts; None for scratch.
        top_k: number of prompts to retrieve, where the method takes some.
        metric: metric of similarity.
        embedding: path of the target's task embedding, or a path a seed; None to tune it.
        report_split: split that reports; see `splits.splits_of`.
    """

    tuning: Tuning
    method: str = "best_of_top_k"
    library: str | None = None
    top_k: int = 3
    metric: Metric = "per_token"
    embedding: str | Sequence[str] | None = None
    report_split: str = AUTO

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result, in JSON's types."""
        fields = plain_fields(self)
        fields["target"] = self.tuning.target
        return json.loads(json.dumps(fields))

    def folder(self) -> str:
        """Return the method's place in the run directory."""
        return f"{self.method}-{self.top_k}" if strategy(self.method).uses_top_k else self.method


def transfer(
    *,
    model_dir: str,
    tuning: Tuning,
    method: str = "best_of_top_k",
    library: str | None = None,
    top_k: int = 3,
    metric: Metric = "per_token",
    embedding: str | Sequence[str] | None = None,
    report_split: str = AUTO,
    progress: bool | None = None,
    operative_config: str = "",
) -> Result:
    """Tune a target by one method; a transfer that was stopped goes on, a finished one is shown.

    Args:
        model_dir: directory of all methods for this target.
        tuning: settings of every run.
        method: name of a strategy, of `strategies.STRATEGIES`.
        library: directory or bucket of source prompts; None for scratch.
        top_k: number of prompts to retrieve, where the method takes some.
        metric: metric of similarity.
        embedding: path of the target's task embedding, or a path a seed; None to tune it.
        report_split: split that reports; see `splits.splits_of`.
        progress: whether to show a progress bar; None for where stderr is a terminal.
        operative_config: text to keep in the method's directory.

    Raises:
        SpotError: anything wrong in the arguments; an empty library, or one with fewer than
            `top_k` prompts that have not seen the target.
        Stopped: by a signal; the same command goes on.
    """
    request = Request(tuning, method, library, top_k, metric, embedding, report_split)
    chosen = strategy(method)
    _check(request, chosen)
    root = run_path(model_dir)
    directory = run_path(str(root / request.folder()))
    settings = request.settings()
    done = read_result(directory)
    if done is not None and done.settings == settings:
        return done
    if operative_config:
        (directory / "config.gin").write_text(operative_config)
    tuning.register()
    splits = _splits(request)
    notes = [splits.note] if splits.note else []
    retrieved: list[Retrieved] = []
    if chosen.retrieves:
        retrieved, more = _retrieve(request, chosen, root, directory, progress)
        notes += more

    def tune_mixtures(names: Sequence[str]) -> Sequence[epath.Path]:
        return tuning.tune_mixtures(directory / "mixture", names, progress)

    starts = chosen.starts(Context(directory, tuning.target, tune_mixtures), [retrieved])
    candidates = _tune(tuning, directory, starts, splits, progress)
    candidates = _report(tuning, directory, candidates, splits)
    notes += [start.note for start in starts if start.note]
    result = Result(settings, retrieved, candidates, splits.choosing, splits.reporting, notes)
    result.save(directory)
    return result


def _check(request: Request, chosen: Strategy) -> None:
    tuning = request.tuning
    if chosen.retrieves and not request.library:
        raise SpotError(
            f"{request.method} needs a library of source prompts; add --library=DIR (`spot prompts "
            "add RUN_DIR --library DIR` fills one), or --method=scratch"
        )
    if chosen.uses_top_k and request.top_k < 1:
        raise SpotError(f"top_k is at least 1, found {request.top_k}")
    if tuning.evaluation.period < 1:
        raise SpotError(
            "a transfer chooses by validation scores; set EvaluationPlan.period to at least 1"
        )
    if tuning.prompts_at_once is not None and tuning.prompts_at_once < 1:
        raise SpotError(f"prompts_at_once is at least 1, found {tuning.prompts_at_once}")
    check_metric(request.metric)
    assert tuning.target  # one target, or a SpotError


def _splits(request: Request) -> Splits:
    tuning = request.tuning
    return splits_of(
        tuning.target,
        tuning.backbone.vocabulary(),
        lengths=tuning.data.lengths,
        choosing=tuning.evaluation.split,
        reporting=request.report_split,
    )


def _retrieve(
    request: Request,
    chosen: Strategy,
    root: epath.Path,
    directory: epath.Path,
    progress: bool | None,
) -> tuple[list[Retrieved], list[str]]:
    """Return what an earlier start retrieved, or what the library has now."""
    tuning, described = request.tuning, request.tuning.backbone.description()
    library = Library(request.library or "")
    top_k = request.top_k if chosen.uses_top_k else None
    question = {"target": tuning.target, "metric": request.metric, "top_k": top_k}
    before = retrieval.stored(directory, question)
    if before is not None:
        return before
    exclude = loading.constituents(tuning.target)
    options: dict[str, Any] = {
        "backbone": described.fingerprint,
        "exclude": exclude,
        "top_k": top_k,
    }
    if shape := stored_shape(tuning.method, described.config):
        retrieval.check_enough(library, shape, **options)
    stated = [request.embedding] if isinstance(request.embedding, str) else request.embedding
    files = stated or tuning.embed(root / "embedding", progress)
    embeddings = [load_prompt(file, backbone=described.fingerprint) for file in files]
    prompts = [file.rows for file in embeddings]
    ranking = retrieval.rank(library, prompts, metric=request.metric, **options)
    steps = {match.entry.embedding_step for match in ranking} - {e.step for e in embeddings}
    notes = list(ranking.notes)
    if note := retrieval.seed_note(library, described.fingerprint, {e.seed for e in embeddings}):
        notes.append(note)
    if steps:
        notes.append(
            f"the target was embedded at step {embeddings[0].step}, sources at "
            f"{', '.join(map(str, sorted(steps)))}: similarities compare well only at one step"
        )
    return retrieval.store(ranking, notes, library, directory, question), notes


def _tune(
    tuning: Tuning,
    directory: epath.Path,
    starts: Sequence[Start],
    splits: Splits,
    progress: bool | None,
) -> list[Candidate]:
    """Tune the target from every start with every seed, as many at once as allowed."""
    jobs = [(start, seed) for start in starts for seed in tuning.seed_list]
    at_once = tuning.prompts_at_once or len(jobs)
    evaluation = dataclasses.replace(tuning.evaluation, split=splits.choosing)
    candidates = []
    for first in range(0, len(jobs), at_once):
        group = jobs[first : first + at_once]
        result = tuning.tune(
            directory / ("target" if at_once >= len(jobs) else f"target-{first // at_once}"),
            [start.file for start, _ in group],
            [seed for _, seed in group],
            evaluation,
            progress,
        )
        for (start, seed), best, path in zip(group, result.best, result.prompts, strict=True):
            candidates.append(
                Candidate(start.name, seed, best.score, best.step, str(path), id=start.id)
            )
    return candidates


def choose(candidates: Sequence[Candidate]) -> list[int]:
    """Choose of each seed the candidate best on validation; of equals the first retrieved."""
    chosen = []
    for seed in dict.fromkeys(candidate.seed for candidate in candidates):
        its = [i for i, candidate in enumerate(candidates) if candidate.seed == seed]
        chosen.append(max(its, key=lambda i: (candidates[i].validation, -i)))
    return chosen


def _report(
    tuning: Tuning, directory: epath.Path, candidates: Sequence[Candidate], splits: Splits
) -> list[Candidate]:
    """Return the candidates, the chosen ones with their scores on the split that reports."""
    chosen = choose(candidates)
    scores = _scores(tuning, [candidates[i].prompt for i in chosen], splits.reporting)
    reported = list(candidates)
    for i in chosen:
        # A mixture has a score for each of its tasks.
        its = [score for score in scores if score.prompt == candidates[i].prompt]
        mean = statistics.fmean(score.score for score in its)
        metrics = its[0].metrics if len(its) == 1 else {score.task: score.score for score in its}
        reported[i] = dataclasses.replace(candidates[i], test=mean, metrics=metrics)
    return reported


def _scores(tuning: Tuning, prompts: Sequence[str], split: str) -> list[Score]:
    run_dir = as_path(prompts[0]).parents[1]
    tuned = open_tuned(run_dir, prompts=prompts, mesh=tuning.mesh)
    return score(
        tuned,
        split=split,
        tasks=[tuning.target],
        decoding=tuning.evaluation.decoding,
        batch_size=tuning.evaluation.batch_size,
    )
