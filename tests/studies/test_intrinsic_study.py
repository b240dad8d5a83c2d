"""A study of subspaces: its jobs, what is refused, what is done once, what goes on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from study_cases import make_world

from spot_jax.cli.configurables import configured
from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.files import read_object
from spot_jax.library.library import Library
from spot_jax.methods.fastfood import FastfoodTuning
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.subspace_file import load_subspace
from spot_jax.methods.subspace_tuning import SubspaceTuning
from spot_jax.report.subspace import write_report
from spot_jax.studies.engine.job import NO_PROMPT, PromptResult
from spot_jax.studies.engine.plan import Stage
from spot_jax.studies.subspace.analysis import Group, relative_rows, stability
from spot_jax.studies.subspace.jobs import SubspaceResult
from spot_jax.studies.subspace.plan import SubspacePlan
from spot_jax.studies.subspace.results import PROMPT_TUNING, SubspaceResults
from spot_jax.studies.subspace.study import SubspaceStudy, finds
from spot_jax.training.config import StoredBackbone
from spot_jax.training.optimizers import Adafactor, AdamW


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("intrinsic"))


def plan_of(arrays, directory, **options) -> SubspacePlan:
    """Two training tasks and one held out; the fourth is free."""
    settings = {
        "directory": str(directory),
        "train_tasks": arrays.tasks[:2],
        "test_tasks": {"test": arrays.tasks[2:3]},
        "lengths": {"inputs": 8, "targets": 2},
        "prompt": Stage(3, Adafactor(0.3), batch_size=4, period=2),
        "msf": Stage(2, AdamW(1e-3), batch_size=4, period=1),
        "ist": Stage(2, AdamW(0.1), batch_size=4, period=1),
        "msf_settings": {"width": 8},
        "dimensions": (1, 3),
        "seeds": (0, 1),
        "prompt_length": 3,
        "decoding": "greedy",
        "checkpoint_period": 1,
        "backbone": StoredBackbone(arrays.backbone, dropout_rate=0.0),
        **options,
    }
    return SubspacePlan(**settings)


def names(plan):
    return [job.name for job in SubspaceStudy(plan, look=True).jobs]


@pytest.fixture
def pretended(monkeypatch):
    """Jobs without training; the list of those that were done."""
    done = []

    def do(study, job, progress):
        done.append(job.name)
        prompts = tuple(PromptResult(50.0, majority=20.0) for _ in job.parts)
        if job.kind == NO_PROMPT:
            prompts = (PromptResult(10.0, majority=20.0),)
        return SubspaceResult(job.name, prompts, seconds=1.0)

    monkeypatch.setattr(SubspaceStudy, "do", do)
    return done


def test_every_setting_has_its_jobs(arrays, tmp_path):
    subset = [arrays.tasks[:2]]
    plan = plan_of(
        arrays,
        tmp_path,
        train_tasks=[arrays.tasks[i] for i in (0, 1, 3)],
        subsets=subset,
        subset_dimensions=[3],
        model=Stage(2),
        model_seeds=[5],
    )
    study = SubspaceStudy(plan, look=True)
    kinds = [job.kind for job in study.jobs]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        **{"prompts": 4, "no_prompt": 4, "subspace": 6, "model": 4, "tuned": 6, "random": 4}
    }
    by_name = {job.name: job for job in study.jobs}
    assert by_name["no_prompt-" + study.jobs[0].name.removeprefix("prompts-")].parts[0].seed is None
    whole = by_name["subspace-d3-s1"]
    assert [part.setting for part in whole.parts] == ["train_msf"] * 3 + ["test_msf"]
    assert len(whole.needs) == 4 and {part.seed for part in whole.parts} == {1}
    tuned = by_name["tuned-d3-s1"]
    assert tuned.needs == ("subspace-d3-s1",)
    assert [part.setting for part in tuned.parts] == ["test_ist"] + ["train_same_ist"] * 3
    (part,) = [c for c in study.jobs if c.kind == "tuned" and c.draw == 0 and c.seed == 0]
    assert part.dimension == 3 and [p.setting for p in part.parts] == ["test_ist"]
    assert len(part.tasks) == 2 and "-n2-" in part.name
    # Jobs that come first in the list need none that come later.
    order = list(by_name)
    assert all(order.index(need) < order.index(c.name) for c in study.jobs for need in c.needs)
    few = plan_of(arrays, tmp_path, prompts_at_once=2)
    assert "tuned-d1-s0-2" in names(few)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"train_tasks": ["bundled_sms_spam", "bundled_nowhere"]}, "bundled_nowhere"),
        ({"train_tasks": [0]}, "at least 2 tasks, train_tasks names 1; name more"),
        ({"test_tasks": {"test": [0]}}, "is held out .test. and also a training task"),
        ({"test_tasks": {"x": [2], "y": [2]}}, "is held out as x and as y; name it once"),
        ({"test_tasks": {"train": [2]}}, "a category of held-out tasks is named 'train'"),
        ({"test_tasks": {"x": []}}, "the category 'x' has no held-out task"),
        ({"test_tasks": {}}, "test_tasks names held-out tasks by category, found {}"),
        ({"subsets": [[0]], "subset_dimensions": [1]}, "at least 2 tasks, one of subsets names 1"),
        ({"subsets": [[0, 3]], "subset_dimensions": [1]}, "subsets are of the training tasks"),
        ({"subsets": [[0, 1]]}, "subsets of the training tasks need subset_dimensions"),
        ({"dimensions": [49]}, "49 dimensions was asked for, but a prompt has 48 numbers"),
        ({"dimensions": [0]}, "dimensions are whole numbers, 1 or more, found 0"),
        ({"dimensions": [3, 3]}, "dimensions has 3 twice"),
        ({"prompts_per_task": 3}, "prompts_per_task is 3, but each task has a prompt a seed, 2"),
        ({"prompts_at_once": 0}, "prompts_at_once is 1 or more"),
        ({"decoding": "guess"}, "decoding is 'guess'"),
        ({"lengths": {"inputs": 8}}, "lengths has no 'targets'"),
        ({"msf": Stage(0)}, "msf has 0 steps"),
        ({"ist": Stage(2, period=0)}, "ist.period is 0"),
        ({"msf_settings": {"beta": 1}}, "msf_settings has 'beta'; there are alpha, "),
        ({"ist_settings": {"dim": 1}}, "ist_settings has 'dim'"),
    ],
)
def test_what_no_study_can_be_made_of_is_one_line(options, line, arrays, tmp_path, pretended):
    def filled(value):
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        return arrays.tasks[value] if isinstance(value, int) else value

    options = {
        key: filled(value) if key in ("train_tasks", "test_tasks", "subsets") else value
        for key, value in options.items()
    }
    with pytest.raises(SpotError, match=line) as caught:
        SubspaceStudy(plan_of(arrays, tmp_path, **options))
    assert "\n" not in str(caught.value)
    assert not pretended and not (tmp_path / "study.json").exists()


def test_jobs_are_done_once_and_results_written(arrays, tmp_path, pretended):
    plan = plan_of(arrays, tmp_path)
    SubspaceStudy(plan).run(lambda line: None, wanted=finds)
    assert pretended == [name for name in names(plan) if name.startswith(("prompts", "subsp"))]
    results = SubspaceStudy(plan, "spot intrinsic ist").run(lambda line: None)
    assert sorted(pretended) == sorted(names(plan)) and results.commands == ("spot intrinsic ist",)
    assert SubspaceResults.read(tmp_path) == results
    SubspaceStudy(plan).run(lambda line: None)
    assert len(pretended) == len(names(plan))
    done = f"{len(pretended)} of {len(pretended)} done"
    assert SubspaceStudy(plan, look=True).overview()[-1] == done
    # More dimensions and subsets may come, and only they are done.
    count = len(pretended)
    SubspaceStudy(plan_of(arrays, tmp_path, dimensions=(1, 3, 5))).run(lambda line: None)
    assert {name.split("-")[1] for name in pretended[count:]} == {"d5"}
    rows = relative_rows(results)
    assert all(row.mean == 1.0 for row in rows if row.group.subspace == "found")
    # What is subtracted from both sides is the bare backbone's score.
    assert set(results.no_prompt.values()) == {10.0}
    assert {row.gain for row in rows if row.group.subspace == "found"} == {1.0}
    assert {(row.mean, row.gain) for row in rows if row.group.subspace == NO_PROMPT} == {(0.2, 0.0)}
    assert {row.gain for row in rows if row.group.subspace == "majority"} == {0.25}


def test_another_study_is_not_gone_on_with(arrays, tmp_path, pretended):
    SubspaceStudy(plan_of(arrays, tmp_path)).run(lambda line: None)
    with pytest.raises(SpotError, match="holds a study with ist.steps = 2, this one has 3"):
        SubspaceStudy(plan_of(arrays, tmp_path, ist=Stage(3, AdamW(0.1), None, 4, 1)))
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(SpotError, match="study.json is damaged"):
        SubspaceStudy(plan_of(arrays, tmp_path))


def test_a_stop_leaves_what_was_done(arrays, tmp_path, pretended, monkeypatch):
    plan, real = plan_of(arrays, tmp_path), SubspaceStudy.do

    def stopping(study, job, progress):
        if len(pretended) == 4:
            raise SpotError("step 3: loss is not finite")
        return real(study, job, progress)

    monkeypatch.setattr(SubspaceStudy, "do", stopping)
    with pytest.raises(SpotError, match=f"^job {names(plan)[4]}: step 3: loss is not finite"):
        SubspaceStudy(plan).run(lambda line: None)
    assert len(SubspaceResults.read(tmp_path).references) == 6  # two seeds of three tasks
    monkeypatch.setattr(SubspaceStudy, "do", real)
    study = SubspaceStudy(plan)
    study.run(lambda line: None)
    assert sorted(pretended) == sorted(names(plan))
    with pytest.raises(SpotError, match="the study has no job 'x'; `spot intrinsic ist --jobs`"):
        study.run_job("x", print)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["find"], "there is no `spot intrinsic find`, but msf, ist, report"),
        (["ist"], "spot intrinsic ist needs a study to do: add --gin_file=gin_configs/studies/int"),
        (["msf", "--gin_file=gin_configs/studies/mini.gin"], "says nothing about intrinsic"),
        (["report", "/nowhere"], "no study at /nowhere"),
        (
            ["ist", "--gin_file=gin_configs/studies/intrinsic_mini.gin", "--jobs", "--job=x"],
            "--jobs and --job are two commands",
        ),
    ],
)
def test_a_command_that_cannot_be_is_one_line(arguments, line, capsys):
    assert main(["intrinsic", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert line in complaint and complaint.count("\n") == 1


def test_the_shipped_studies_are_whole(capsys, tmp_path):
    where = f"--gin.STUDY_DIR='{tmp_path / 'study'}'"
    assert main(["intrinsic"]) == 0
    file = "--gin_file=gin_configs/studies/intrinsic_mini.gin"
    assert main(["intrinsic", "ist", file, "--jobs", where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("0 of ") and any("tuned-d50-s2" in line for line in lines)
    file = "--gin_file=gin_configs/studies/intrinsic_paper.gin"
    backbone = "--gin.INITIAL_CHECKPOINT_PATH='backbones/mini'"
    assert main(["intrinsic", "ist", file, "--jobs", where, backbone]) == 0
    lines = capsys.readouterr().out.splitlines()
    # 100 + 20 tasks' prompts, and the other samples of the 100.
    assert sum(line.startswith("prompts-crossfit_") for line in lines) == 220
    assert sum("tuned-d5-n20-" in line for line in lines) == 3
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", ["intrinsic_mini", "intrinsic_paper"])
def test_shipped_seeds_are_replications_and_references_have_one_loss(name):
    flags = {"STUDY_DIR": "s", "INITIAL_CHECKPOINT_PATH": "backbones/mini"}
    pairs = [(f"--gin.{k}", f"{k} = {v!r}") for k, v in flags.items()]
    pairs = pairs if name == "intrinsic_paper" else pairs[:1]
    file = f"gin_configs/studies/{name}.gin"
    plan_of, fields, _ = configured("intrinsic", [file], pairs)
    plan = plan_of(**fields)
    assert plan.prompts_per_task == 1
    tuned = SubspaceTuning("subspace", **plan.ist_settings)
    for reference in (PromptTuning(3), ModelTuning(), FastfoodTuning(3)):
        reference = dataclasses.replace(reference, **plan.reference_settings)
        for setting in ("z_loss", "label_smoothing", "choice_loss"):
            assert getattr(reference, setting) == getattr(tuned, setting), setting
    assert plan.second_stage and plan.fastfood_dimensions
    if name == "intrinsic_mini":  # a model that hardly moves would flatter its subspaces
        pairs = [(f"--gin.{k}='x'", f"{k} = 'x'") for k in ("MODEL_DIR", "MIXTURE_OR_TASK_NAME")]
        _, tuned, _ = configured("train", ["gin_configs/runs/model_tuning_mini.gin"], pairs)
        assert plan.model.optimizer.learning_rate == tuned["optimizer"].learning_rate > 0.001


def test_a_stage_may_cap_its_own_evaluations(arrays, tmp_path):
    plan = plan_of(arrays, tmp_path, validation_examples=9)
    capped = dataclasses.replace(plan.prompt, validation_examples=4)
    assert plan.evaluation(plan.prompt).examples == 9 and plan.evaluation(capped).examples == 4
    assert "prompt.validation_examples" not in plan.settings()
    assert capped.settings("prompt")["prompt.validation_examples"] == 4


@pytest.fixture(scope="module")
def finished(arrays, tmp_path_factory):
    """A whole study by real runs, its first task's prompts out of a library."""
    directory = tmp_path_factory.mktemp("finished")
    first = plan_of(arrays, directory / "first", dimensions=(3,), seeds=(0,), random_subspace=False)
    SubspaceStudy(first).run(lambda line: None, wanted=finds, progress=False)
    library = Library(directory / "library")
    for path in sorted((directory / "first").glob("jobs/prompts-*/run/prompts/best-0.*"))[:1]:
        library.add_file(path)
    plan = plan_of(
        arrays,
        directory / "study",
        library=str(directory / "library"),
        model=Stage(2, Adafactor(0.001), batch_size=4, period=2),
        prompts_per_task=2,
        dimensions=(3,),
        reference_settings={"z_loss": 0.0},
        second_stage=True,
        fastfood=Stage(2, AdamW(0.1), batch_size=4, period=1),
        fastfood_dimensions=(2,),
    )
    return plan, SubspaceStudy(plan).run(lambda line: None, progress=False)


@pytest.mark.slow
def test_the_whole_path_ends_in_results(finished):
    plan, results = finished
    # Gone through, tuned, random, prompts from there, Fastfood; two seeds.
    assert len(results.scores) == 2 * (3 + 3 + 1 + 1 + 1)
    assert {score.setting for score in results.scores} == {
        *("train_msf", "test_msf", "train_same_ist", "test_ist", "test_second")
    }
    assert all(0 <= score.test <= 100 for score in results.scores)
    assert len([r for r in results.references if r.method == "model_tuning"]) == 6
    assert results.trained["prompt_tuning"] == 3 * 16
    assert results.trained["subspace 3"] == (48 * 3 + 3) + (3 * 8 + 8) + (8 * 48 + 48)
    groups = {row.group for row in relative_rows(results) if row.against == PROMPT_TUNING}
    assert Group("test_ist", "test", "random", 3) in groups
    assert Group("test_ist", "test", "fastfood", 2) in groups
    assert Group("test_second", "test", "found", 3, 2) in groups
    (item,) = stability(results)
    assert item.task == plan.test_tasks["test"][0] and set(item.second) == {3}
    text = write_report(results, Path(plan.directory) / "report").read_text()
    assert "From the subspace on" in text and "Fastfood on all weights" in text


@pytest.mark.slow
def test_stage_two_begins_from_the_prompt_in_the_subspace_with_the_references_loss(finished):
    plan, _ = finished
    study = SubspaceStudy(plan, look=True)
    second = load_prompt(study.path / study.result("second-d3-s1").prompts[0].file)
    tuned = study.job("tuned-d3-s1").parts
    number = [part.task for part in tuned].index(second.task)
    begun = study.path / study.result("tuned-d3-s1").prompts[number].file
    assert second.ancestry[0]["file"] == str(begun)
    for name in ("second-d3-s1", *(j.name for j in study.jobs if j.kind in ("prompts", "model"))):
        run = read_object(study.directory(study.job(name)) / "run" / "run.json", "")
        assert run["method_settings"]["z_loss"] == 0.0


@pytest.mark.slow
def test_prompts_are_the_librarys_where_it_has_them(finished):
    plan, _ = finished
    root = Path(plan.directory)
    taken = [read_object(path, "") for path in sorted(root.glob("jobs/prompts-*/taken.json"))]
    assert sorted(map(len, taken)) == [0, 0, 1]
    (copied,) = root.glob("jobs/prompts-*/made/library-0.safetensors")
    (entry,) = Library(plan.library).entries()
    assert np.array_equal(load_prompt(copied).prompt, load_prompt(entry.path).prompt)
    # The missing seed alone was tuned.
    setup = json.loads((copied.parents[1] / "run" / "run.json").read_text())
    assert setup["seeds"] == [1]


@pytest.mark.slow
def test_held_out_prompts_go_through_the_subspace_of_their_seed(finished):
    plan, _ = finished
    study = SubspaceStudy(plan, look=True)
    result = study.result("subspace-d3-s1")
    subspace = load_subspace(study.path / result.subspace)
    # Both seeds' prompts of both tasks, this seed's first.
    assert [origin["seed"] for origin in subspace.ancestry] == [1, 1, 0, 0]
    held_out = load_prompt(study.path / result.prompts[-1].file)
    task = plan.test_tasks["test"][0]
    source = next(j for j in study.jobs if j.kind == "prompts" and j.parts[0].task == task)
    tuned = load_prompt(study.path / study.result(source).prompts[1].file)
    expected = np.asarray(subspace.reconstruct(tuned.prompt))
    assert np.array_equal(held_out.prompt, expected) and tuned.seed == 1
    vector = load_prompt(study.path / study.result("tuned-d3-s1").prompts[0].file)
    assert vector.method["subspace"]["mark"] == subspace.mark


STUDY = Path(__file__).with_name("tiny_intrinsic.gin")


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_numbers(arrays, tmp_path):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    options = {"env": environment, "cwd": Path(__file__).parents[2], "stdout": subprocess.DEVNULL}
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def command(directory):
        return [
            *(sys.executable, "-m", "spot_jax.cli.main", "intrinsic", "ist", "--no_report"),
            f"--gin_file={STUDY}",
            f"--gin.STUDY_DIR={str(directory)!r}",
            f"--gin.BACKBONE={arrays.backbone!r}",
        ]

    def comparable(directory):
        text = (directory / "results.json").read_text().replace(str(directory), "STUDY")
        fields = json.loads(text)
        del fields["machine"]["seconds"], fields["digest"]  # which has the times in it
        return fields

    subprocess.run(command(whole), check=True, **options)
    jobs = len(list((whole / "jobs").iterdir()))
    rng = np.random.default_rng(0)
    for kill in range(2):
        with subprocess.Popen(command(killed), **options) as process:
            goal = rng.integers(kill * jobs // 2, (kill + 1) * jobs // 2)
            while len(list(killed.glob("jobs/*/result.json"))) < goal:
                assert process.poll() is None, "the study ended before it was killed"
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            process.wait()
    before = {path: path.stat().st_mtime_ns for path in killed.glob("jobs/*/result.json")}
    assert 0 < len(before) < jobs
    subprocess.run(command(killed), check=True, **options)
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert comparable(killed) == comparable(whole)
