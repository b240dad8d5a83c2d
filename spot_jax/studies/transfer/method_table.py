"""Table 3 of the SPoT paper over any study: how good each way to choose a source prompt is.

"Best of" tunes the target from each of the k source prompts most similar to it, picks one and
reports it. Here it picks by validation and reports the split that picking never saw; where the
study has no validation scores (the paper's own tables), it picks by the reported score, as the
paper does, which flatters every row in which something is picked.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from spot_jax.studies.bootstrap import Estimate, estimate
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.transfer.results import (
    MAJORITY,
    MULTITASK_MIXTURE,
    SCRATCH,
    SIMILARITIES,
    WEIGHTED_AVERAGE,
)
from spot_jax.studies.transfer.score_table import (
    Candidate,
    ScoreTable,
    mean,
    relative_error_reduction,
)

BEST_OF_TOP_K = "best_of_top_k"
BEST_OF_ANY_K = "best_of_any_k"
ORACLE = "oracle"
ANY_SOURCE = "any_source"
ONE_SOURCE = "one_source"
KS = (1, 3, 6, 9, 12, 15)


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """A way to tune the targets, over all of them.

    Attributes:
        method: name of the method. "majority": the commonest label; "no_prompt": the bare
            backbone; "scratch"; "any_source": the mean over all source prompts, what a blind
            choice gives; "one_source": for each target the source that was best on the other
            targets; "best_of_any_k": best of k prompts, the mean over all choices of k, what
            picking gives without a ranking; "best_of_top_k"; "oracle": best of all;
            "weighted_average"; "multitask_mixture".
        similarity: metric by which prompts were ranked; None where none was.
        k: number of prompts.
        absolute: change of the score over scratch.
        relative: relative error reduction over scratch, %, mean over targets.
        score: score itself.
        targets: number of targets that the row has values of.
        picked_on: split of the choice, "validation" or "test"; None without a choice.
        chosen: source tasks picked, one a seed, by target; empty without a choice.
    """

    method: str
    similarity: str | None
    k: int | None
    absolute: Estimate
    relative: Estimate
    score: Estimate
    targets: int
    picked_on: str | None = None
    chosen: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def method_table(table: ScoreTable, ks: Sequence[int] = KS) -> list[MethodRow]:
    """Return a row for every method and k that the study's scores allow, what is untuned first."""
    picked_on = "validation" if table.validated else "test"
    results = table.results
    most = max((len(table.candidates(t)) for t in results.targets), default=0)
    rows = []
    for method, scores in ((MAJORITY, results.majority), (NO_PROMPT, results.no_prompt)):
        if scores:
            rows.append(_row(table, method, partial(_untuned, table, method)))
    rows.append(_row(table, SCRATCH, lambda t, seed: (table.baseline(t, seed), None)))
    if most:
        rows.append(_row(table, ANY_SOURCE, partial(_any, table)))
    if most and len(results.sources) > 1 and len(results.targets) > 1:
        fixed = partial(_fixed, table, _best_elsewhere(table))
        rows.append(_row(table, ONE_SOURCE, fixed, picked_on=picked_on))
    for k in sorted(k for k in ks if 1 < k < most):
        rows.append(_row(table, BEST_OF_ANY_K, partial(_any_k, table, k), k=k, picked_on=picked_on))
    for metric in SIMILARITIES:
        if not any(getattr(s, metric) is not None for s in results.similarities):
            continue
        for k in sorted({1, *(k for k in ks if k < most)}):
            choose = partial(_retrieved, table, metric, k)
            picked = picked_on if k > 1 else None
            rows.append(_row(table, BEST_OF_TOP_K, choose, metric, k, picked))
    for method in (WEIGHTED_AVERAGE, MULTITASK_MIXTURE):
        for count in table.ks(method):
            choose = partial(_plain, table, method, count)
            rows.append(_row(table, method, choose, k=count))
    if most:
        rows.append(_row(table, ORACLE, partial(_oracle, table), k=most, picked_on=picked_on))
    return rows


def top(table: ScoreTable, target: str, seed: int | None, metric: str, k: int) -> list[Candidate]:
    """Return the k source prompts most similar to a target's run, best first; unranked ones are
    out."""
    ranked = []
    for candidate in table.candidates(target, seed):
        alike = table.similarity(candidate.source, candidate.source_seed, target, seed, metric)
        if not math.isnan(alike):
            ranked.append((alike, candidate))
    ranked.sort(key=lambda pair: -pair[0])  # stable: of equals the study's first
    return [candidate for _, candidate in ranked[:k]]


Choice = tuple[float, str | None]


def _best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    validated = all(not math.isnan(c.validation) for c in candidates)
    # Stable: of equals the study's first.
    return sorted(candidates, key=lambda c: -(c.validation if validated else c.test))


def _best(candidates: Sequence[Candidate]) -> Choice:
    if not candidates:
        return math.nan, None
    picked = _best_first(candidates)[0]
    return picked.test, picked.source


def _untuned(table: ScoreTable, method: str, target: str, seed: int | None) -> Choice:
    return table.untuned(target, method), None


def _any(table: ScoreTable, target: str, seed: int | None) -> Choice:
    return mean(c.test for c in table.candidates(target, seed)), None


def _any_k(table: ScoreTable, k: int, target: str, seed: int | None) -> Choice:
    candidates = _best_first(table.candidates(target, seed))
    if not candidates:
        return math.nan, None
    k = min(k, len(candidates))
    # A candidate is picked where the k - 1 others are among those after it.
    picked = [math.comb(after, k - 1) for after in reversed(range(len(candidates)))]
    tests = (ways * c.test for ways, c in zip(picked, candidates, strict=True))
    return math.fsum(tests) / math.comb(len(candidates), k), None


def _fixed(
    table: ScoreTable, sources: dict[str, str | None], target: str, seed: int | None
) -> Choice:
    source = sources[target]
    return mean(c.test for c in table.candidates(target, seed) if c.source == source), source


def _retrieved(table: ScoreTable, metric: str, k: int, target: str, seed: int | None) -> Choice:
    return _best(top(table, target, seed, metric, k))


def _plain(table: ScoreTable, method: str, k: int | None, target: str, seed: int | None) -> Choice:
    return table.plain(target, method, k, seed), None


def _oracle(table: ScoreTable, target: str, seed: int | None) -> Choice:
    return _best(table.candidates(target, seed))


def _best_elsewhere(table: ScoreTable) -> dict[str, str | None]:
    """Return for each target the source with the greatest mean change on the other targets.

    Changes are centred by target over its sources, so a source is not favoured for having been
    tried on easy targets only.
    """
    gains: dict[str, dict[str, float]] = {}
    for target in table.results.targets:
        by_source: dict[str, list[float]] = {}
        for c in table.candidates(target):
            picked = c.validation if table.validated else c.test
            by_source.setdefault(c.source, []).append(picked)
        means = {name: mean(values) for name, values in by_source.items()}
        centre = mean(means.values())
        gains[target] = {name: value - centre for name, value in means.items()}
    chosen: dict[str, str | None] = {}
    for target in table.results.targets:
        scored = {
            name: mean(g[name] for other, g in gains.items() if other != target and name in g)
            for name in gains[target]
        }
        defined = {name: value for name, value in scored.items() if not math.isnan(value)}
        chosen[target] = max(defined, key=lambda name: defined[name]) if defined else None
    return chosen


def _row(
    table: ScoreTable,
    method: str,
    choose: Callable[[str, int | None], Choice],
    similarity: str | None = None,
    k: int | None = None,
    picked_on: str | None = None,
) -> MethodRow:
    targets, seeds = table.results.targets, table.seeds
    score = np.full((len(targets), len(seeds)), np.nan)
    base: Float[np.ndarray, "targets seeds"] = np.full_like(score, np.nan)
    chosen: dict[str, list[str]] = {}
    for i, target in enumerate(targets):
        for j, seed in enumerate(seeds):
            score[i, j], source = choose(target, seed)
            base[i, j] = table.baseline(target, seed)
            if source is not None:
                chosen.setdefault(target, []).append(source)
    reduction = np.vectorize(relative_error_reduction, otypes=[float])(score, base)
    return MethodRow(
        method,
        similarity,
        k,
        absolute=estimate(score - base),
        relative=estimate(reduction),
        score=estimate(score),
        targets=int(np.isfinite(score).any(1).sum()),
        picked_on=picked_on,
        chosen=chosen,
    )
