"""A study is done once: cells are shared among processes, finished ones stay, kills lose little."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from study_cases import make_world, pretend

from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.library import similarity
from spot_jax.library.library import Library
from spot_jax.methods.prompt_file import load_prompt
from spot_jax.studies.engine import queue as cell_queue
from spot_jax.studies.engine.file_lock import claim, holder
from spot_jax.studies.transfer import study
from spot_jax.studies.transfer.directory import open_study
from spot_jax.studies.transfer.results import read_results
from spot_jax.transfer.methods.weighted_average import weights


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def pretended(monkeypatch):
    """Cells without training; the list of those that were done."""
    done = []

    def cell(opened, one, progress=None):
        done.append(one.name)
        return pretend(opened, one)

    monkeypatch.setattr(study, "run_cell", cell)
    monkeypatch.setattr(study, "finish", lambda opened: None)
    monkeypatch.setattr(study, "_check", lambda plan, name: None)
    monkeypatch.setattr(cell_queue, "POLL", 0.01)
    return done


def names(plan):
    return [cell.name for cell in open_study(plan, lambda n: (n,), look=True).cells]


def test_cells_are_done_once_in_an_order_that_has_what_they_need(world, tmp_path, pretended):
    plan, told = world.plan(tmp_path, weighted_average=(2,)), []
    study.study(plan, told.append)
    assert pretended == names(plan) and len(pretended) == 5
    assert told[0] == f"{tmp_path}: 5 cells, 12 prompts"
    # Of equal pace: the work left is what was not done.
    assert sum(" left" in line for line in told) == 4
    study.study(plan, told.append)
    assert len(pretended) == 5
    assert study.overview(plan)[-1] == "5 of 5 done"
    # What is new is all that is done when the grid grows.
    grown = world.plan(tmp_path, targets=world.tasks[2:], weighted_average=(2,))
    study.study(grown, told.append)
    assert pretended[5:] == [name for name in names(grown) if name not in pretended[:5]]
    assert len(pretended) == 8


def test_a_cell_alone_needs_what_it_begins_from(world, tmp_path, pretended):
    plan, told = world.plan(tmp_path), []
    one, other, _, transfer = names(plan)
    with pytest.raises(SpotError, match=f"{transfer} needs what {one} and 1 more will have writ"):
        study.study_cell(plan, transfer, told.append)
    with pytest.raises(SpotError, match="the study has no cell 'source'; `spot study --cells` lis"):
        study.study_cell(plan, "source", told.append)
    for name in (one, other, transfer):
        study.study_cell(plan, name, told.append)
    study.study_cell(plan, transfer, told.append)
    assert pretended == [one, other, transfer] and told[-1] == f"{transfer} is done"


def test_a_cell_of_another_process_is_left_to_it(world, tmp_path, pretended):
    plan, told = world.plan(tmp_path), []
    opened = open_study(plan, lambda n: (n,))
    first = opened.cells[0]
    with claim(opened.claim_file(first)) as ours:
        assert ours and holder(opened.claim_file(first)) == f"process {os.getpid()} on " + (
            os.uname().nodename
        )
        with claim(opened.claim_file(first)) as again:
            assert not again
        with pytest.raises(SpotError, match=f"{first.name} is being done by process {os.getpid()}"):
            study.study_cell(plan, first.name, told.append)
        assert "running: process" in study.overview(plan)[1]
    assert holder(opened.claim_file(first)) is None


def test_a_cell_that_was_done_since_one_looked_is_not_done_again(
    world, tmp_path, pretended, monkeypatch
):
    plan = world.plan(tmp_path)
    opened, first = open_study(plan, lambda n: (n,)), names(plan)[0]

    @contextlib.contextmanager
    def late(path):
        if path == opened.claim_file(opened.cells[0]):
            path.parent.mkdir(parents=True, exist_ok=True)
            pretend(opened, opened.cells[0])
        with claim(path) as ours:
            yield ours

    monkeypatch.setattr(cell_queue, "claim", late)
    study.study(plan, lambda line: None)
    assert pretended == names(plan)[1:] and first not in pretended


def work(plan, barrier, done):
    def cell(opened, one, progress=None):
        time.sleep(0.05)
        done.put((os.getpid(), one.name))
        return pretend(opened, one)

    study.run_cell, study.finish, study._check = cell, lambda opened: None, lambda *a: None
    cell_queue.POLL = 0.01
    barrier.wait()
    study.study(plan, lambda line: None)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # the children use no JAX
def test_two_processes_share_the_cells_and_both_see_the_end(world, tmp_path):
    plan = world.plan(tmp_path, targets=world.tasks[2:], weighted_average=(2,))
    context = multiprocessing.get_context("fork")
    barrier, done = context.Barrier(2), context.SimpleQueue()
    workers = [context.Process(target=work, args=(plan, barrier, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [done.get() for _ in names(plan)]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert sorted(name for _, name in found) == sorted(names(plan)) and done.empty()
    assert len({pid for pid, _ in found}) == 2


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # the children use no JAX
def test_a_killed_process_leaves_no_claim(tmp_path):
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe()

    def hold():
        with claim(tmp_path / "claim"):
            theirs.send("held")
            time.sleep(60)

    worker = context.Process(target=hold)
    worker.start()
    assert pipe.recv() == "held"
    assert holder(tmp_path / "claim") == f"process {worker.pid} on {os.uname().nodename}"
    worker.kill()
    worker.join()
    with claim(tmp_path / "claim") as ours:
        assert ours


def test_what_was_begun_before_a_study_was_moved_is_begun_anew(world, tmp_path):
    opened = open_study(world.plan(tmp_path), lambda n: (n,))
    cell = opened.cells[0]
    directory = opened.directory(cell)
    (directory / "run").mkdir(parents=True)
    for _ in range(2):
        opened.begin(cell, ("run",))
        assert (directory / "run").exists()
    (directory / "place").write_text("/elsewhere")
    opened.begin(cell, ("run",))
    assert not (directory / "run").exists()


def test_a_cell_that_fails_is_named(world, tmp_path, pretended, monkeypatch):
    def fail(*given):
        raise SpotError("step 3: loss is not finite")

    monkeypatch.setattr(study, "run_cell", fail)
    plan = world.plan(tmp_path)
    with pytest.raises(SpotError, match=f"^cell {names(plan)[0]}: step 3: loss is not finite"):
        study.study(plan, lambda line: None)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A whole study by real runs, and what it told."""
    plan = world.plan(tmp_path_factory.mktemp("study"), weighted_average=(2,))
    told = []
    return plan, study.study(plan, told.append, command="spot study", progress=False), told


def test_the_whole_path_ends_in_results(finished, world):
    plan, found, told = finished
    assert read_results(plan.directory) == found
    a, b, target, _ = world.tasks
    assert [(s.method, s.source, s.k, s.seed) for s in found.scores] == [
        *(("scratch", None, None, seed) for seed in (0, 1)),
        *(("transfer", source, None, seed) for source in (a, b) for seed in (0, 1)),
        *(("weighted_average", None, 2, seed) for seed in (0, 1)),
    ]
    assert all(0 <= s.test <= 100 and s.validation is not None for s in found.scores)
    assert [len(curve.steps) for curve in found.curves] == [2] * 8
    assert len(found.similarities) == 8 and len(found.embeddings.names) == 6
    assert len(found.prompts) == 12 and found.commands == ("spot study",)
    assert {p.id for p in found.prompts if p.role == "source"} == {
        entry.id for entry in Library(Path(plan.directory) / "library").entries()
    }


def test_a_target_begins_from_the_source_prompt_of_its_seed(finished, world):
    plan, found, _ = finished
    sources = {(p.task, p.seed): p.file for p in found.prompts if p.role == "source"}
    transferred = [p for p in found.prompts if "transfer-" in p.file]
    begun = [(p.ancestry[0]["task"], p.ancestry[0]["seed"]) for p in transferred]
    assert begun == [(source, seed) for source in world.tasks[:2] for seed in (0, 1)]
    assert [p.seed for p in transferred] == [0, 1, 0, 1]
    assert [p.ancestry[0]["file"] for p in transferred] == [sources[key] for key in begun]


def test_an_average_is_of_the_prompts_most_like_the_target_of_its_seed(finished):
    plan, found, _ = finished
    root = Path(plan.directory)
    opened = open_study(plan, lambda n: (n,), look=True)
    cell = next(c for c in opened.cells if c.kind == "weighted_average")
    ids = {p.id: p for p in found.prompts if p.id}
    for i, prompt in enumerate(opened.result(cell.name).prompts):
        mine = [s for s in found.similarities if s.target_seed == prompt.seed]
        best = sorted(mine, key=lambda s: -s.per_token)[: prompt.k]
        chosen = [(one["task"], one["seed"]) for one in prompt.chosen]
        assert chosen == [(s.source, s.source_seed) for s in best]
        tables = [load_prompt(root / ids[one["id"]].file).prompt for one in prompt.chosen]
        shares = weights([s.per_token for s in best])
        expected = sum(share * table for share, table in zip(shares, tables, strict=True))
        made = load_prompt(opened.directory(cell) / "init" / f"average-{i}.safetensors")
        np.testing.assert_allclose(made.prompt, expected, rtol=1e-5, atol=1e-6)


def test_embeddings_are_those_of_the_early_step(finished):
    plan, found, _ = finished
    opened = open_study(plan, lambda n: (n,), look=True)
    files = [
        load_prompt(opened.path / prompt.embedding)
        for cell in opened.cells
        if cell.kind in ("source", "scratch")
        for prompt in opened.result(cell.name).prompts
    ]
    assert {file.step for file in files} == {plan.embedding_step}
    assert [(e.task, e.seed) for e in found.embeddings.names] == [(f.task, f.seed) for f in files]
    one, other = files[0].prompt, files[-1].prompt
    expected = similarity.per_token(one, other)
    assert found.embeddings.per_token[0][-1] == pytest.approx(expected, abs=1e-6)


def test_what_is_wrong_with_a_task_is_found_before_anything_is_trained(world, tmp_path):
    def told(line):
        raise AssertionError(line)

    plan = world.plan(tmp_path, test_split="answers")
    with pytest.raises(SpotError, match="answers"):
        study.study(plan, told)
    plan = world.plan(tmp_path, multitask_mixture=(1,))
    with pytest.raises(SpotError, match="a multi-task mixture needs seqio tasks, found the file"):
        study.study(plan, told)
    with pytest.raises(SpotError, match="nothing of a study is done in"):
        study.so_far(world.plan(tmp_path))
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "needs a study to do: add --gin_file=gin_configs/studies/mini.gin"),
        (["--from_paper"], "--from_paper writes a report: add --output_dir=DIR"),
        (["--gin_file=gin_configs/studies/mini.gin", "--cells", "--so_far"], "are two commands"),
        (["--gin_file=gin_configs/runs/prompt_tuning.gin"], "says nothing about study"),
        (
            ["--gin_file=gin_configs/studies/mini.gin", "--cells", "--gin.AVERAGE_TOP_K=[30]"],
            "weighted_average of k = 30 prompts for bundled_vader_amazon_16shot",
        ),
    ],
)
def test_a_command_that_cannot_be_is_one_line(arguments, line, capsys):
    assert main(["study", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert line in complaint and complaint.count("\n") == 1


def test_the_shipped_studies_are_whole(capsys, tmp_path):
    where = f"--gin.STUDY_DIR='{tmp_path / 'study'}'"
    assert main(["study", "--gin_file=gin_configs/studies/mini.gin", "--cells", where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(f"of {len(lines) - 2} done") and len(lines) > 30
    assert not (tmp_path / "study").exists()


STUDY = Path(__file__).with_name("tiny_study.gin")


def command(world, directory):
    return [
        *(sys.executable, "-m", "spot_jax.cli.main", "study", f"--gin_file={STUDY}"),
        f"--gin.STUDY_DIR={str(directory)!r}",
        f"--gin.BACKBONE={world.backbone!r}",
        "--no_report",
    ]


def comparable(directory):
    """results.json without times, and without the place where the study was done."""
    text = (directory / "results.json").read_text().replace(str(directory), "STUDY")
    fields = json.loads(text)
    del fields["machine"]["seconds"]
    return fields


@pytest.mark.slow
def test_killed_three_times_at_random_it_ends_with_the_same_numbers(world, tmp_path):
    """Every kind of cell, on tasks that ship; kill -9, then by two processes at once."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    options = {"env": environment, "cwd": Path(__file__).parents[2], "stdout": subprocess.DEVNULL}
    whole, killed, shared = tmp_path / "whole", tmp_path / "killed", tmp_path / "shared"
    subprocess.run(command(world, whole), check=True, **options)
    cells = len(list((whole / "cells").iterdir()))
    rng = np.random.default_rng(0)

    def done():
        return len(list(killed.glob("cells/*/result.json")))

    for kill in range(3):
        process = subprocess.Popen(command(world, killed), **options)
        goal = rng.integers(kill * cells // 3, (kill + 1) * cells // 3)
        while done() < goal or not any(killed.glob("cells/*/run/metrics.jsonl")):
            assert process.poll() is None, "the study ended before it was killed"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3))
        assert done() < cells
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed with {done()} of {cells} cells done")
    before = {path: path.stat().st_mtime_ns for path in killed.glob("cells/*/result.json")}
    subprocess.run(command(world, killed), check=True, **options)
    assert before and all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert comparable(killed) == comparable(whole)

    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(subprocess.Popen(command(world, shared), **options)) for _ in "12"
        ]
        assert [process.wait() for process in both] == [0, 0]
    assert comparable(shared) == comparable(whole)
