"""The result of a transfer: stored as JSON in its directory, shown as tables."""

import dataclasses
import math
import statistics
from typing import Any

from etils import epath

from spot_jax.files import aligned, read_versioned, write_object
from spot_jax.files.records import from_plain
from spot_jax.transfer.retrieval import Retrieved

FILE = "transfer.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One prompt of the target: its start and its scores.

    Attributes:
        start: name for people of what it began from.
        seed: seed of its run.
        validation: score of its best checkpoint on the split that chooses.
        step: number of updates of that checkpoint.
        prompt: path of its file.
        test: score on the split that reports; None for those that were not chosen.
        metrics: all scores on that split.
        id: id of the library's entry that it began from, if it did.
    """

    start: str
    seed: int
    validation: float
    step: int
    prompt: str
    test: float | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    id: str | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished transfer.

    Attributes:
        settings: settings that decide it, all of them, in JSON's types.
        retrieved: source prompts, the most similar first.
        candidates: prompts tuned; of each seed one has a test score, the best on validation.
        choosing: split that they were chosen on.
        reporting: split that they are reported on.
        notes: remarks for the reader, a line each.
    """

    settings: dict[str, Any]
    retrieved: list[Retrieved]
    candidates: list[Candidate]
    choosing: str
    reporting: str
    notes: list[str]

    @property
    def chosen(self) -> list[Candidate]:
        """The best of each seed."""
        return [candidate for candidate in self.candidates if candidate.test is not None]

    def mean(self) -> tuple[float, float]:
        """Return mean and standard deviation (n - 1; NaN for one seed) of the chosen ones' test
        scores."""
        scores = [candidate.test for candidate in self.chosen if candidate.test is not None]
        spread = statistics.stdev(scores) if len(scores) > 1 else math.nan
        return statistics.fmean(scores), spread

    def save(self, directory: epath.Path) -> None:
        """Write transfer.json, in one move."""
        write_object(directory / FILE, {"format": FORMAT, **dataclasses.asdict(self)})


def read_result(directory: epath.Path) -> Result | None:
    """Return what `Result.save` wrote, or None; `SpotError` if it is damaged."""

    def read(fields: dict[str, Any]) -> Result:
        retrieved = [from_plain(Retrieved, r, "a source prompt") for r in fields["retrieved"]]
        candidates = [from_plain(Candidate, c, "a prompt") for c in fields["candidates"]]
        return Result(**{**fields, "retrieved": retrieved, "candidates": candidates})

    remedy = "remove it, and the same command makes it anew"
    return read_versioned(directory / FILE, FORMAT, read, remedy)


def lines(result: Result) -> list[str]:
    """Return a result for people: prompts retrieved, prompts tuned, prompts chosen."""
    settings = result.settings
    text: list[str] = []
    if result.retrieved:
        rows = [["source", "entry", "similarity"]]
        rows += [[item.task, item.id, f"{item.similarity:.4f}"] for item in result.retrieved]
        text += [f"retrieved by {settings['metric']}:", *aligned(rows, left=(0, 1)), ""]
    many = len({item.seed for item in result.candidates}) > 1
    head = ["from", *(["seed"] if many else []), result.choosing, "step", result.reporting]
    rows = [head]
    for item in result.candidates:
        test = "" if item.test is None else f"{item.test:.2f}"
        seed = [str(item.seed)] if many else []
        rows.append([item.start, *seed, f"{item.validation:.2f}", str(item.step), test])
    text += [f"{settings['target']} by {settings['method']}:", *aligned(rows), ""]
    mean, spread = result.mean()
    score = f"{mean:.2f}" if math.isnan(spread) else f"{mean:.2f} ± {spread:.2f}"
    of = f", mean and sd of {len(result.chosen)} seeds" if many else ""
    text.append(f"chosen on {result.choosing}, scored on {result.reporting}: {score}{of}")
    text += [f"note: {note}" for note in result.notes]
    return text + [item.prompt for item in result.chosen]
