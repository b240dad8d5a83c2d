"""Whether a process joins others: simulated metadata of each kind of cluster, and each verb."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax._src.clusters import cloud_tpu_cluster, k8s_cluster

from spot_jax.cli import joining
from spot_jax.cli.main import VERBS
from spot_jax.errors import SpotError
from spot_jax.training import distributed
from spot_jax.training.distributed import Cluster, find_cluster, lost_peer

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[01-04]",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "4",
}
MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """A machine that is in no cluster."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "OMPI", "TPU_", "KUBERNETES", "JOB_COMPLETION")):
            monkeypatch.delenv(name)


@pytest.fixture
def tpu(monkeypatch):
    """A Cloud TPU host: sets the metadata that GCE gives it."""

    def become(metadata):
        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)

        def get_metadata(key):
            return (metadata[key], 200) if key in metadata else ("", 404)

        monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", get_metadata)

    return become


def gce(hosts, number, **more):
    endpoints = ",".join(f"worker-{i}:id{i}:10.0.0.{i}" for i in range(hosts))
    return {
        "agent-worker-number": str(number),
        "worker-network-endpoints": endpoints,
        "tpu-env": "".join(f"{name}: '{value}'\n" for name, value in more.items()),
    }


def test_a_laptop_is_alone():
    assert find_cluster() is None
    assert distributed.start() is False


def test_a_pod_of_gce_is_joined_and_a_single_host_is_not(tpu):
    tpu(gce(4, 3))
    assert find_cluster() == Cluster("gcetpu", 4, 3)
    tpu(gce(1, 0))
    assert find_cluster() is None


def test_two_slices_of_gce_are_one_run(tpu):
    tpu(gce(4, 1, MEGASCALE_NUM_SLICES=2, MEGASCALE_SLICE_ID=1))
    assert find_cluster() == Cluster("gcetpu", 8, 5)


def test_gke_is_joined_where_it_has_several_hosts(tpu, monkeypatch):
    tpu({})
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "tpu-0.svc,tpu-1.svc")
    assert find_cluster() == Cluster("gketpu", 2, 1)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert find_cluster() is None


@pytest.mark.parametrize(("tasks", "expected"), [("4", Cluster("slurm", 4, 2)), ("1", None)])
def test_slurm(tasks, expected, monkeypatch):
    for name, value in {**SLURM, "SLURM_NTASKS": tasks}.items():
        monkeypatch.setenv(name, value)
    assert find_cluster() == expected


def test_a_shell_within_a_slurm_allocation_is_alone(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert find_cluster() is None


@pytest.mark.parametrize(("size", "expected"), [("3", Cluster("ompi", 3, 1)), ("1", None)])
def test_mpi(size, expected, monkeypatch):
    for name, value in {**MPI, "OMPI_COMM_WORLD_SIZE": size}.items():
        monkeypatch.setenv(name, value)
    assert find_cluster() == expected


def test_mpi_that_jax_does_not_know_is_not_many_runs_of_one_command(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(SpotError, match="mpirun started .*; install mpi4py, or give --coordinator"):
        find_cluster()


def test_kubernetes_joins_an_indexed_job_and_no_other_pod(monkeypatch):
    monkeypatch.setenv(*next(iter(POD.items())))
    assert find_cluster() is None  # a notebook
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    with pytest.raises(SpotError, match="an indexed Kubernetes job .*; pip install kubernetes"):
        find_cluster()
    cluster = k8s_cluster.K8sCluster
    monkeypatch.setattr(cluster, "is_env_present", lambda: True)
    monkeypatch.setattr(cluster, "get_process_count", lambda: 3)
    joined = find_cluster()
    assert joined is not None and (joined.process_count, joined.process_id) == (3, 1)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_joins_or_is_done_by_the_lead(verb, monkeypatch):
    started = []
    monkeypatch.setattr(distributed, "start", lambda *args: bool(started.append(args)))
    for name, value in {**SLURM, "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    works = joining.join(verb, ["x"])
    assert (bool(started), works) == ((True, True) if verb in joining.TOGETHER else (False, False))
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert joining.join(verb, ["x"])
    # By hand, in either way of writing a flag.
    flags = ["--coordinator_address=h:1", "--process_count", "2", "--process_id=1"]
    started.clear()
    works = joining.join(verb, flags)
    assert started == ([("h:1", 2, 1)] if verb in joining.TOGETHER else [])
    assert works is (verb in joining.TOGETHER)


def test_a_search_joins_and_other_verbs_of_a_library_do_not(monkeypatch):
    started = []
    monkeypatch.setattr(distributed, "start", lambda *args: bool(started.append(args)))
    flags = ["--coordinator_address=h:1", "--process_count=2", "--process_id=1"]
    assert joining.join("prompts", ["search", *flags]) and started
    assert not joining.join("prompts", ["list", *flags])


def test_help_asks_nobody(monkeypatch):
    monkeypatch.setattr(distributed, "start", lambda *args: pytest.fail("joined for help"))
    assert joining.join("train", ["--process_id=1", "--help"])


@pytest.mark.parametrize("address", ["nonsense", "host:", ":1", "host:port"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(SpotError, match=f"HOST:PORT of process 0, found '{address}'"):
        distributed.start(address, 2, 0)


def test_one_process_agrees_with_itself_and_knows_of_no_loss():
    assert distributed.agreed({"a": [1]}) == {"a": [1]}
    done = []
    distributed.by_lead(lambda: done.append(1))
    assert done == [1]
    assert lost_peer(ValueError("Connection closed by peer")) is None


def test_a_save_that_fails_because_another_is_gone_says_that(monkeypatch, capsys):
    from spot_jax.cli import main as command

    def save(argv):
        try:
            raise ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
        except ValueError as error:
            raise SpotError("cannot save step 5: UNKNOWN: Gloo; free space") from error

    monkeypatch.setattr(command, "_run", save)
    assert command.main(["train"]) == 2
    assert "free space" in capsys.readouterr().err

    def leave(code, message):
        print(message)
        raise SystemExit(code)

    monkeypatch.setattr(distributed, "is_joined", lambda: True)
    monkeypatch.setattr(distributed, "leave", leave)
    with pytest.raises(SystemExit, match=f"^{distributed.PEER_LOST}$"):
        command.main(["train"])
    assert "goes on from the last checkpoint" in capsys.readouterr().out


def test_whoever_is_gone_is_not_waited_for_at_the_exit():
    def shutdown(message):
        raise RuntimeError(message)

    for message in ("UNAVAILABLE: a task has crashed", "std::bad_cast"):
        distributed._take_leave(lambda message=message: shutdown(message))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        distributed._take_leave(lambda: shutdown("a fault of ours"))


LOOP = """
import sys, time
from spot_jax.cli.joining import end, lost_peer
from spot_jax.training import distributed
distributed.start(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
print("joined", flush=True)
try:
    while True:
        distributed.agreed(1)
        time.sleep(0.05)
except Exception as error:
    line = lost_peer(error)
    assert line, error
    end(3, line)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_a_process_that_dies_ends_the_others_with_a_line(victim):
    import socket
    import time

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LOOP, address, "3", str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path.cwd())},
        )
        for number in range(3)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "joined\n"
    time.sleep(1.0)
    started[victim].kill()
    began = time.monotonic()
    for number, process in enumerate(started):
        _, errors = process.communicate(timeout=70)
        if number != victim:
            assert process.returncode == distributed.PEER_LOST, errors[-2000:]
            said = [line for line in errors.splitlines() if line.startswith("spot: ")]
            assert len(said) == 1 and "goes on from the last checkpoint" in said[0]
    assert time.monotonic() - began < 60


def test_what_libraries_print_does_not_stand_among_results():
    code = """
import os
from spot_jax.cli import joining
joining._keep_output_apart()
os.write(1, b"[Gloo] Rank 0 is connected\\n")
print("a result")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a result\n" and "[Gloo]" in done.stderr
