"""A plan becomes jobs, and grows by jobs; plain Python, nothing is trained."""

import dataclasses
import json
import re

import pytest
from study_cases import make_world
from tiny_text import store_backbone

from spot_jax.errors import SpotError
from spot_jax.studies.engine.plan import Stage
from spot_jax.studies.transfer.jobs import Generation, Part, jobs_of, leaks
from spot_jax.studies.transfer.plan import Grid
from spot_jax.studies.transfer.study import TransferStudy
from spot_jax.training.config import StoredBackbone
from spot_jax.training.optimizers import Adafactor

GRID = Grid(("a", "b", "t_16shot"), ("t", "u"), (0, 1), (2, 3), (2,))
ALONE = {name: (name,) for name in ("a", "b", "c", "t", "t_16shot", "u")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def jobs(*grids, at_once=100, constituents=ALONE):
    return jobs_of([Generation(grid, at_once) for grid in grids], constituents)


def by_name(listed):
    return {job.name: job for job in listed}


def test_every_kind_of_job_has_its_prompts_and_what_they_begin_from():
    named = by_name(jobs(GRID))
    assert list(named) == [
        *("source-a", "source-b", "source-t_16shot"),
        *("no_prompt-t", "no_prompt-u"),
        *("scratch-t", "scratch-u"),
        *("transfer-t", "transfer-u"),
        *("weighted_average-t", "weighted_average-u"),
        *("multitask_mixture-t", "multitask_mixture-u"),
    ]
    assert named["source-a"].parts == (Part(0), Part(1))
    # A small part of the target is the target: no transfer, and in no average.
    assert named["transfer-t"].parts == tuple(Part(s, x) for x in "ab" for s in (0, 1))
    assert {part.source for part in named["transfer-u"].parts} == {"a", "b", "t_16shot"}
    average = named["weighted_average-t"]
    assert [(p.k, p.seed) for p in average.parts] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert average.parts[0].pool == (("a", "b"), (0, 1))
    assert set(average.needs) == {"scratch-t", "source-a", "source-b"}
    assert named["transfer-t"].needs == ("source-a", "source-b")
    assert not named["source-a"].needs and not named["scratch-t"].needs
    assert named["no_prompt-t"].parts == (Part(None),) and not named["no_prompt-t"].needs


def test_a_program_holds_no_more_prompts_than_it_may():
    named = by_name(jobs(GRID, at_once=4))
    assert [len(named[n].parts) for n in ("transfer-u", "transfer-u-2")] == [4, 2]
    assert "transfer-t-2" not in named
    assert set(named["transfer-u-2"].needs) == {"source-t_16shot"}


def test_a_mixture_leaks_to_each_of_its_tasks():
    mixed = {**ALONE, "m": ("a", "t"), "all": ("t_16shot", "u")}
    assert leaks("m", "t_16shot", mixed) and leaks("all", "t", mixed) and leaks("u", "all", mixed)
    assert not leaks("m", "u", mixed)


def test_growing_adds_jobs_and_changes_none_but_what_was_chosen_among_fewer():
    grown = dataclasses.replace(
        GRID, sources=("c", *GRID.sources), targets=("u", "t"), seeds=(0, 1, 2)
    )
    before, after = by_name(jobs(GRID)), by_name(jobs(GRID, grown))
    for name, job in before.items():
        if "average" in name or "mixture" in name:
            assert name not in after and f"{name}-2" in after
        else:
            assert after[name] == job
    assert after["source-a-2"].parts == (Part(2),)
    # Nothing twice, nothing missing.
    new = [part for job in after.values() if job.name[:10] == "transfer-t" for part in job.parts]
    assert sorted(map(str, new)) == sorted(str(Part(s, x)) for x in "abc" for s in (0, 1, 2))
    # The order of names is not a change.
    turned = dataclasses.replace(GRID, sources=GRID.sources[::-1], seeds=(1, 0))
    assert {job.name for job in jobs(GRID, turned)} == set(before)
    more = dataclasses.replace(GRID, weighted_average=(2, 3, 4))
    assert [p.k for p in by_name(jobs(GRID, more))["weighted_average-t-2"].parts] == [4, 4]


def test_a_target_needs_another_source_than_itself():
    only = dataclasses.replace(GRID, sources=("t_16shot",), weighted_average=())
    with pytest.raises(SpotError, match="target t has no source but its own data .* leakage"):
        jobs(only)
    with pytest.raises(SpotError, match="weighted_average of k = 5 prompts for t, but there are 4"):
        jobs(dataclasses.replace(GRID, weighted_average=(2, 5)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sources": []}, "a study needs a list of sources"),
        ({"targets": "one"}, "a study needs a list of targets, found 'one'"),
        ({"seeds": (1, 1)}, "seeds has 1 twice"),
        ({"weighted_average": [0]}, "weighted_average is numbers of prompts, 1 or more"),
        ({"embedding_step": 3}, "embedding_step is 3, but the target's steps are 1 to 2"),
        ({"target": Stage(2, period=0)}, "target.period is 0, but checkpoints are chosen"),
        ({"source": Stage(2, init="prompt")}, "source.init says how prompts begin"),
        ({"similarity": "cosine"}, "no metric 'cosine'"),
        ({"prompts_at_once": 0}, "prompts_at_once is 1 or more"),
        ({"lengths": {"inputs": 8}}, "has no length of targets"),
        ({"decoding": "guess"}, "decoding is 'guess'; choose auto"),
        ({"tasks": {"x": {}}}, "tasks has settings of 'x', which is no source and no target"),
    ],
)
def test_what_no_study_can_be_made_of_is_one_line(change, line, world, tmp_path):
    with pytest.raises(SpotError, match=line) as caught:
        world.plan(tmp_path, **change)
    assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    monkeypatch.setattr(TransferStudy, "check_task", lambda study, name: None)


def opened(plan, command="", *, look=False):
    return TransferStudy(plan, command, look=look)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"target": Stage(4, batch_size=4, period=1)}, "target.steps = 2, this one has 4"),
        ({"source": Stage(3, Adafactor(0.1), batch_size=4, period=2)}, "source.optimizer = "),
        ({"lengths": {"inputs": 9, "targets": 2}}, r"task .*\.inputs = 8, this one has 9"),
        ({"test_examples": 5}, "test_examples = null, this one has 5"),
    ],
)
def test_other_settings_than_those_it_began_with_are_refused(change, key, world, tmp_path):
    began = opened(world.plan(tmp_path))
    before = (tmp_path / "study.json").read_text()
    with pytest.raises(SpotError, match=f"holds a study with {key}") as caught:
        opened(world.plan(tmp_path, **change))
    assert "\n" not in str(caught.value) and "choose another STUDY_DIR" in str(caught.value)
    assert (tmp_path / "study.json").read_text() == before
    # The same again, at another path to it, with other words in the report, is no change.
    again = opened(world.plan(tmp_path / ".." / tmp_path.name, title="other"))
    assert again.jobs == began.jobs


def test_another_backbone_is_refused(world, tmp_path):
    opened(world.plan(tmp_path / "study"))
    other = StoredBackbone(store_backbone(tmp_path / "other", seed=1), dropout_rate=0.0)
    with pytest.raises(SpotError, match="holds a study with backbone = "):
        opened(world.plan(tmp_path / "study", backbone=other))


def test_a_grid_may_be_added_to_and_not_be_taken_from(world, tmp_path):
    a, b, c, d = world.tasks
    first = opened(world.plan(tmp_path), "first")
    wide = world.plan(
        tmp_path, sources=(a, b, d), seeds=(0, 1, 2), tasks={d: {"inputs": 6}}, prompts_at_once=4
    )
    look = opened(wide, look=True)
    assert len(json.loads((tmp_path / "study.json").read_text())["grids"]) == 1
    grown = opened(wide, "second")
    assert grown.jobs == look.jobs and set(first.jobs) < set(grown.jobs)
    assert grown.commands == ("first", "second")
    with pytest.raises(
        SpotError, match=re.escape(f"whose sources have {d!r}, this one's have not")
    ):
        opened(world.plan(tmp_path, seeds=(0, 1, 2)))
    with pytest.raises(SpotError, match="whose seeds have 2, this one's have not"):
        opened(dataclasses.replace(wide, seeds=(0, 1)))


def test_a_damaged_record_is_one_line(world, tmp_path):
    opened(world.plan(tmp_path))
    path = tmp_path / "study.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(SpotError, match="study.json is damaged"):
        opened(world.plan(tmp_path))
