"""A study on three nodes of Ray, stopped, a node killed, a job failed: as on one machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_cases import make_world

ROOT = Path(__file__).parents[2]
PYTHON_PATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": PYTHON_PATH,
    "JAX_PLATFORMS": "cpu",
    "RAY_USAGE_STATS_ENABLED": "0",
}
PATIENCE = 240


class Ray:
    """A cluster in a process of its own."""

    def __init__(self, log: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("ray_nodes.py")), "3", str(port)],
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.address, self.client = self.process.stdout.readline().split()

    def kill(self) -> str:
        """Kills a node at work; the name of the job that it did."""
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    ray = Ray(tmp_path_factory.mktemp("ray") / "log")
    yield ray
    ray.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def start(world, directory, *flags) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "spot_jax.cli.main", "study", "--no_report"),
            "--gin_file=tests/studies/tiny_study.gin",
            f"--gin.STUDY_DIR='{directory}'",
            f"--gin.BACKBONE='{world.backbone}'",
            f"--gin.study.sources={list(world.tasks[:2])}",
            f"--gin.study.targets={list(world.tasks[2:3])}",
            "--gin.study.multitask_mixture=[]",
            *("--gin.source/Stage.steps=40", "--gin.target/Stage.steps=40"),
            *flags,
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, said + errors[-3000:]
    return said, errors


def wait_for(directory: Path, pattern: str, process: subprocess.Popen) -> None:
    until = time.monotonic() + PATIENCE
    while not list(directory.glob(pattern)):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


def results(directory: Path) -> dict:
    """What a study found, without who made it and how long that took."""
    content = json.loads((directory / "results.json").read_text())
    del content["digest"], content["commands"], content["machine"]["seconds"]
    return content


@pytest.mark.slow
def test_a_study_that_lost_a_node_has_the_results_of_an_undisturbed_one(world, cluster, tmp_path):
    end(start(world, tmp_path / "local"))
    on, directory = f"--on=ray:{cluster.address}", tmp_path / "ray"
    _, errors = end(start(world, directory, on, '--job_resources={"TPU": 4}'), 2)
    assert "no node of the Ray cluster has what a job asks for, 1 CPU, 4 TPU; nodes have" in errors
    assert errors.count("\n") == 1

    # Ctrl-C: what is done stays done.
    process = start(world, directory, on)
    wait_for(directory, "jobs/*/result.json", process)
    process.send_signal(signal.SIGINT)
    _, errors = end(process, 130)
    assert "the same command goes on" in errors
    done = {path: path.stat().st_mtime_ns for path in directory.glob("jobs/*/result.json")}
    assert 0 < len(done) < 6

    # A node is killed between two checkpoints of a job that has tuned for a while.
    process = start(world, directory, on)
    wait_for(directory, "jobs/*/run/checkpoints/*", process)
    killed = cluster.kill()
    said, _ = end(process)
    assert re.search(
        rf"^{re.escape(killed)}: its worker died \(\w+\); it goes on, try 2$", said, re.M
    )
    assert "[6/6]" in said and "3 nodes, 3 jobs at once, each with 1 CPU" in said
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert results(directory) == results(tmp_path / "local")


@pytest.mark.slow
def test_a_job_that_fails_stops_those_that_need_it_alone(world, cluster, tmp_path):
    process = start(world, tmp_path / "study", "--jobs")
    listed, _ = end(process)
    source = next(word for word in listed.split() if word.startswith("source-"))
    run = tmp_path / "study" / "jobs" / source / "run"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"method": "another"}')
    said, errors = end(start(world, tmp_path / "study", f"--on={cluster.client}"), 2)
    # What averages and transfers begin from is not there; all else is.
    assert said.count("failed: ") == 1 and f"failed: job {source}: " in said
    assert "holds a run with" in errors and "(and 2 more jobs failed or wait" in errors
    assert errors.count("\n") == 1
    finished = {path.parent.name for path in (tmp_path / "study/jobs").glob("*/result.json")}
    assert {name.partition("-")[0] for name in finished} == {"source", "no_prompt", "scratch"}
    assert (tmp_path / "study" / "results.json").exists()
