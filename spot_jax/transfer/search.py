"""Search: which prompts of a library are most like a task, by the task's own embedding.

The task's prompt is tuned to the step at which the library's embeddings were taken, in the way the
library's prompts were tuned, because embeddings compare well only if they were tuned alike. The
run stays: a second search of the same task ranks at once.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from spot_jax.data import loading
from spot_jax.data.data_source import DataSource
from spot_jax.errors import SpotError
from spot_jax.files import (
    aligned,
    as_path,
    check_digest,
    parse_object,
    plain_fields,
    slug,
    write_object,
)
from spot_jax.library.library import Entry, Library, Ranking
from spot_jax.library.similarity import Metric, check_metric
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import StoredBackbone
from spot_jax.training.optimizers import Adafactor
from spot_jax.transfer import retrieval
from spot_jax.transfer.initialisation import stored_shape
from spot_jax.transfer.tuning import Tuning

MARK = "search.json"
LOOKED_AT = 20


@dataclasses.dataclass(frozen=True)
class EmbeddingSettings:
    """How the task's embedding is tuned; what is None is taken from the library's prompts.

    Attributes:
        embedding_step: number of updates after which it is taken.
        length: number of virtual tokens.
        init: initialisation of the prompt.
        batch_size: number of rows in a step.
        inputs_length: greatest number of tokens of an input.
        targets_length: greatest number of tokens of a target.
        learning_rate: learning rate of Adafactor.
        seed: seed of the run.
        modules: names of Python modules that register the task.
        text_directory: path of plain text for `prefix_lm` and `span_corruption`.
    """

    embedding_step: int | None = None
    length: int | None = None
    init: str | None = None
    batch_size: int | None = None
    inputs_length: int | None = None
    targets_length: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    modules: Sequence[str] = ()
    text_directory: str | None = None


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """A task's embedding and the prompts ranked by it.

    Attributes:
        task: task that was searched for.
        metric: metric of similarity.
        embedding: path of the task's embedding.
        step: number of updates of the embedding.
        ranking: prompts, the most similar first, with notes.
    """

    task: str
    metric: str
    embedding: epath.Path
    step: int
    ranking: Ranking

    def lines(self) -> list[str]:
        """Return for people: a table, what was left out, and where the embedding is."""
        rows = [["source", "entry", "similarity", "score", "step"]]
        for match in self.ranking:
            entry, score = match.entry, match.entry.metrics.get("score")
            shown = "" if score is None else f"{score:.2f}"
            rows.append([entry.task, entry.id, f"{match.similarity:.4f}", shown, str(entry.step)])
        head = f"prompts most like {self.task} at step {self.step}, by {self.metric}:"
        notes = [f"note: {note}" for note in self.ranking.notes]
        return [head, *aligned(rows, left=(0, 1)), *notes, f"embedding: {self.embedding}"]

    def summary(self) -> dict[str, Any]:
        """Return the same in JSON's types."""
        matches = [
            {"id": m.entry.id, "task": m.entry.task, "similarity": m.similarity}
            for m in self.ranking
        ]
        facts = {"task": self.task, "metric": self.metric, "step": self.step}
        notes = self.ranking.notes
        return {**facts, "embedding": str(self.embedding), "matches": matches, "notes": notes}


def search(
    library: str,
    *,
    task: str | None = None,
    backbone: str | None = None,
    embedding: str | None = None,
    top_k: int = 5,
    metric: Metric = "per_token",
    force: bool = False,
    settings: EmbeddingSettings | None = None,
    output_dir: str | None = None,
    progress: bool | None = None,
) -> SearchResult:
    """Rank a library by its prompts' likeness to a task, which it leaves out itself.

    Args:
        library: path of its directory or bucket.
        task: seqio task or mixture; with `embedding` by default that embedding's.
        backbone: stored backbone to tune the task's embedding on.
        embedding: path of the task's embedding, instead of tuning it.
        top_k: number of prompts to show.
        metric: metric of similarity.
        force: whether to rank prompts of other backbones and lengths too.
        settings: settings of tuning; what they leave open is taken from the library's prompts.
        output_dir: path of the run; by default a new directory in runs/embeddings.
        progress: whether to show a progress bar; None for where stderr is a terminal.

    Raises:
        SpotError: as `Library.rank`; neither a task with a backbone nor an embedding; a library
            that does not say how its prompts were tuned, and neither do you.
    """
    check_metric(metric)
    if top_k < 1:
        raise SpotError(f"top_k is at least 1, found {top_k}")
    stored = Library(library)
    if embedding is not None:
        path = as_path(embedding)
    elif task and backbone:
        path = _embed(stored, task, backbone, settings or EmbeddingSettings(), output_dir, progress)
    else:
        raise SpotError(
            "a search needs --task NAME with --backbone DIR to tune its embedding on, or "
            "--embedding FILE"
        )
    file = load_prompt(path)
    name = task or file.task
    ranking = stored.rank(
        file.rows,
        backbone=file.backbone,
        metric=metric,
        top_k=top_k,
        exclude={name, *file.tasks} - {""},
        force=force,
    )
    if note := retrieval.seed_note(stored, file.backbone, {file.seed}):
        ranking.notes.append(note)
    return SearchResult(name or path.name, metric, path, file.step, ranking)


def _embed(
    library: Library,
    task: str,
    backbone: str,
    wanted: EmbeddingSettings,
    output_dir: str | None,
    progress: bool | None,
) -> epath.Path:
    """Return the file of the task's embedding, tuned unless it exists."""
    tuning = tuning_of(library, task, backbone, wanted)
    fingerprint = tuning.backbone.description().fingerprint
    fields = plain_fields(tuning)
    fields["backbone"]["path"] = ""  # it may be moved
    settings = {"task": task, "backbone": fingerprint, "tuning": fields}
    directory = as_path(output_dir or epath.Path("runs") / "embeddings" / _folder(task, settings))
    mark = directory / MARK
    path = directory / "prompts" / "embedding-0.safetensors"
    if mark.exists() and path.exists() and _stored_settings(mark) == settings:
        return path
    tuning.register()
    exclude = loading.constituents(task)
    if shape := stored_shape(tuning.method, tuning.backbone.description().config):
        retrieval.check_enough(library, shape, backbone=fingerprint, exclude=exclude, top_k=None)
    (path,) = tuning.embed(directory, progress)
    write_object(mark, settings)
    return path


def _stored_settings(mark: epath.Path) -> dict[str, Any] | None:
    """The settings of an embedding; None where they are damaged, and it is tuned again."""
    try:
        return check_digest(parse_object(mark.read_bytes()))
    except ValueError:
        return None


def _folder(task: str, settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug(task)[-80:]}-{digest}"


def tuning_of(library: Library, task: str, backbone: str, wanted: EmbeddingSettings) -> Tuning:
    """Return how to tune a task's embedding so that it compares with those of a library.

    Raises:
        SpotError: nothing on this backbone, or a setting that nobody says.
    """
    stored = StoredBackbone(backbone)
    bare = Tuning(stored, DataSource(task))
    entry, like = _example(library, bare.backbone.description().fingerprint)
    lengths = dict(like.tuning.get("lengths", {}))
    for name in ("inputs", "targets"):
        if (value := getattr(wanted, f"{name}_length")) is not None:
            lengths[name] = value
        elif name not in lengths:
            raise SpotError(
                f"the prompts of {library.directory} do not say how long {name} were; add "
                f"--{name}_length N"
            )
    settings = _constant_adafactor(like.tuning)
    if wanted.learning_rate is not None:
        settings["learning_rate"] = wanted.learning_rate
    step = wanted.embedding_step or entry.embedding_step
    return dataclasses.replace(
        bare,
        backbone=dataclasses.replace(
            stored, dropout_rate=like.tuning.get("dropout_rate", stored.dropout_rate)
        ),
        data=DataSource(
            task,
            lengths,
            batch_size=wanted.batch_size or like.tuning.get("batch_size", 32),
            modules=tuple(wanted.modules),
            text_directory=wanted.text_directory,
        ),
        method=PromptTuning(length=wanted.length or entry.length),
        optimizer=Adafactor(**settings),
        source_init=wanted.init or like.tuning.get("init") or bare.source_init,
        seeds=wanted.seed,
        checkpoints=CheckpointPlan(period=max(step // 10, 1), embedding_step=step),
    )


def _example(library: Library, backbone: str) -> tuple[Entry, PromptFile]:
    """Return an entry, with its embedding, of the kind that is commonest on this backbone."""
    entries = [entry for entry in library.entries(backbone=backbone) if entry.embedding_step]
    if not entries:
        # Says what is wrong with the library as a whole, or that this backbone is not in it.
        others = library.entries()
        width = others[0].width if others else 1
        retrieval.check_enough(library, (1, width), backbone=backbone, exclude=(), top_k=1)
    kinds = collections.Counter((entry.length, entry.embedding_step) for entry in entries)
    commonest = kinds.most_common(1)[0][0]
    alike = [entry for entry in entries if (entry.length, entry.embedding_step) == commonest]
    read = [(entry, library.load(entry)[1]) for entry in alike[:LOOKED_AT]]
    embedded = [(entry, file) for entry, file in read if file is not None]
    ways = collections.Counter(json.dumps(file.tuning, sort_keys=True) for _, file in embedded)
    commonest_way = ways.most_common(1)[0][0]
    return next(
        (entry, file)
        for entry, file in embedded
        if json.dumps(file.tuning, sort_keys=True) == commonest_way
    )


def _constant_adafactor(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the optimizer that prompts name; none if they do not."""
    settings = dict(tuning.get("optimizer_settings", {}))
    schedule = settings.pop("schedule", {"type": "Constant"})
    if tuning.get("optimizer", "Adafactor") != "Adafactor" or schedule != {"type": "Constant"}:
        raise SpotError(
            f"the library's prompts were tuned by {tuning.get('optimizer')} with schedule "
            f"{schedule.get('type')}, a search tunes by constant Adafactor; tune the task's "
            "embedding with `spot train` and give it as --embedding FILE"
        )
    return settings
