"""Relative performance by hand, and by group and seed."""

import math
import statistics

import pytest
from intrinsic_cases import references, results, scores

from spot_jax.errors import SpotError
from spot_jax.studies.subspace.analysis import (
    ALL,
    MAJORITY,
    Group,
    over_random,
    reference,
    relative_rows,
    task_scores,
)
from spot_jax.studies.subspace.jobs import DIFF_IST, SAME_IST, TEST_IST
from spot_jax.studies.subspace.relative import means, relative_performance
from spot_jax.studies.subspace.results import (
    MODEL_TUNING,
    PROMPT_TUNING,
    RANDOM,
    Score,
    SubspaceResults,
)

# Worked by hand: 45/90 = 0.5, 60/80 = 0.75, 77/70 = 1.1; mean 2.35 / 3.
BY_HAND = ({"a": 45.0, "b": 60.0, "c": 77.0}, {"a": 90.0, "b": 80.0, "c": 70.0}, 2.35 / 3)


def test_a_table_worked_by_hand():
    performance, against, expected = BY_HAND
    relative = relative_performance(performance, against)
    assert relative.value == pytest.approx(expected, abs=1e-12)
    assert relative.tasks == ("a", "b", "c") and relative.left_out == ()
    # Ratios first, then the mean: not the ratio of the means, which is 182/240.
    assert relative.value != pytest.approx(182 / 240, abs=1e-3)
    assert relative_performance(against, {**against, "d": 1.0}).value == 1.0


def test_a_task_whose_reference_is_0_is_left_out_and_named():
    relative = relative_performance(
        {"a": 45.0, "b": 3.0, "c": 0.0}, {"a": 90.0, "b": 0.0, "c": -5.0}
    )
    assert (relative.value, relative.tasks, relative.left_out) == (0.5, ("a",), ("b", "c"))
    alone = relative_performance({"b": 3.0}, {"b": 0.0})
    assert math.isnan(alone.value) and alone.left_out == ("b",)
    with pytest.raises(SpotError, match="e has no reference to be compared with, which are a"):
        relative_performance({"e": 1.0}, {"a": 1.0})


def test_means_are_by_task():
    assert means([("a", 1.0), ("b", 4.0), ("a", 3.0)]) == {"a": 2.0, "b": 4.0}


@pytest.fixture(scope="module")
def rows():
    table = relative_rows(results())
    assert len({(row.group, row.against) for row in table}) == len(table)
    return {(row.group, row.against): row for row in table}


def test_each_seed_is_divided_by_the_references_mean(rows):
    # Held out, d = 5: 0.8 * 5/6 of prompt tuning, and `seed` points more.
    row = rows[Group(TEST_IST, ALL, dimension=5, tasks=2), PROMPT_TUNING]
    each = [(0.8 * 5 / 6) + (seed / 40 + seed / 60) / 2 for seed in (0, 1)]
    assert row.mean == pytest.approx(statistics.fmean(each), abs=1e-12)
    assert row.sd == pytest.approx(statistics.stdev(each), abs=1e-12)
    assert (row.seeds, row.tasks) == (2, ("t_c", "t_d"))
    alone = rows[Group(TEST_IST, "unlike", dimension=5, tasks=2), PROMPT_TUNING]
    assert alone.mean == pytest.approx(0.8 * 5 / 6 + 0.5 / 60, abs=1e-12)


def test_other_data_are_compared_with_prompts_of_those_data(rows):
    row = rows[Group(DIFF_IST, "train", dimension=1, tasks=2), PROMPT_TUNING]
    assert row.tasks == ("t_a_s2", "t_b_s2") and row.mean == pytest.approx(0.5)


def test_references_and_the_commonest_label_stand_beside(rows):
    same = rows[Group(SAME_IST, "train", PROMPT_TUNING), MODEL_TUNING]
    assert same.mean == pytest.approx((0.85 + 0.5) / 2) and same.sd == pytest.approx(0.05 / 2**0.5)
    commonest = rows[Group(TEST_IST, ALL, MAJORITY), PROMPT_TUNING]
    assert commonest.mean == pytest.approx((20 / 40 + 20 / 60) / 2) and commonest.seeds == 0
    random = rows[Group(TEST_IST, ALL, RANDOM, 50), PROMPT_TUNING]
    assert random.mean == commonest.mean
    assert rows[Group(TEST_IST, ALL, dimension=5, tasks=1, draw=0), PROMPT_TUNING].mean < 0.5


def test_half_a_study_has_the_rows_whose_references_are_there():
    some = [ref for ref in references() if ref.task in ("t_a", "t_b")]
    half = relative_rows(results(references=tuple(some)))
    assert {row.group.setting for row in half} == {"train_msf", SAME_IST}
    assert reference(results(references=tuple(some)), PROMPT_TUNING) == {"t_a": 85.0, "t_b": 50.0}
    assert not relative_rows(results(references=()))


def test_scores_by_task_are_of_whole_subspaces():
    by_task = {row.task: row for row in task_scores(results())}
    assert list(by_task) == ["t_a", "t_b", "t_a_s2", "t_b_s2", "t_c", "t_d"]
    assert by_task["t_a"].subspaces["found", 1] == (42.5, 0.0)
    assert by_task["t_c"].subspaces["random", 5] == (20.0, 0.0)
    assert by_task["t_a"].references[PROMPT_TUNING] == (85.0, pytest.approx(50**0.5))


def test_results_are_read_as_they_were_written(tmp_path):
    study = results()
    assert SubspaceResults.read(study.write(tmp_path)) == study
    with pytest.raises(SpotError, match="no study at .*run `spot intrinsic ist`"):
        SubspaceResults.read(tmp_path / "none")
    with pytest.raises(SpotError, match="scores: 'strange' is not among the study's tasks"):
        results(scores=(Score(TEST_IST, "strange", "like", 1.0, 5),))
    with pytest.raises(SpotError, match="scores: 'ist' is none of train_msf"):
        results(scores=(Score("ist", "t_c", "like", 1.0, 5),))
    assert len(study.scores) == len(scores())


def test_what_a_found_subspace_adds_to_a_random_one_by_hand():
    # d = 1: 0.8 / 2 of 40 and 60 is 16 and 24, and `seed` more; the random one has 20.
    added = over_random(results())
    assert list(added) == [1, 5, 50]
    assert added[1] == pytest.approx((0.5, math.sqrt(0.5)))
    # A task that only one of them has makes no pair.
    half = [s for s in scores() if (s.subspace, s.task) != (RANDOM, "t_c")]
    assert over_random(results(scores=tuple(half))) == {}
