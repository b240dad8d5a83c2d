"""What a transfer came to: kept as JSON in its directory, shown as tables."""

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

from spot_jax.files import aligned, read_versioned, write_json
from spot_jax.transfer.retrieval import Retrieved

FILE = "transfer.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One prompt of the target: where it began, and what it came to.

    Attributes:
        start: what it began from, for people.
        seed: of its run.
        validation: its best checkpoint's score on the split that chooses.
        step: of that checkpoint.
        prompt: its file.
        test: the score on the split that reports; None for those that were not chosen.
        metrics: all scores on that split.
        id: the library's entry that it began from, if it did.
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
class Outcome:
    """A finished transfer.

    Attributes:
        settings: everything that decides it, in JSON's types.
        retrieved: source prompts, the most similar first.
        candidates: the prompts tuned; of each seed one has a test score, the best on validation.
        choosing: the split they were chosen on.
        reporting: the split they are reported on.
        notes: what the reader should know, a line each.
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
        return [one for one in self.candidates if one.test is not None]

    def mean(self) -> tuple[float, float]:
        """Mean and standard deviation (n - 1; NaN for one seed) of the chosen ones' test scores."""
        scores = [one.test for one in self.chosen if one.test is not None]
        spread = statistics.stdev(scores) if len(scores) > 1 else math.nan
        return statistics.fmean(scores), spread

    def save(self, directory: Path) -> None:
        """Writes transfer.json, in one move."""
        write_json(directory / FILE, {"format": FORMAT, **dataclasses.asdict(self)})


def read_outcome(directory: Path) -> Outcome | None:
    """What `Outcome.save` wrote, or None; `SpotError` if it is damaged."""

    def read(fields: dict[str, Any]) -> Outcome:
        retrieved = [Retrieved(**{**r, "tasks": tuple(r["tasks"])}) for r in fields["retrieved"]]
        candidates = [Candidate(**one) for one in fields["candidates"]]
        return Outcome(**{**fields, "retrieved": retrieved, "candidates": candidates})

    remedy = "remove it, and the same command makes it anew"
    return read_versioned(directory / FILE, FORMAT, read, remedy)


def lines(outcome: Outcome) -> list[str]:
    """The outcome for people: what was retrieved, what was tuned, what was chosen."""
    asked = outcome.settings
    found: list[str] = []
    if outcome.retrieved:
        rows = [["source", "entry", "similarity"]]
        rows += [[one.task, one.id, f"{one.similarity:.4f}"] for one in outcome.retrieved]
        found += [f"retrieved by {asked['metric']}:", *aligned(rows, left=(0, 1)), ""]
    many = len({one.seed for one in outcome.candidates}) > 1
    head = ["from", *(["seed"] if many else []), outcome.choosing, "step", outcome.reporting]
    rows = [head]
    for one in outcome.candidates:
        test = "" if one.test is None else f"{one.test:.2f}"
        seed = [str(one.seed)] if many else []
        rows.append([one.start, *seed, f"{one.validation:.2f}", str(one.step), test])
    found += [f"{asked['target']} by {asked['method']}:", *aligned(rows), ""]
    mean, spread = outcome.mean()
    score = f"{mean:.2f}" if math.isnan(spread) else f"{mean:.2f} ± {spread:.2f}"
    of = f", mean and sd of {len(outcome.chosen)} seeds" if many else ""
    found.append(f"chosen on {outcome.choosing}, scored on {outcome.reporting}: {score}{of}")
    found += [f"note: {note}" for note in outcome.notes]
    return found + [one.prompt for one in outcome.chosen]
