"""A study's scores by target, seed and source: what the analysis asks for, looked up once.

A study may tune every source prompt on a target once (the paper: 48 runs a target) or once a seed
of the target. For a given seed of the target, a source prompt counts with its run of that seed if
there is one, else with the mean of the runs there are. Pairs in which a task is its own source
are left out: they say nothing about transfer.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.transfer.results import (
    MAJORITY,
    SCRATCH,
    TRANSFER,
    Score,
    TransferResults,
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A source prompt and what a target scored that began from it (0 to 100; NaN if unknown)."""

    source: str
    source_seed: int | None
    validation: float
    test: float


def mean(values: Iterable[float | None]) -> float:
    """Return the mean of what is defined; NaN if nothing is."""
    defined = [v for v in values if v is not None and not math.isnan(v)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def relative_error_reduction(transfer: float, baseline: float) -> float:
    """Return 100 (transfer - baseline) / (100 - baseline), %; NaN for a baseline without errors."""
    if math.isnan(transfer) or math.isnan(baseline) or baseline >= 100:
        return math.nan
    return 100 * (transfer - baseline) / (100 - baseline)


class ScoreTable:
    """Look-ups over a study's scores and similarities.

    Attributes:
        results: results of the study.
        seeds: seeds of the targets' runs, in order; (None,) if there are only means over runs.
        validated: whether every transfer has a validation score to pick by.
        left_out: number of scores left out because a task was its own source.
    """

    def __init__(self, results: TransferResults):
        """Sort the scores by target, method, source and seed."""
        self.results = results
        self._plain: dict[tuple[str, str, int | None], list[Score]] = defaultdict(list)
        self._transfers: dict[str, dict[tuple[str, int | None], list[Score]]] = defaultdict(dict)
        self.left_out = 0
        for score in results.scores:
            if score.method != TRANSFER:
                self._plain[score.target, score.method, score.k].append(score)
            elif score.source == score.target:
                self.left_out += 1
            else:
                key = (str(score.source), score.source_seed)
                self._transfers[score.target].setdefault(key, []).append(score)
        self._similarities: dict[tuple[str, str], list] = defaultdict(list)
        for pair in results.similarities:
            self._similarities[pair.source, pair.target].append(pair)
        seeds = {s.seed for s in results.scores if s.method == SCRATCH} or {None}
        self.seeds = tuple(sorted(seeds, key=lambda seed: (seed is None, seed or 0)))
        if len(self.seeds) > 1:
            self.seeds = tuple(seed for seed in self.seeds if seed is not None)
        runs = [
            s for group in self._transfers.values() for scores in group.values() for s in scores
        ]
        self.validated = bool(runs) and all(s.validation is not None for s in runs)

    def baseline(self, target: str, seed: int | None = None) -> float:
        """Return the target tuned from scratch: of one seed, else the mean over seeds."""
        return self.plain(target, SCRATCH, None, seed)

    def untuned(self, target: str, method: str) -> float:
        """Return the commonest label's score, or the bare backbone's; NaN where it is unknown."""
        scores = {MAJORITY: self.results.majority, NO_PROMPT: self.results.no_prompt}[method]
        return scores.get(target, math.nan)

    def plain(self, target: str, method: str, k: int | None, seed: int | None = None) -> float:
        """Return a method without a source: of one seed if it has it, else the mean over seeds."""
        return mean(s.test for s in _of_seed(self._plain.get((target, method, k), []), seed))

    def baseline_scores(self, target: str) -> list[Score]:
        """Return the runs from scratch."""
        return list(self._plain.get((target, SCRATCH, None), []))

    def ks(self, method: str) -> list[int | None]:
        """Return the k with which a method without a source was run, ascending."""
        numbers = {k for _, name, k in self._plain if name == method}
        return sorted(numbers, key=lambda k: (k is None, k or 0))

    def candidates(self, target: str, seed: int | None = None) -> list[Candidate]:
        """Return the source prompts of a target, in the study's order of sources."""
        order = {name: i for i, name in enumerate(self.results.sources)}
        rows = sorted(
            self._transfers.get(target, {}).items(),
            key=lambda item: (order[item[0][0]], item[0][1] is not None, item[0][1] or 0),
        )
        candidates = []
        for (source, source_seed), scores in rows:
            runs = _of_seed(scores, seed)
            test = mean(s.test for s in runs)
            if not math.isnan(test):
                candidates.append(
                    Candidate(source, source_seed, mean(s.validation for s in runs), test)
                )
        return candidates

    def runs(self, source: str, target: str) -> list[Score]:
        """Return all runs of a target that began from a prompt of a source."""
        rows = self._transfers.get(target, {})
        return [s for (name, _), scores in rows.items() if name == source for s in scores]

    def similarity(
        self,
        source: str,
        source_seed: int | None,
        target: str,
        seed: int | None,
        metric: str,
    ) -> float:
        """Return a source prompt's similarity to a target; None for a seed is the mean over runs.

        Where the file has only a mean over a seed, that stands for each; NaN if there is none.
        """
        pairs = self._similarities.get((source, target), [])
        for name, wanted in (("source_seed", source_seed), ("target_seed", seed)):
            if wanted is not None:
                exact = [p for p in pairs if getattr(p, name) == wanted]
                pairs = exact or [p for p in pairs if getattr(p, name) is None]
        return mean(getattr(p, metric) for p in pairs)


def _of_seed(scores: Sequence[Score], seed: int | None) -> Sequence[Score]:
    return [s for s in scores if s.seed == seed] or scores if seed is not None else scores
