"""What no study on Ray can be made of is one line, before Ray is imported."""

import importlib.util
import json
import socket

import pytest

from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.files.locks import handed_out, sole_owner
from spot_jax.studies.engine import ray_cluster, ray_worker
from spot_jax.studies.engine.ray_cluster import RayCluster
from spot_jax.studies.engine.ray_worker import BlindNodeError

STUDY = ["study", "--gin_file=gin_configs/studies/mini.gin"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--on=spark"], "--on is 'spark'; give ray, ray://HOST:10001"),
        (["--on=ray://head"], "'ray://head' is no address of a Ray cluster"),
        (["--on=ray:head:port"], "'head:port' is no address of a Ray cluster"),
        (["--job_cpus=2"], "--job_cpus is for jobs on a cluster; add --on ray"),
        (["--on=ray", "--job=source-a"], "--job needs no cluster; leave out --on"),
        (["--on=ray", "--cell_resources=TPU"], "--job_resources is 'TPU'; give amounts by name"),
        (["--on=ray", "--job_resources=[1]"], "--job_resources is '[1]'; give amounts by name"),
        (["--on=ray", '--cell_resources={"TPU": "4"}'], "a job's TPU is '4'; give a number above"),
        (["--on=ray", "--job_gpus=-1"], "a job's GPU is -1.0; give a number above 0"),
        (["--on=ray", "--job_retries=-1"], "a job's retries are -1; give 0 or more"),
        (
            ["--on=ray", '--job_resources={"TPU-v5litepod-16-head": 1}'],
            "TPU-v5litepod-16-head is a slice of several machines",
        ),
        (
            ["--on=ray", "--coordinator_address=a:1", "--process_count=1"],
            "--on ray starts its workers itself",
        ),
    ],
)
def test_flags_that_make_no_sense(flags, line, capsys):
    assert main([*STUDY, *flags]) == 2
    said = capsys.readouterr()
    assert line in said.err and said.err.count("\n") == 1 and not said.out


def test_without_ray_a_line_says_how_to_get_it(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name)
    )
    assert main([*STUDY, "--on", "ray"]) == 2
    assert "--on ray needs ray, which is not installed; pip install 'spot-jax[ray]'" in (
        capsys.readouterr().err
    )


def test_an_address_where_nobody_answers(monkeypatch):
    monkeypatch.undo()  # this machine alone is asked
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{free.getsockname()[1]}"
        with (
            pytest.raises(SpotError, match=f"no Ray cluster answers at {address}") as caught,
            ray_cluster.connected(RayCluster(address)),
        ):
            pass
    assert "\n" not in str(caught.value)


def test_a_node_that_sees_another_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_worker, "PATIENCE", 0.0)
    (tmp_path / ray_worker.MARK).write_text("ours")
    ray_worker.look(str(tmp_path), "ours")
    for path, mark in ((tmp_path, "theirs"), (tmp_path / "gone", "ours")):
        with pytest.raises(BlindNodeError, match=f"does not see {path} as this machine does"):
            ray_worker.look(str(path), mark)


def test_a_node_has_room_for_as_many_jobs_as_its_scarcest_resource(monkeypatch):
    cluster = RayCluster(cpus=2, resources={"TPU": 4})
    assert cluster.fits({"CPU": 9, "TPU": 8, "memory": 1}) == 2
    assert cluster.fits({"CPU": 9}) == 0 == cluster.fits({"CPU": 1, "TPU": 8})


def test_what_is_handed_out_waits_for_no_lease_of_a_dead_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("spot_jax.files.locks.is_local", lambda path: False)
    lease = {"owner": "process 1 on a machine that is gone", "renewed": 1e12}
    (tmp_path / "owner").write_text(json.dumps(lease))
    with handed_out(), sole_owner(tmp_path / "owner") as other:
        assert other is None
    assert json.loads((tmp_path / "owner").read_text()) == lease
