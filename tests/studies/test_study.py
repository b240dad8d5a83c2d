"""A study is done once: jobs are shared among processes, finished ones stay, kills lose little."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from study_cases import make_world, pretend

from spot_jax.cli.configurables import configured
from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.files.locks import file_lock, holder
from spot_jax.library import similarity
from spot_jax.library.library import Library
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.studies.engine import queue
from spot_jax.studies.engine.plan import Stage
from spot_jax.studies.transfer.results import TransferResults
from spot_jax.studies.transfer.study import TransferStudy
from spot_jax.transfer.strategies import weights


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def pretending(done, patch=setattr):
    """Makes studies do jobs without training; `done` gets the names of those that were done."""

    def do(study, job, progress):
        done(job.name)
        return pretend(job)

    patch(TransferStudy, "do", do)
    patch(TransferStudy, "finish", lambda study: None)
    patch(TransferStudy, "check_task", lambda study, name: None)
    patch(queue, "POLL", 0.01)


@pytest.fixture
def pretended(monkeypatch):
    """Jobs without training; the list of those that were done."""
    done = []
    pretending(done.append, monkeypatch.setattr)
    return done


def names(plan):
    return [job.name for job in TransferStudy(plan, look=True).jobs]


def test_jobs_are_done_once_in_an_order_that_has_what_they_need(world, tmp_path, pretended):
    plan, lines = world.plan(tmp_path, weighted_average=(2,)), []
    TransferStudy(plan).run(lines.append)
    assert pretended == names(plan) and len(pretended) == 6
    assert lines[0] == f"{tmp_path}: 6 jobs, 13 prompts"
    # Of equal pace: the work left is what was not done.
    assert sum(" left" in line for line in lines) == 5
    TransferStudy(plan).run(lines.append)
    assert len(pretended) == 6
    assert TransferStudy(plan, look=True).overview()[-1] == "6 of 6 done"
    # What is new is all that is done when the grid grows.
    grown = world.plan(tmp_path, targets=world.tasks[2:], weighted_average=(2,))
    TransferStudy(grown).run(lines.append)
    assert pretended[6:] == [name for name in names(grown) if name not in pretended[:6]]
    assert len(pretended) == 10


def test_a_job_alone_needs_what_it_begins_from(world, tmp_path, pretended):
    plan, lines = world.plan(tmp_path), []
    first, second, _, _, transfer = names(plan)
    study = TransferStudy(plan)
    with pytest.raises(SpotError, match=f"{transfer} needs what {first} and 1 more will have wr"):
        study.run_job(transfer, lines.append)
    with pytest.raises(SpotError, match="the study has no job 'source'; `spot study --jobs` lists"):
        study.run_job("source", lines.append)
    for name in (first, second, transfer):
        study.run_job(name, lines.append)
    study.run_job(transfer, lines.append)
    assert pretended == [first, second, transfer] and lines[-1] == f"{transfer} is done"


def test_a_job_of_another_process_is_left_to_it(world, tmp_path, pretended):
    study = TransferStudy(world.plan(tmp_path))
    first = study.jobs[0]
    with file_lock(study.lock_file(first)) as ours:
        assert ours and holder(study.lock_file(first)) == f"process {os.getpid()} on " + (
            os.uname().nodename
        )
        with file_lock(study.lock_file(first)) as again:
            assert not again
        with pytest.raises(SpotError, match=f"{first.name} is being done by process {os.getpid()}"):
            study.run_job(first.name, print)
        assert "running: process" in study.overview()[1]
    assert holder(study.lock_file(first)) is None


def test_a_job_that_was_done_since_one_looked_is_not_done_again(
    world, tmp_path, pretended, monkeypatch
):
    plan = world.plan(tmp_path)
    study, first = TransferStudy(plan), names(plan)[0]

    @contextlib.contextmanager
    def late(path):
        if path == study.lock_file(study.jobs[0]):
            study.begin(study.jobs[0])
            study.save(study.jobs[0], pretend(study.jobs[0]))
        with file_lock(path) as ours:
            yield ours

    monkeypatch.setattr(queue, "file_lock", late)
    TransferStudy(plan).run(lambda line: None)
    assert pretended == names(plan)[1:] and first not in pretended


def work(plan, barrier, done):
    def noted(name):
        time.sleep(0.05)
        done.put((os.getpid(), name))

    pretending(noted)
    barrier.wait()
    TransferStudy(plan).run(lambda line: None)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # the children use no JAX
def test_two_processes_share_the_jobs_and_both_see_the_end(world, tmp_path):
    plan = world.plan(tmp_path, targets=world.tasks[2:], weighted_average=(2,))
    context = multiprocessing.get_context("fork")
    barrier, done = context.Barrier(2), context.SimpleQueue()
    workers = [context.Process(target=work, args=(plan, barrier, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    reports = [done.get() for _ in names(plan)]
    assert sorted(name for _, name in reports) == sorted(names(plan)) and done.empty()
    assert len({pid for pid, _ in reports}) == 2


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # the children use no JAX
def test_a_killed_process_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe()

    def hold():
        with file_lock(tmp_path / "lock"):
            theirs.send("held")
            time.sleep(60)

    worker = context.Process(target=hold)
    worker.start()
    assert pipe.recv() == "held"
    assert holder(tmp_path / "lock") == f"process {worker.pid} on {os.uname().nodename}"
    worker.kill()
    worker.join()
    with file_lock(tmp_path / "lock") as ours:
        assert ours


def test_what_was_begun_before_a_study_was_moved_is_begun_anew(world, tmp_path):
    study = TransferStudy(world.plan(tmp_path))
    job = study.jobs[0]
    directory = study.directory(job)
    (directory / "run").mkdir(parents=True)
    for _ in range(2):
        study.begin(job)
        assert (directory / "run").exists()
    (directory / "place").write_text("/elsewhere")
    study.begin(job)
    assert not (directory / "run").exists()


def test_a_job_that_fails_is_named(world, tmp_path, pretended, monkeypatch):
    def fail(*args):
        raise SpotError("step 3: loss is not finite")

    monkeypatch.setattr(TransferStudy, "do", fail)
    plan = world.plan(tmp_path)
    with pytest.raises(SpotError, match=f"^job {names(plan)[0]}: step 3: loss is not finite"):
        TransferStudy(plan).run(lambda line: None)


STEPS = "target.steps = 2, this one has 3"


@pytest.mark.parametrize("gone", [True, False])
def test_results_are_not_taken_for_those_of_other_settings(world, tmp_path, pretended, gone):
    TransferStudy(world.plan(tmp_path)).run(lambda line: None)
    if gone:
        # Whatever becomes of study.json, a result says what it was made under.
        (tmp_path / "study.json").unlink()
    longer = world.plan(tmp_path, target=Stage(3, batch_size=4, period=1))
    with pytest.raises(SpotError, match=re.escape(STEPS)) as refused:
        TransferStudy(longer, look=True)
    assert "\n" not in str(refused.value)
    with pytest.raises(SpotError, match=re.escape(STEPS)):
        TransferStudy(longer)
    # The same settings find everything done.
    assert TransferStudy(world.plan(tmp_path)).overview()[-1] == "5 of 5 done"


def test_a_setting_of_another_task_does_not_undo_a_job(world, tmp_path, pretended):
    a, b, c, d = world.tasks
    TransferStudy(world.plan(tmp_path)).run(lambda line: None)
    (tmp_path / "study.json").unlink()
    other = world.plan(tmp_path, tasks={a: {"inputs": 6}})
    with pytest.raises(SpotError, match=rf"task .*{re.escape(a)}\.inputs = 8, this one has 6"):
        TransferStudy(other, look=True)
    wider = world.plan(tmp_path, targets=(c, d), tasks={d: {"inputs": 6}})
    assert TransferStudy(wider, look=True).overview()[-1].startswith("5 of 8 done")


def spoil(study, change):
    """Changes the result of the last job; its path."""
    path = study.directory(study.jobs[-1]) / "result.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields["prompts"].pop(), "it has 3 of 4 prompts"),
        (lambda fields: fields["prompts"][1].update(file="jobs/x/gone"), "jobs/x/gone is gone"),
        (lambda fields: fields["prompts"][1].update(test="high"), "test must be a float"),
        (lambda fields: fields.pop("about"), "does not say under which settings it was made"),
        (lambda fields: fields["about"]["parts"].pop(), "parts = "),
    ],
)
def test_a_result_that_lacks_something_is_not_done(world, tmp_path, pretended, change, reason):
    plan = world.plan(tmp_path)
    study = TransferStudy(plan)
    study.run(lambda line: None)
    path = spoil(study, change)
    with pytest.raises(SpotError, match=reason) as refused:
        TransferStudy(plan)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)
    path.unlink()
    pretended.clear()
    TransferStudy(plan).run(lambda line: None)
    assert pretended == [study.jobs[-1].name]


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A whole study by real runs, and its results."""
    plan = world.plan(tmp_path_factory.mktemp("study"), weighted_average=(2,))
    study = TransferStudy(plan, "spot study")
    return study, study.run(lambda line: None, progress=False)


def test_the_whole_path_ends_in_results(finished, world):
    study, results = finished
    assert TransferResults.read(study.path) == results
    a, b, target, _ = world.tasks
    assert [(s.method, s.source, s.k, s.seed) for s in results.scores] == [
        *(("scratch", None, None, seed) for seed in (0, 1)),
        *(("transfer", source, None, seed) for source in (a, b) for seed in (0, 1)),
        *(("weighted_average", None, 2, seed) for seed in (0, 1)),
    ]
    assert all(0 <= s.test <= 100 and s.validation is not None for s in results.scores)
    assert [len(curve.steps) for curve in results.curves] == [2] * 8
    assert len(results.similarities) == 8 and len(results.embeddings.names) == 6
    assert len(results.prompts) == 12 and results.commands == ("spot study",)
    assert {p.id for p in results.prompts if p.role == "source"} == {
        entry.id for entry in Library(study.path / "library").entries()
    }
    # The bare backbone is scored by the evaluator, in a job of its own.
    assert list(results.no_prompt) == [target] and 0 <= results.no_prompt[target] <= 100


def test_a_target_begins_from_the_source_prompt_of_its_seed(finished, world):
    _, results = finished
    sources = {(p.task, p.seed): p.file for p in results.prompts if p.role == "source"}
    transferred = [p for p in results.prompts if "transfer-" in p.file]
    begun = [(p.ancestry[0]["task"], p.ancestry[0]["seed"]) for p in transferred]
    assert begun == [(source, seed) for source in world.tasks[:2] for seed in (0, 1)]
    assert [p.seed for p in transferred] == [0, 1, 0, 1]
    assert [p.ancestry[0]["file"] for p in transferred] == [sources[key] for key in begun]


def test_an_average_is_of_the_prompts_most_like_the_target_of_its_seed(finished):
    study, results = finished
    job = next(job for job in study.jobs if job.kind == "weighted_average")
    ids = {p.id: p for p in results.prompts if p.id}
    for i, prompt in enumerate(study.result(job).prompts):
        mine = [s for s in results.similarities if s.target_seed == prompt.seed]
        best = sorted(mine, key=lambda s: -s.per_token)[: prompt.k]
        chosen = [(source["task"], source["seed"]) for source in prompt.chosen]
        assert chosen == [(s.source, s.source_seed) for s in best]
        tables = [
            load_prompt(study.path / ids[source["id"]].file).prompt for source in prompt.chosen
        ]
        shares = weights([s.per_token for s in best])
        expected = sum(share * table for share, table in zip(shares, tables, strict=True))
        average = load_prompt(study.directory(job) / "init" / f"average-{i}.safetensors")
        np.testing.assert_allclose(average.prompt, expected, rtol=1e-5, atol=1e-6)


def test_embeddings_are_those_of_the_early_step(finished):
    study, results = finished
    files = [
        load_prompt(study.path / prompt.embedding)
        for job in study.jobs
        if job.kind in ("source", "scratch")
        for prompt in study.result(job).prompts
    ]
    assert {file.step for file in files} == {study.plan.embedding_step}
    assert [(e.task, e.seed) for e in results.embeddings.names] == [(f.task, f.seed) for f in files]
    first, last = files[0].prompt, files[-1].prompt
    expected = similarity.per_token(first, last)
    assert results.embeddings.per_token[0][-1] == pytest.approx(expected, abs=1e-6)


def test_what_is_wrong_with_a_task_is_found_before_anything_is_trained(world, tmp_path):
    with pytest.raises(SpotError, match="answers"):
        TransferStudy(world.plan(tmp_path, test_split="answers"))
    with pytest.raises(SpotError, match="a multi-task mixture needs seqio tasks, found the file"):
        TransferStudy(world.plan(tmp_path, multitask_mixture=(1,)))
    with pytest.raises(SpotError, match="nothing of a study is done in"):
        TransferStudy(world.plan(tmp_path), look=True).so_far()
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "needs a study to do: add --gin_file=gin_configs/studies/mini.gin"),
        (
            ["--gin_file=gin_configs/studies/mini.gin", "--jobs", "--gin.STUDY_DIR=''"],
            "STUDY_DIR is ''; give the directory of the study",
        ),
        (["--from_paper"], "--from_paper writes a report: add --output_dir=DIR"),
        (["--gin_file=gin_configs/studies/mini.gin", "--jobs", "--so_far"], "are two commands"),
        (["--gin_file=gin_configs/runs/prompt_tuning.gin"], "says nothing about study"),
        (
            ["--gin_file=gin_configs/studies/mini.gin", "--jobs", "--gin.AVERAGE_TOP_K=[30]"],
            "weighted_average of k = 30 prompts for bundled_banking77_16shot",
        ),
    ],
)
def test_a_command_that_cannot_be_is_one_line(arguments, line, capsys):
    assert main(["study", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert line in complaint and complaint.count("\n") == 1


def test_the_papers_study_caps_its_sources_and_says_how_it_decodes():
    flags = {"STUDY_DIR": "s", "INITIAL_CHECKPOINT_PATH": "backbones/mini"}
    pairs = [(f"--gin.{k}", f"{k} = {v!r}") for k, v in {**flags, "DECODING": "greedy"}.items()]
    plan_of, fields, _ = configured("study", ["gin_configs/studies/spot_paper.gin"], pairs)
    plan = plan_of(**fields)
    assert plan.evaluation(plan.source).examples == 2000
    assert plan.evaluation(plan.target).examples is None
    assert plan.task("glue_mrpc")["decoding"] == "greedy"


def test_the_shipped_studies_are_whole(capsys, tmp_path):
    where = f"--gin.STUDY_DIR='{tmp_path / 'study'}'"
    assert main(["study", "--gin_file=gin_configs/studies/mini.gin", "--jobs", where]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Seven sources, and five jobs for each of three targets.
    assert lines[-1] == "0 of 22 done" and len(lines) == 22 + 2
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
    del fields["machine"]["seconds"], fields["digest"]  # which has the times in it
    return fields


@pytest.mark.slow
def test_killed_three_times_at_random_it_ends_with_the_same_numbers(world, tmp_path):
    """Every kind of job, on tasks that ship; kill -9, then by two processes at once."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    options = {"env": environment, "cwd": Path(__file__).parents[2], "stdout": subprocess.DEVNULL}
    whole, killed, shared = tmp_path / "whole", tmp_path / "killed", tmp_path / "shared"
    subprocess.run(command(world, whole), check=True, **options)
    jobs = len(list((whole / "jobs").iterdir()))
    rng = np.random.default_rng(0)

    def done():
        return len(list(killed.glob("jobs/*/result.json")))

    for kill in range(3):
        process = subprocess.Popen(command(world, killed), **options)
        goal = rng.integers(kill * jobs // 3, (kill + 1) * jobs // 3)
        while done() < goal or not any(killed.glob("jobs/*/run/metrics.jsonl")):
            assert process.poll() is None, "the study ended before it was killed"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3))
        assert done() < jobs
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed with {done()} of {jobs} jobs done")
    before = {path: path.stat().st_mtime_ns for path in killed.glob("jobs/*/result.json")}
    subprocess.run(command(world, killed), check=True, **options)
    assert before and all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert comparable(killed) == comparable(whole)

    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(subprocess.Popen(command(world, shared), **options)) for _ in "12"
        ]
        assert [process.wait() for process in both] == [0, 0]
    assert comparable(shared) == comparable(whole)
