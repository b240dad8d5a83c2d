"""The same run on any mesh, and who holds what."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from spot_jax.errors import SpotError
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.t5.backbone import load_backbone
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.distributed import start
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import AdamW
from spot_jax.training.sharding import (
    BatchPlacement,
    MeshShape,
    make_mesh,
    parameter_sharding,
    tree_shardings,
)

STEPS = 20
CHILD = Path(__file__).with_name("child.py")


def losses(directory):
    lines = read_metrics(directory)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return np.array([line["train/loss"] for line in lines])


@pytest.fixture(scope="module")
def one_device(tiny, tmp_path_factory):
    """The losses without any mesh to speak of."""
    directory = tmp_path_factory.mktemp("one")
    tiny.train(directory, STEPS)
    return losses(directory)


@pytest.mark.parametrize("shape", [pytest.param((8, 1), marks=pytest.mark.slow), (1, 8), (2, 4)])
def test_every_mesh_gives_the_same_losses(shape, one_device, tiny, tmp_path):
    tiny.train(tmp_path, STEPS, mesh=MeshShape(*shape))
    difference = np.max(np.abs(losses(tmp_path) / one_device - 1.0))
    print(f"mesh {shape}: {difference:.1e} relative")
    assert difference < 1e-5
    assert len(set(one_device.tolist())) == STEPS


def held_bytes(params, device):
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(params)
        for shard in leaf.addressable_shards
        if shard.device == device
    )


def test_each_of_eight_devices_holds_an_eighth_of_the_frozen_weights(tiny):
    mesh = make_mesh(MeshShape(1, 8))
    loaded = StoredBackbone(tiny.backbone).load(mesh)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.params))
    # What is not split: norms and position biases, 6 heads by 32 buckets on either side.
    kept = sum(
        leaf.nbytes
        for leaf in jax.tree.leaves(loaded.params)
        if leaf.sharding.spec == PartitionSpec() or not any(leaf.sharding.spec)
    )
    assert kept < 0.1 * whole
    for device in mesh.devices.flat:
        assert held_bytes(loaded.params, device) == (whole - kept) // 8 + kept
    biggest = loaded.params["token_embedder"]["embedding"]
    assert {shard.data.shape for shard in biggest.addressable_shards} == {(8, 16)}


def test_stacked_layers_are_split_as_single_ones_are(tiny):
    mesh = make_mesh(MeshShape(2, 4))
    plain, scanned = (
        StoredBackbone(tiny.backbone, scan_layers=scan).load(mesh).params for scan in (False, True)
    )
    for device in mesh.devices.flat:
        assert held_bytes(plain, device) == held_bytes(scanned, device)
    kernel = scanned["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, None, "model")


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("token_embedder/embedding", (64, 16), ("model", None)),
        ("decoder/logits_dense/kernel", (16, 64), (None, "model")),
        ("encoder/layers_3/attention/query/kernel", (16, 48), (None, "model")),
        ("decoder/layers_0/encoder_decoder_attention/out/kernel", (48, 16), ("model", None)),
        ("encoder/layers/mlp/wo/kernel", (2, 32, 16), (None, "model", None)),
        ("decoder/layers_0/mlp/wi/kernel", (16, 32), (None, "model")),
        ("encoder/relpos_bias/rel_embedding", (6, 32), (None, None)),
        ("encoder/encoder_norm/scale", (16,), (None,)),
        ("prompt", (1, 4, 16), ()),
    ],
)
def test_where_parameters_live(path, shape, spec):
    mesh = make_mesh(MeshShape(2, 4))
    assert parameter_sharding(mesh, path, shape).spec == PartitionSpec(*spec)


def test_an_axis_that_the_mesh_does_not_divide_is_named():
    with pytest.raises(SpotError, match="query/kernel: its axis joined_kv of 36 .* 8 devices"):
        name = "encoder/layers_0/attention/query/kernel"
        parameter_sharding(make_mesh(MeshShape(1, 8)), name, (16, 36))


@pytest.mark.parametrize(
    ("layers", "leaf", "spec"),
    [
        ("layers_0", (32, 16), ("model", None)),
        ("layers_0", (32,), ()),
        ("layers", (1, 32, 16), (None, "model", None)),
        # Three stacked layers' row means: no axis of it is the one that is split.
        ("layers", (3, 32), ()),
        ("layers", (1,), ()),
    ],
)
def test_moments_live_with_their_parameters_and_reduced_ones_everywhere(layers, leaf, spec):
    tree = {"encoder": {layers: {"mlp": {"wo": {"kernel": np.zeros(leaf)}}}}}
    (shardings, count) = tree_shardings(make_mesh(MeshShape(1, 8)), (tree, np.zeros(())))
    assert [s.spec for s in jax.tree.leaves(shardings)] == [PartitionSpec(*spec)]
    assert count.spec == PartitionSpec()


@pytest.mark.parametrize(("data", "model"), [(0, 1), (1, -2)])
def test_an_axis_has_one_device_or_more(data, model):
    with pytest.raises(SpotError, match="give a whole number from 1"):
        MeshShape(data, model)


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (MeshShape(3, 4), "data=3 x model=4 needs 12 devices, found 8"),
        (MeshShape(None, 16), "data=1 x model=16 needs 16 devices, found 8"),
    ],
)
def test_meshes_that_cannot_be(shape, match):
    with pytest.raises(SpotError, match=match):
        make_mesh(shape)


def test_a_mesh_takes_what_model_leaves():
    assert dict(make_mesh(MeshShape(None, 2)).shape) == {"data": 4, "model": 2}


def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_loading(tiny, tmp_path):
    # Its description is whole, its weights could not be read.
    shutil.copytree(tiny.backbone, tmp_path / "backbone")
    for weights in (tmp_path / "backbone").glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SpotError, match="batch of 6 rows cannot be divided over data=4"):
        tiny.train(
            tmp_path / "run",
            STEPS,
            backbone=StoredBackbone(str(tmp_path / "backbone")),
            data=tiny.data(batch_size=6),
            mesh=MeshShape(4, 1),
        )


def test_a_batch_is_placed_row_by_row():
    mesh = make_mesh(MeshShape(4, 2))
    placement = BatchPlacement(mesh, 8)
    assert placement.host_rows == slice(0, 8)
    array = np.arange(24).reshape(8, 3)
    placed = placement({"x": array})["x"]
    np.testing.assert_array_equal(placed, array)
    for shard in placed.addressable_shards:
        row = 2 * int(np.argwhere(mesh.devices == shard.device)[0][0])
        np.testing.assert_array_equal(shard.data, array[row : row + 2])


@pytest.mark.parametrize(
    ("address", "match"),
    [
        (("localhost:1", None, None), "process_count, process_id is not given"),
        ((None, 2, 0), "coordinator_address is not given"),
        (("localhost:1", 2, 2), "process_id is 0 to 1 with process_count=2, found 2"),
    ],
)
def test_half_an_address_is_refused(address, match):
    with pytest.raises(SpotError, match=match):
        start(*address)


def test_a_process_that_is_not_told_of_others_is_alone(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert start() is False


def children(count, tiny, directory, environment, **more):
    """Runs of `count` processes with one device each, or one with as many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    settings = {"backbone": tiny.backbone, "tasks": tiny.tasks, "directory": str(directory)}
    settings |= {"steps": STEPS, "period": 7, **more}
    started = [
        subprocess.Popen(
            [
                sys.executable,
                str(CHILD),
                json.dumps({**settings, "processes": (address, count, number)}),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(count)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 1), (1, 2)])
def test_two_processes_give_the_same_losses_and_resume(
    mesh, one_device, tiny, tmp_path, child_environment
):
    ends = children(2, tiny, tmp_path, child_environment, mesh=mesh, steps=9)
    assert ends == [{"step": 9, "finished": True}] * 2
    # Each has saved its part, and goes on from there.
    ends = children(2, tiny, tmp_path, child_environment, mesh=mesh)
    assert ends == [{"step": STEPS, "finished": True}] * 2
    difference = np.max(np.abs(losses(tmp_path) / one_device - 1.0))
    print(f"two processes, mesh {mesh}: {difference:.1e} relative")
    assert difference < 1e-5
    assert (tmp_path / "prompts" / "last-0.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(worded, tmp_path, child_environment):
    alone = worded.train(tmp_path / "alone", 5, evaluation=EvaluationPlan(period=5))
    children(2, worded, tmp_path / "two", child_environment, mesh=(1, 2), steps=5, evaluate=5)
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["best"][0]["step"] == 5
    assert result["last"][0]["accuracy"] == alone.last[0]["accuracy"]
    assert result["last"][0]["loss"] == pytest.approx(alone.last[0]["loss"], rel=1e-5)


@pytest.mark.slow
def test_four_processes_tune_a_whole_model_as_one_does(tiny, tmp_path, child_environment):
    alone = tiny.train(tmp_path / "alone", 6, method=ModelTuning(), optimizer=AdamW(0.01))
    more = {"mesh": (2, 2), "model": True, "period": 4}
    children(4, tiny, tmp_path / "four", child_environment, steps=5, **more)
    ends = children(4, tiny, tmp_path / "four", child_environment, steps=6, **more)
    assert ends == [{"step": 6, "finished": True}] * 4
    single, four = (load_backbone(d / "backbone") for d in (alone.directory, tmp_path / "four"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        single.params,
        four.params,
    )
    logs = [read_metrics(d) for d in (tmp_path / "four", alone.directory)]
    each = [[line["train/loss"] for line in log] for log in logs]
    np.testing.assert_allclose(*each, rtol=1e-5)


@pytest.mark.slow
def test_processes_that_see_different_directories_say_so_at_once(tiny, tmp_path, child_environment):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for number in range(2):
        options = {"backbone": tiny.backbone, "tasks": tiny.tasks, "steps": 3, "period": 2}
        options |= {"directory": str(tmp_path / str(number)), "mesh": (2, 1)}
        options["processes"] = (address, 2, number)
        started.append(
            subprocess.Popen(
                [sys.executable, str(CHILD), json.dumps(options)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=child_environment,
            )
        )
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "processes 1 do not see what process 0 writes" in errors
