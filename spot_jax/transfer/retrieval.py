"""From a target's embedding to source prompts: ranked, averaged over seeds, stored with the run.

What was retrieved is written down with copies of the prompts, so that a transfer that goes on
after a stop, and whoever reads its directory later, have them whatever became of the library.
"""

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from spot_jax.errors import SpotError
from spot_jax.files import read_object, reading, write_object
from spot_jax.library.library import Library, Match, Ranking
from spot_jax.library.similarity import Metric
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt

FILE = "retrieved.json"


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """A source prompt, copied into the run.

    Attributes:
        id: id of its entry in the library.
        task: task or mixture that it was tuned on.
        tasks: tasks that this consists of.
        seed: seed of its run.
        similarity: similarity of its task embedding to the target's.
        file: path of the copy.
    """

    id: str
    task: str
    tasks: tuple[str, ...]
    seed: int
    similarity: float
    file: str

    def load(self) -> PromptFile:
        """Read the copy."""
        return load_prompt(self.file)


def rank(
    library: Library,
    embeddings: Sequence[Float[np.ndarray, "p d"]],
    *,
    backbone: str,
    metric: Metric = "per_token",
    top_k: int | None = None,
    exclude: Collection[str] = (),
    force: bool = False,
) -> Ranking:
    """Return the library ranked by the mean of its similarities to several embeddings of one
    target.

    Args:
        library: library of source prompts.
        embeddings: task embeddings of the target, one a seed.
        backbone: fingerprint of the T5 they were tuned on.
        metric: metric of similarity; see `similarity`.
        top_k: number of prompts; None for all.
        exclude: tasks that must not have been seen, usually the target.
        force: whether to rank prompts of other backbones and lengths too.

    Raises:
        SpotError: as `Library.rank`, or no embedding.
    """
    if not embeddings:
        raise SpotError("ranking a library needs the target's task embedding; none was given")

    def rank_one(embedding: Float[np.ndarray, "p d"], k: int | None) -> Ranking:
        return library.rank(
            embedding, backbone=backbone, metric=metric, top_k=k, exclude=exclude, force=force
        )

    if len(embeddings) == 1:
        return rank_one(embeddings[0], top_k)
    rankings = [rank_one(embedding, None) for embedding in embeddings]
    entries = {match.entry.id: match.entry for match in rankings[0]}
    similarities: dict[str, list[float]] = {id: [] for id in entries}
    for match in itertools.chain.from_iterable(rankings):
        similarities[match.entry.id].append(match.similarity)
    means = {id: float(np.mean(each)) for id, each in similarities.items()}
    ordered = sorted(means, key=lambda id: (-means[id], id))[:top_k]
    return Ranking([Match(entries[id], means[id]) for id in ordered], rankings[0].notes)


def seed_note(library: Library, backbone: str, seeds: Collection[int]) -> str:
    """Return a warning if some of a library's prompts began where the target's did and others did
    not.

    Runs of one seed begin from the same prompt, whatever their task, which is some likeness from
    the start: it misleads only where the others lack it.
    """
    seeds_there = {
        entry.seed for entry in library.entries(backbone=backbone) if entry.embedding_step
    }
    shared = seeds_there & set(seeds)
    if not shared or shared == seeds_there:
        return ""
    return (
        f"sources of seed {', '.join(map(str, sorted(shared)))} began as the target's embedding "
        "did and look the more like it; embed the target with a seed that none of them has, or "
        "with each"
    )


def check_enough(
    library: Library,
    shape: tuple[int, int],
    *,
    backbone: str,
    exclude: Collection[str],
    top_k: int | None,
) -> None:
    """Check before the target's embedding is tuned that there will be enough to retrieve.

    Args:
        library: library of source prompts.
        shape: (length, width) of the target's prompt.
        backbone: fingerprint of the target's T5.
        exclude: tasks of the target.
        top_k: number of prompts wanted; None for all.

    Raises:
        SpotError: as `Library.rank`, or fewer than `top_k`.
    """
    # Which prompts can be ranked does not depend on the embedding, so any will do.
    stand_in = np.ones(shape, np.float32)
    ranked = library.rank(stand_in, backbone=backbone, exclude=exclude)
    if top_k is not None and len(ranked) < top_k:
        left_out = "; ".join(note for note in ranked.notes if note.startswith("left out"))
        raise SpotError(
            f"top_k is {top_k}, but {len(ranked)} prompts of {library.directory} can be transferred"
            f"{f' ({left_out})' if left_out else ''}; give a top_k of {len(ranked)} or less, or "
            "add prompts"
        )


def store(
    matches: Sequence[Match],
    notes: Sequence[str],
    library: Library,
    directory: epath.Path,
    question: dict[str, Any],
) -> list[Retrieved]:
    """Copy the prompts into `directory`/sources and write down the question and the answer."""
    retrieved = []
    for match in matches:
        entry = match.entry
        prompt, _ = library.load(entry)
        path = directory / "sources" / f"{entry.id}.safetensors"
        prompt.save(path)
        retrieved.append(
            Retrieved(entry.id, entry.task, entry.tasks, entry.seed, match.similarity, str(path))
        )
    records = [
        {**dataclasses.asdict(source), "file": f"{source.id}.safetensors"} for source in retrieved
    ]
    write_object(directory / FILE, {"asked": question, "found": records, "notes": list(notes)})
    return retrieved


def stored(
    directory: epath.Path, question: dict[str, Any]
) -> tuple[list[Retrieved], list[str]] | None:
    """Return what an earlier start retrieved, with its notes; None if nothing.

    Raises:
        SpotError: its question was another, or the file is damaged.
    """
    path = directory / FILE
    remedy = "remove it to retrieve anew"
    read = read_object(path, remedy)
    if read is None:
        return None
    with reading(path, remedy):
        retrieved = [
            Retrieved(
                **{
                    **record,
                    "tasks": tuple(record["tasks"]),
                    "file": str(directory / "sources" / record["file"]),
                }
            )
            for record in read["found"]
        ]
        before, notes = read["asked"], list(read["notes"])
    for name, value in question.items():
        if before.get(name) != value:
            raise SpotError(
                f"{directory} holds prompts retrieved with {name} = {before.get(name)!r}, this "
                f"command has {value!r}; choose another MODEL_DIR, or the same settings"
            )
    return retrieved, notes
