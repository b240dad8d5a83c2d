"""The analysis against values worked by hand on two sources, two targets and two seeds."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from spot_jax.studies.bootstrap import correlation_interval, estimate
from spot_jax.studies.transfer.analysis import analyse, mean_correlation
from spot_jax.studies.transfer.clustering import cluster_by_profile, cluster_by_similarity
from spot_jax.studies.transfer.method_table import method_table, top
from spot_jax.studies.transfer.results import (
    EmbeddedPrompt,
    Embeddings,
    Score,
    Similarity,
    TransferResults,
)
from spot_jax.studies.transfer.score_table import ScoreTable, relative_error_reduction

SCRATCH = {"t": (50, 60), "u": (80, 80)}
# target: (source, source seed): validation, test. A source prompt is tuned once on each target.
TRANSFER = {
    "t": {("a", 0): (70, 64), ("a", 1): (60, 66), ("b", 0): (65, 50), ("b", 1): (80, 40)},
    "u": {("a", 0): (85, 82), ("a", 1): (70, 90), ("b", 0): (75, 84), ("b", 1): (72, 70)},
}
# target: (source, source seed): similarity to the target's seeds 0 and 1.
ALIKE = {
    "t": {("a", 0): (0.9, 0.1), ("a", 1): (0.2, 0.8), ("b", 0): (0.3, 0.3), ("b", 1): (0.1, 0.2)},
    "u": {("a", 0): (0.5, 0.5), ("a", 1): (0.4, 0.4), ("b", 0): (0.6, 0.6), ("b", 1): (0.1, 0.1)},
}


def study(**changes) -> TransferResults:
    scores = [
        Score(target, "scratch", test, seed=seed)
        for target, tests in SCRATCH.items()
        for seed, test in enumerate(tests)
    ]
    scores += [
        Score(t, "transfer", test, source=s, seed=seed, source_seed=seed, validation=validation)
        for t, rows in TRANSFER.items()
        for (s, seed), (validation, test) in rows.items()
    ]
    scores += [Score(t, "weighted_average", 70, k=3, seed=seed) for t in "tu" for seed in (0, 1)]
    similarities = [
        Similarity(s, t, source_seed, seed, average_tokens=value)
        for t, rows in ALIKE.items()
        for (s, source_seed), values in rows.items()
        for seed, value in enumerate(values)
    ]
    results = TransferResults(
        title="by hand",
        sources=("a", "b"),
        targets=("t", "u"),
        seeds=(0, 1),
        scores=tuple(scores),
        similarities=tuple(similarities),
        families={"a": "x", "t": "x", "b": "y", "u": "y"},
    )
    return dataclasses.replace(results, **changes)


@pytest.fixture(scope="module")
def study_analysis():
    return analyse(study())


def test_pairs_are_means_over_runs(study_analysis):
    pairs = {(p.source, p.target): p for p in study_analysis.pairs}
    assert pairs["a", "t"].score == 65
    assert pairs["a", "t"].sd == pytest.approx(math.sqrt(2))
    assert pairs["a", "t"].runs == 2
    assert pairs["b", "u"].change == -3
    relative = {key: pair.relative for key, pair in pairs.items()}
    assert relative == pytest.approx(
        {("a", "t"): 1000 / 45, ("b", "t"): -1000 / 45, ("a", "u"): 30, ("b", "u"): -15}
    )


@pytest.mark.parametrize(
    ("transfer", "baseline", "expected"),
    [(97, 92.7, 58.904), (74.1, 92.7, -254.79), (50, 50, 0), (100, 0, 100)],
)
def test_relative_error_reduction(transfer, baseline, expected):
    assert relative_error_reduction(transfer, baseline) == pytest.approx(expected, abs=0.01)


def test_without_error_to_reduce_there_is_no_relative_error_reduction():
    assert math.isnan(relative_error_reduction(100, 100))
    assert math.isnan(relative_error_reduction(math.nan, 50))


# method, similarity, k: change, relative error reduction, score; means over seeds of means.
ROWS = {
    ("scratch", None, None): (0, 0, 67.5),
    # every candidate's mean: t 55, u 81.5
    ("any_source", None, None): (0.75, ((10 + 7.5) / 2 + (-12.5 + 7.5) / 2) / 2, 68.25),
    # on u the best source by validation is a, on t it is b: t from a 65, u from b 77
    ("one_source", None, None): (3.5, ((30 - 15) / 2 + (12.5 - 15) / 2) / 2, 71),
    # 3 of 4: the best by validation in three of four choices, else the next; t 46, u 82.5
    ("best_of_any_k", None, 3): (-3.25, ((-8 + 12.5) / 2 + (-35 + 12.5) / 2) / 2, 64.25),
    # t: a0 for seed 0, a1 for seed 1; u: b0
    ("best_of_top_k", "average_tokens", 1): (7, 20.75, 74.5),
    # t: of a0 b0 a1 a0 by validation, of a1 b0 b1 b1, which tests at 40; u: a0 of b0 a0 a1
    ("best_of_top_k", "average_tokens", 3): (-0.5, ((28 + 10) / 2 + (-50 + 10) / 2) / 2, 67),
    ("weighted_average", None, 3): (2.5, ((40 - 50) / 2 + (25 - 50) / 2) / 2, 70),
    ("oracle", None, 4): (-6.5, ((-20 + 10) / 2 + (-50 + 10) / 2) / 2, 61),
}


def test_the_method_table_holds_every_method_and_k(study_analysis):
    rows = {(r.method, r.similarity, r.k): r for r in study_analysis.methods}
    assert list(rows) == list(ROWS)
    for key, expected in ROWS.items():
        row = rows[key]
        assert (row.absolute.mean, row.relative.mean, row.score.mean) == pytest.approx(expected)
        assert row.targets == 2


def test_standard_deviations_are_over_seeds(study_analysis):
    row = next(r for r in study_analysis.methods if r.method == "best_of_top_k" and r.k == 1)
    assert row.absolute.sd == pytest.approx(math.sqrt(8))  # changes of seeds: 9 and 5
    assert row.score.sd == pytest.approx(math.sqrt(0.5))  # scores of seeds: 74 and 75


def test_best_of_picks_on_validation_and_reports_the_test(study_analysis):
    rows = {(r.method, r.k): r for r in study_analysis.methods}
    assert rows["oracle", 4].picked_on == "validation"
    assert rows["oracle", 4].chosen == {"t": ["b", "b"], "u": ["a", "a"]}
    assert rows["best_of_top_k", 1].picked_on is None
    bare = study(scores=tuple(dataclasses.replace(s, validation=None) for s in study().scores))
    oracle = method_table(ScoreTable(bare))[-1]
    assert oracle.picked_on == "test"
    assert oracle.score.mean == (66 + 90) / 2


def test_retrieval_ranks_for_each_seed_of_the_target():
    table = ScoreTable(study())
    order = [(c.source, c.source_seed) for c in top(table, "t", 1, "average_tokens", 9)]
    assert order == [("a", 1), ("b", 0), ("b", 1), ("a", 0)]


def test_a_run_of_the_same_seed_counts_before_the_mean_of_others():
    again = Score("t", "transfer", 90, source="a", source_seed=0, seed=1, validation=90)
    table = ScoreTable(study(scores=(*study().scores, again)))
    tests = {seed: table.candidates("t", seed)[0].test for seed in (0, 1, None)}
    assert tests == {0: 64, 1: 90, None: 77}


def test_correlations_have_a_point_a_source_prompt(study_analysis):
    row = study_analysis.correlations["average_tokens"][0]
    x = [0.5, 0.5, 0.3, 0.15]
    y = [100 * (test - 55) / 45 for test in (64, 66, 50, 40)]
    assert [p.similarity for p in row.points] == pytest.approx(x)
    assert [p.relative for p in row.points] == pytest.approx(y)
    r = np.corrcoef(x, y)[0, 1]
    assert row.r == pytest.approx(r)
    assert row.p == pytest.approx(2 * scipy.stats.t.sf(abs(r) * math.sqrt(2 / (1 - r * r)), 2))
    assert math.isnan(row.low)  # two source tasks are too few to draw from
    assert mean_correlation(study_analysis.correlations["average_tokens"]).mean == pytest.approx(
        np.mean([c.r for c in study_analysis.correlations["average_tokens"]])
    )


def test_families(study_analysis):
    rows = {row.target: (row.within, row.across) for row in study_analysis.families.rows}
    assert rows["t"] == pytest.approx((1000 / 45, -1000 / 45))
    assert rows["u"] == pytest.approx((-15, 30))
    assert study_analysis.families.difference.mean == pytest.approx((2000 / 45 - 45) / 2)
    assert analyse(study(families={})).families is None


def test_a_task_is_never_its_own_source():
    leak = Score("t", "transfer", 99, source="t", seed=0, source_seed=0, validation=99)
    analysis = analyse(study(sources=("a", "b", "t"), scores=(*study().scores, leak)))
    assert analysis.table.left_out == 1
    assert math.isnan(next(p for p in analysis.pairs if (p.source, p.target) == ("t", "t")).score)
    assert analysis.methods[-1].score.mean == 61  # the oracle's, as without the leak


def test_a_study_half_way_is_analysed_as_far_as_it_is():
    kept = tuple(s for s in study().scores if (s.target, s.source) != ("u", "b"))
    analysis = analyse(study(scores=kept))
    pairs = {(p.source, p.target): p.relative for p in analysis.pairs}
    assert math.isnan(pairs["b", "u"])
    assert pairs["a", "u"] == pytest.approx(30)
    assert all(row.targets == 2 for row in analysis.methods)
    begun = analyse(study(scores=study().scores[:4], similarities=()))
    assert [row.method for row in begun.methods] == ["scratch"]
    nothing = analyse(study(scores=(), similarities=(), targets=(), sources=()))
    assert nothing.pairs == ()


def test_a_score_that_is_not_defined_is_left_out_of_means():
    scores = [*study().scores, Score("t", "scratch", math.nan, seed=2)]
    assert ScoreTable(study(scores=tuple(scores))).baseline("t") == 55


def test_intervals_of_the_bootstrap():
    random = np.random.default_rng(0)
    values = random.normal(3, 2, size=(400, 1))
    interval = estimate(values)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.06)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.06)
    again = estimate(values)
    assert (interval.mean, interval.low, interval.high) == (again.mean, again.low, again.high)
    # Seeds that differ widen it, targets being alike.
    seeds = estimate(np.tile([0.0, 4.0], (30, 1)))
    assert seeds.low < 2 < seeds.high
    assert estimate(np.full((5, 2), 7.0)).low == 7
    assert math.isnan(estimate(np.array([[1.0, 2.0]])).low)  # one target: nothing to draw
    assert math.isnan(estimate(np.full((2, 2), np.nan)).mean)


def test_the_interval_of_r_draws_sources_not_points():
    random = np.random.default_rng(1)
    x = np.repeat(random.normal(size=8), 3)
    y = x + np.repeat(random.normal(size=8), 3)
    groups = [str(i // 3) for i in range(24)]
    low, high = correlation_interval(x, y, groups)
    each = correlation_interval(x, y, [str(i) for i in range(24)])
    assert low < np.corrcoef(x, y)[0, 1] < high
    assert high - low > 1.2 * (each[1] - each[0])  # copies of a point are no new evidence


def test_clusters_join_what_is_alike():
    alike = np.array([[1, 0.1, 0.9], [0.1, 1, 0.2], [0.9, 0.2, 1]])
    tree = cluster_by_similarity(alike)
    assert sorted(tree.order) == [0, 1, 2]
    assert abs(tree.order.index(0) - tree.order.index(2)) == 1
    heights = sorted(max(height for _, height in branch) for branch in tree.branches)
    assert heights == pytest.approx([0.1, (0.9 + 0.8) / 2])  # average linkage over 1 - similarity
    assert cluster_by_similarity(np.ones((1, 1))).order == (0,)
    far = cluster_by_profile(np.array([[300.0, 0], [0, 0], [30, 0]]), clip=25)
    assert abs(far.order.index(0) - far.order.index(2)) == 1  # both are 25 when clipped


def test_maps_of_embeddings_are_means_over_pairs_of_different_runs():
    names = tuple(EmbeddedPrompt(task, seed) for task in "ab" for seed in (0, 1))
    matrix = ((1, 0.8, 0.1, 0.2), (0.8, 1, 0.3, 0.4), (0.1, 0.3, 1, 0.6), (0.2, 0.4, 0.6, 1))
    analysis = analyse(study(embeddings=Embeddings(names, average_tokens=matrix)))
    tasks = analysis.embeddings["average_tokens"]
    assert tasks.names == ("a", "b")
    assert tasks.values == pytest.approx(np.array([[0.8, 0.25], [0.25, 0.6]]))
    runs = analysis.embedding_runs["average_tokens"]
    assert runs.names == ("a #0", "a #1", "b #0", "b #1")
    assert "per_token" not in analysis.embeddings


def test_what_is_untuned_stands_before_what_is_tuned():
    analysis = analyse(study(majority={"t": 30.0, "u": 40.0}, no_prompt={"t": 25.0, "u": 45.0}))
    assert [row.method for row in analysis.methods[:3]] == ["majority", "no_prompt", "scratch"]
    bare = analysis.methods[1]
    assert (bare.score.mean, bare.score.sd) == (35.0, 0.0)
    # Scratch has 55 and 80 over seeds.
    assert bare.absolute.mean == pytest.approx((25 - 55 + 45 - 80) / 2)
    assert [(row.majority, row.no_prompt) for row in analysis.targets] == [
        (30.0, 25.0),
        (40.0, 45.0),
    ]
    without = [row.method for row in analyse(study()).methods]
    assert "no_prompt" not in without and math.isnan(analyse(study()).targets[0].no_prompt)


def test_one_correlation_is_over_all_pairs_with_each_targets_mean_taken_out():
    analysis = analyse(study())
    pooled = analysis.pooled["average_tokens"]
    x, y = [], []
    for row in analysis.correlations["average_tokens"]:
        gains = np.array([point.relative for point in row.points])
        x += [point.similarity for point in row.points]
        y += (gains - gains.mean()).tolist()
    expected = scipy.stats.pearsonr(x, y)
    assert len(pooled.points) == 8
    assert (pooled.r, pooled.p) == pytest.approx((expected.statistic, expected.pvalue))
