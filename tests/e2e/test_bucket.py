"""Everything a command reads and writes, on an object store: Google's, emulated by a process here.

gcsfs and TensorStore are pointed at it by the environment, so all of our code and theirs runs.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tiny_text import store_backbone

ROOT = Path(__file__).parents[2]
SPOT = [sys.executable, "-m", "spot_jax.cli.main"]
BUCKET = "gs://bucket"


@pytest.fixture(autouse=True)
def _no_network():
    """The store is a process of this machine, and asked by socket."""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Start the emulator; yield the environment of a process that uses it."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    port = free_port()
    log = (tmp_path_factory.mktemp("store") / "log").open("wb")
    options = ["--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
    code = "import sys; from gcp_storage_emulator.__main__ import main; main(sys.argv[1:])"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "start", *options], stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        yield {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            # Nobody asks Google who we are.
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
            "NO_GCE_CHECK": "true",
            "GCE_METADATA_ROOT": "127.0.0.1:1",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    finally:
        server.kill()
        server.wait()
        log.close()


def spot(environment, *command, code=0):
    done = subprocess.run(
        [*SPOT, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


def listing(environment):
    """The names of all objects, asked of the server itself."""
    url = f"{environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/bucket/o"
    with urllib.request.urlopen(url) as answer:
        return [item["name"] for item in json.load(answer).get("items", [])]


def content(environment, path):
    code = "import sys; from spot_jax.files import as_path\n"
    code += "sys.stdout.buffer.write(as_path(sys.argv[1]).read_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def settings(run, backbone, task="bundled_wordnet_hypernym", steps=12):
    return [
        "train",
        "--gin_file=gin_configs/runs/spot_source_mini.gin",
        f"--gin.MODEL_DIR='{run}'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{backbone}'",
        f"--gin.MIXTURE_OR_TASK_NAME='{task}'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
        f"--gin.TRAIN_STEPS={steps}",
        "--gin.EMBEDDING_STEP=3",
        "--gin.EVAL_PERIOD=6",
        "--gin.EVAL_EXAMPLES=20",
        "--gin.CheckpointPlan.period=2",
        "--gin.PROMPT_LENGTH=3",
        "--gin.DROPOUT_RATE=0.1",
    ]


def copied(environment, directory, where):
    code = "import sys, pathlib; from spot_jax.files import as_path\n"
    code += "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
    code += "    (as_path(sys.argv[2]) / path.name).write_bytes(path.read_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", code, directory, where], cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0
    return where


@pytest.fixture(scope="module")
def backbones(store, tmp_path_factory):
    """The same backbone on a disk and in the bucket, vocabulary and all."""
    local = store_backbone(tmp_path_factory.mktemp("backbone") / "tiny")
    return local, copied(store, local, f"{BUCKET}/backbones/tiny")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_in_a_bucket_and_is_as_on_a_disk(store, backbones, tmp_path):
    local, remote = backbones
    spot(store, *settings(tmp_path / "run", local))
    run = f"{BUCKET}/runs/killed"
    killed = subprocess.Popen(
        [*SPOT, *settings(run, remote)],
        cwd=ROOT,
        env=store,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    steps = "runs/killed/checkpoints/"
    while not any(name.startswith(steps) and "_CHECKPOINT" in name for name in listing(store)):
        assert killed.poll() is None, "the run ended before it was killed"
        time.sleep(0.05)
    time.sleep(random.uniform(0.0, 0.5))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    said = spot(store, *settings(run, remote))
    assert f"step 12 of {run} done" in said and f"{run}/prompts/best-0.safetensors" in said
    for name in ("best-0", "last-0", "embedding-0"):
        here = (tmp_path / "run" / "prompts" / f"{name}.safetensors").read_bytes()
        assert content(store, f"{run}/prompts/{name}.safetensors") == here
    lines = [json.loads(x) for x in content(store, f"{run}/metrics.jsonl").splitlines()]
    mine = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == mine
    names = listing(store)
    assert any("runs/killed/events.out.tfevents" in name for name in names)
    assert not any(".part" in name or ".writable" in name for name in names)
    assert not Path(ROOT, "gs:").exists()
    # What is in the bucket is used from there.
    spot(store, "eval", run, "--examples", "8", "--output", f"{BUCKET}/scores.jsonl")
    assert len(content(store, f"{BUCKET}/scores.jsonl").splitlines()) == 8


@pytest.mark.slow
def test_a_library_and_a_search_in_a_bucket(store, backbones, tmp_path):
    _, remote = backbones
    library = f"{BUCKET}/library"
    for task in ("bundled_vader_movie", "bundled_banking77"):
        run = f"{BUCKET}/runs/{task}"
        spot(store, *settings(run, remote, task, steps=4))
        assert "embedding of step 3" in spot(store, "prompts", "add", run, "--library", library)
    listed = spot(store, "prompts", "list", "--library", library)
    assert "bundled_vader_movie" in listed and "bundled_banking77" in listed
    output = spot(
        store,
        *("prompts", "search", "--library", library, "--backbone", remote, "--top_k", "2"),
        *("--embedding", f"{BUCKET}/runs/bundled_banking77/prompts/embedding-0.safetensors"),
        *("--task", "bundled_sms_spam"),
    )
    # The embedding's own task is no source for it.
    ranked = [line.split()[0] for line in output.splitlines() if line.startswith("bundled_")]
    assert ranked == ["bundled_vader_movie"]


@pytest.mark.slow
def test_a_study_and_its_report_in_a_bucket(store, backbones, tmp_path):
    local, remote = backbones
    results = []
    for where, backbone in ((tmp_path / "study", local), (f"{BUCKET}/study", remote)):
        spot(
            store,
            "study",
            f"--gin_file={ROOT}/tests/studies/tiny_study.gin",
            f"--gin.STUDY_DIR='{where}'",
            f"--gin.BACKBONE='{backbone}'",
        )
        results.append(json.loads(content(store, f"{where}/results.json")))
    for each in results:
        # The digest is of all fields, those two included.
        for name in ("commands", "machine", "digest"):
            each.pop(name)
    assert _scores(results[0]) == _scores(results[1])
    spot(store, "report", f"{BUCKET}/study", "--output_dir", f"{BUCKET}/report")
    assert b"<html" in content(store, f"{BUCKET}/report/index.html")[:500]


def _scores(results):
    """A study's numbers without times and file hashes of its own paths."""
    with contextlib.suppress(KeyError):
        results.pop("prompts")
    return json.loads(json.dumps(results), object_hook=_without_seconds)


def _without_seconds(fields):
    return {key: value for key, value in fields.items() if "seconds" not in key}


@pytest.mark.slow
def test_a_gin_file_in_a_bucket(store, backbones, tmp_path):
    _, remote = backbones
    config = tmp_path / "source"
    config.mkdir()
    text = (ROOT / "gin_configs/runs/spot_source_mini.gin").read_text()
    (config / "run.gin").write_text(text)
    copied(store, str(config), f"{BUCKET}/configs")
    command = settings(f"{BUCKET}/runs/gin", remote, steps=2)
    command[1] = f"--gin_file={BUCKET}/configs/run.gin"
    command[command.index("--gin.EMBEDDING_STEP=3")] = "--gin.EMBEDDING_STEP=2"
    assert "step 2 of" in spot(store, *command)
