"""What a transfer study says: the paper's section 3 (Vu et al. 2022) over any study's results.

`analyse` is everything the report shows. It takes what `spot study` writes and the paper's own
published scores alike.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

from spot_jax.studies.bootstrap import Estimate, correlation_interval, estimate
from spot_jax.studies.engine.job import NO_PROMPT
from spot_jax.studies.transfer.clustering import Tree, cluster_by_profile, cluster_by_similarity
from spot_jax.studies.transfer.method_table import KS, MethodRow, method_table
from spot_jax.studies.transfer.results import (
    MAJORITY,
    SIMILARITIES,
    Embeddings,
    TransferResults,
)
from spot_jax.studies.transfer.score_table import ScoreTable, mean, relative_error_reduction

CLIP = 25.0  # of colours, as in the paper's figure 3
ALL_TARGETS = "all targets"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A source and a target: means over all runs; NaN where the study has none.

    Attributes:
        source, target: names of the tasks.
        score: score of the target begun from the source's prompts.
        sd: standard deviation over the runs (n - 1), or as the file has it.
        runs: number of runs; 0 if the file has only a mean.
        change: difference score - baseline.
        relative: relative error reduction, %.
        similarity: mean similarity over runs, by metric.
    """

    source: str
    target: str
    score: float
    sd: float
    runs: int
    change: float
    relative: float
    similarity: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Point:
    """A source prompt in the plot of similarity against transfer."""

    source: str
    source_seed: int | None
    similarity: float
    relative: float


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Pearson's r between similarity and relative error reduction over a target's source prompts.

    Attributes:
        target: name of the task.
        metric: metric of the similarity.
        r, p: correlation and its p, which takes points as independent; NaN below three points, or
            where one side is constant.
        low, high: interval of r over source tasks, see `correlation_interval`.
        points: point of each source prompt.
    """

    target: str
    metric: str
    r: float
    p: float
    low: float
    high: float
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class FamilyRow:
    """Mean relative error reduction of a target from its own family's sources, and from others."""

    target: str
    family: str
    within: float
    within_sources: int
    across: float
    across_sources: int


@dataclasses.dataclass(frozen=True)
class Families:
    """Transfer within a family against across; the means are over targets that have both."""

    rows: tuple[FamilyRow, ...]
    within: Estimate
    across: Estimate
    difference: Estimate


@dataclasses.dataclass(frozen=True)
class Target:
    """A target's row of the table of tasks; NaN and None where unknown."""

    target: str
    majority: float
    no_prompt: float
    baseline: float
    sd: float
    runs: int
    best_source: str | None
    best_score: float
    best_relative: float
    helped: int
    sources: int


@dataclasses.dataclass(frozen=True)
class EmbeddingMap:
    """Mean similarity of tasks' embeddings, or of runs', with its clustering.

    Attributes:
        metric: metric of similarity, of SIMILARITIES.
        names: names of the rows, which are also those of the columns.
        values: similarities [n, n]. The diagonal of tasks is over pairs of different runs, NaN if
            there is only one run.
        tree: clustering; `tree.order` is the order to draw it in.
    """

    metric: str
    names: tuple[str, ...]
    values: Float[np.ndarray, "n n"]
    tree: Tree


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All of it; see the fields' classes. Trees are over `results.sources` and `.targets`."""

    results: TransferResults
    table: ScoreTable
    pairs: tuple[Pair, ...]
    targets: tuple[Target, ...]
    methods: tuple[MethodRow, ...]
    correlations: dict[str, tuple[Correlation, ...]]
    pooled: dict[str, Correlation]
    families: Families | None
    source_tree: Tree
    target_tree: Tree
    embeddings: dict[str, EmbeddingMap]
    embedding_runs: dict[str, EmbeddingMap]


def analyse(results: TransferResults, *, ks: Sequence[int] = KS) -> Analysis:
    """Compute all that the report shows; the same results give the same numbers.

    Args:
        results: results of a study, finished or half-way: means leave out what is missing.
        ks: numbers k of best of top-k.
    """
    table = ScoreTable(results)
    pairs = transfer_pairs(table)
    relative = np.array([pair.relative for pair in pairs], np.float64)
    relative = relative.reshape(len(results.sources), len(results.targets))
    metrics = [
        m for m in SIMILARITIES if any(getattr(s, m) is not None for s in results.similarities)
    ]
    maps = embedding_maps(results.embeddings, by_run=False)
    runs = embedding_maps(results.embeddings, by_run=True)
    return Analysis(
        results=results,
        table=table,
        pairs=tuple(pairs),
        targets=tuple(target_row(table, pairs, t) for t in results.targets),
        methods=tuple(method_table(table, ks)),
        correlations={m: tuple(correlate(table, t, m) for t in results.targets) for m in metrics},
        pooled={m: correlate_all(table, m) for m in metrics},
        families=compare_families(results, pairs),
        source_tree=cluster_by_profile(relative, CLIP),
        target_tree=cluster_by_profile(relative.T, CLIP),
        embeddings=maps,
        embedding_runs={m: r for m, r in runs.items() if len(r.names) > len(maps[m].names)},
    )


def transfer_pairs(table: ScoreTable) -> list[Pair]:
    """Return every source with every target, in the study's order, source by source."""
    pairs = []
    for source in table.results.sources:
        for target in table.results.targets:
            runs = table.runs(source, target)
            tests = [s.test for s in runs if not math.isnan(s.test)]
            score, base = mean(tests), table.baseline(target)
            stated = mean(s.sd for s in runs)
            means = any(s.seed is None for s in runs)
            similarity = {m: table.similarity(source, None, target, None, m) for m in SIMILARITIES}
            pairs.append(
                Pair(
                    source,
                    target,
                    score,
                    float(np.std(tests, ddof=1)) if len(tests) > 1 else stated,
                    0 if means else len(tests),
                    score - base,
                    relative_error_reduction(score, base),
                    {m: v for m, v in similarity.items() if not math.isnan(v)},
                )
            )
    return pairs


def target_row(table: ScoreTable, pairs: Sequence[Pair], target: str) -> Target:
    """Return the target's scratch score, its best source by mean, and how many sources helped."""
    its = [p for p in pairs if p.target == target and not math.isnan(p.relative)]
    best = max(its, key=lambda p: p.relative, default=None)
    scores = table.baseline_scores(target)
    tests = [s.test for s in scores if not math.isnan(s.test)]
    return Target(
        target,
        table.untuned(target, MAJORITY),
        table.untuned(target, NO_PROMPT),
        table.baseline(target),
        float(np.std(tests, ddof=1)) if len(tests) > 1 else mean(s.sd for s in scores),
        0 if any(s.seed is None for s in scores) else len(tests),
        best.source if best else None,
        best.score if best else math.nan,
        best.relative if best else math.nan,
        sum(p.relative > 0 for p in its),
        len(its),
    )


def correlate(table: ScoreTable, target: str, metric: str) -> Correlation:
    """Correlate over one target's source prompts, as section 3.3 does."""
    return _correlation(target, metric, transfer_points(table, target, metric))


def correlate_all(table: ScoreTable, metric: str) -> Correlation:
    """Correlate over all pairs of a source prompt and a target, each target's mean gain taken out.

    Targets differ in how much any source helps them, which says nothing about similarity.
    """
    points = []
    for target in table.results.targets:
        its = transfer_points(table, target, metric)
        centre = mean(point.relative for point in its)
        points += [dataclasses.replace(p, relative=p.relative - centre) for p in its]
    return _correlation(ALL_TARGETS, metric, points)


def transfer_points(table: ScoreTable, target: str, metric: str) -> list[Point]:
    """Return a point a source prompt, its similarity averaged over the target's runs."""
    base = table.baseline(target)
    points = []
    for c in table.candidates(target):
        alike = table.similarity(c.source, c.source_seed, target, None, metric)
        gain = relative_error_reduction(c.test, base)
        if not (math.isnan(alike) or math.isnan(gain)):
            points.append(Point(c.source, c.source_seed, alike, gain))
    return points


def _correlation(target: str, metric: str, points: Sequence[Point]) -> Correlation:
    x = np.array([p.similarity for p in points])
    y = np.array([p.relative for p in points])
    r = p = low = high = math.nan
    if len(points) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
        pearson = scipy.stats.pearsonr(x, y)
        r, p = float(pearson.statistic), float(pearson.pvalue)
        low, high = correlation_interval(x, y, [point.source for point in points])
    return Correlation(target, metric, r, p, low, high, tuple(points))


def compare_families(results: TransferResults, pairs: Sequence[Pair]) -> Families | None:
    """Return transfer within a family against across; None if no target has a source of its
    family."""
    rows = []
    for target in results.targets:
        family = results.families.get(target)
        if family is None:
            continue
        near: list[float] = []
        far: list[float] = []
        for p in pairs:
            kin = results.families.get(p.source)
            if p.target == target and kin is not None and not math.isnan(p.relative):
                (near if kin == family else far).append(p.relative)
        rows.append(FamilyRow(target, family, mean(near), len(near), mean(far), len(far)))
    both = [r for r in rows if r.within_sources and r.across_sources]
    if not both:
        return None
    within = np.array([[r.within] for r in both])
    across = np.array([[r.across] for r in both])
    return Families(tuple(rows), estimate(within), estimate(across), estimate(within - across))


def embedding_maps(embeddings: Embeddings | None, *, by_run: bool) -> dict[str, EmbeddingMap]:
    """Return clustered similarities of task embeddings, by metric; of tasks (means) or of runs."""
    if embeddings is None or not embeddings.names:
        return {}
    maps = {}
    names = [e.task for e in embeddings.names]
    if by_run:
        names = [e.task if e.seed is None else f"{e.task} #{e.seed}" for e in embeddings.names]
    things = list(dict.fromkeys(names))
    for metric in SIMILARITIES:
        stored = getattr(embeddings, metric)
        if stored is None:
            continue
        values = np.array(stored, np.float64)
        np.fill_diagonal(values, np.nan)  # a run with itself: 1, which says nothing
        member = np.array([[name == thing for name in names] for thing in things], np.float64)
        defined = np.isfinite(values)
        sums = member @ np.where(defined, values, 0) @ member.T
        counts = member @ defined @ member.T
        merged = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        maps[metric] = EmbeddingMap(metric, tuple(things), merged, cluster_by_similarity(merged))
    return maps


def mean_correlation(correlations: Sequence[Correlation]) -> Estimate:
    """Return the mean of r over targets, with an interval over targets."""
    r = np.array([[c.r] for c in correlations if not math.isnan(c.r)])
    return estimate(r) if len(r) else Estimate(math.nan)
