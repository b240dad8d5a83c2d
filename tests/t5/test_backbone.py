"""Stored backbones: exact round trips, slices for each device, fingerprints, and broken files."""

import errno
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from spot_jax.errors import SpotError
from spot_jax.t5 import stored, tensor_files
from spot_jax.t5.backbone import (
    Backbone,
    fingerprint,
    flatten,
    load_backbone,
    save_backbone,
    stored_bytes,
    unflatten,
)
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.tensor_files import TensorFile

CONFIG = T5Config(
    vocab_size=48,
    emb_dim=16,
    num_heads=2,
    head_dim=12,
    mlp_dim=40,
    num_encoder_layers=2,
    num_decoder_layers=1,
)
SHARD_BYTES = 20_000


def random_backbone(dtype="float32", seed=0) -> Backbone:
    rng = np.random.default_rng(seed)
    leaves = {
        name: rng.standard_normal(shape).astype(np.float32).astype(jnp.dtype(dtype))
        for name, shape in parameter_shapes(CONFIG).items()
    }
    params = unflatten(leaves)
    return Backbone(CONFIG, params, fingerprint(CONFIG, params), source="random numbers")


@pytest.fixture
def backbone() -> Backbone:
    return random_backbone()


@pytest.fixture
def directory(tmp_path, backbone, monkeypatch):
    """Store a backbone in several files, with a vocabulary."""
    monkeypatch.setattr(stored, "_SHARD_BYTES", SHARD_BYTES)
    vocabulary = tmp_path / "spiece.model"
    vocabulary.write_bytes(b"not read when storing")
    with_vocabulary = Backbone(CONFIG, backbone.params, "", vocabulary, "random numbers")
    save_backbone(tmp_path / "stored", with_vocabulary)
    return tmp_path / "stored"


def assert_equal(params, expected, dtype="float32"):
    leaves = dict(flatten(params))
    assert sorted(leaves) == sorted(parameter_shapes(CONFIG))
    for name, leaf in flatten(expected):
        assert leaves[name].dtype == jnp.dtype(dtype), name
        np.testing.assert_array_equal(
            np.asarray(leaves[name], np.float32),
            np.asarray(leaf).astype(jnp.dtype(dtype)).astype(np.float32),
            name,
        )


def test_round_trip_over_several_files(directory, backbone):
    loaded = load_backbone(directory)
    files = sorted(p.name for p in directory.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(p.stat().st_size < SHARD_BYTES + 8000 for p in directory.glob("*.safetensors"))
    assert_equal(loaded.params, backbone.params)
    assert all(isinstance(leaf, jax.Array) for _, leaf in flatten(loaded.params))
    assert loaded.config == CONFIG
    assert loaded.source == "random numbers"
    assert loaded.fingerprint == backbone.fingerprint
    assert loaded.vocabulary_path.read_bytes() == b"not read when storing"


def test_no_vocabulary_is_no_path(tmp_path, backbone):
    save_backbone(tmp_path / "stored", backbone)
    assert load_backbone(tmp_path / "stored").vocabulary_path is None


def test_files_are_safetensors(directory, backbone):
    leaves = {}
    for path in directory.glob("*.safetensors"):
        leaves |= load_file(path)
    assert_equal(unflatten(leaves), backbone.params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_casts_leaf_by_leaf(directory, backbone, dtype):
    assert_equal(load_backbone(directory, dtype=dtype).params, backbone.params, dtype)


def test_bfloat16_is_stored_as_bfloat16(tmp_path):
    backbone = random_backbone("bfloat16")
    save_backbone(tmp_path / "stored", backbone)
    assert_equal(load_backbone(tmp_path / "stored").params, backbone.params, "bfloat16")
    assert json.loads((tmp_path / "stored/backbone.json").read_text())["dtype"] == "bfloat16"
    size = sum(p.stat().st_size for p in (tmp_path / "stored").glob("*.safetensors"))
    assert 0 <= size - stored_bytes(CONFIG, "bfloat16") < 10_000


def test_refuses_an_unknown_dtype(directory):
    with pytest.raises(SpotError, match="expected one of float32, bfloat16"):
        load_backbone(directory, dtype="float16")


# --- Fingerprints


def test_fingerprint_is_the_same_in_both_dtypes_and_on_a_mesh(backbone):
    def cast(leaf):
        return jnp.asarray(leaf, jnp.bfloat16)

    assert fingerprint(CONFIG, jax.tree.map(cast, backbone.params)) == backbone.fingerprint
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P("model"))
    embedding = backbone.params["token_embedder"]["embedding"]
    params = backbone.params | {"token_embedder": {"embedding": jax.device_put(embedding, place)}}
    assert fingerprint(CONFIG, params) == backbone.fingerprint


def test_fingerprint_tells_models_apart(backbone):
    assert random_backbone(seed=1).fingerprint != backbone.fingerprint
    other = T5Config(**(CONFIG.__dict__ | {"mlp_activations": ("silu", "linear")}))
    assert fingerprint(other, backbone.params) != backbone.fingerprint
    steered = T5Config(**(CONFIG.__dict__ | {"dropout_rate": 0.0, "dtype": "bfloat16"}))
    assert fingerprint(steered, backbone.params) == backbone.fingerprint


@pytest.mark.parametrize("name", sorted(parameter_shapes(CONFIG))[::5])
def test_fingerprint_sees_every_parameter(backbone, name):
    leaves = {k: np.array(v) for k, v in flatten(backbone.params)}
    leaves[name].reshape(-1)[0] += 1
    assert fingerprint(CONFIG, unflatten(leaves)) != backbone.fingerprint


def test_fingerprint_sees_which_parameter_is_which(backbone):
    leaves = dict(flatten(backbone.params))
    query, key = (f"encoder/layers_0/attention/{n}/kernel" for n in ("query", "key"))
    leaves[query], leaves[key] = leaves[key], leaves[query]
    assert fingerprint(CONFIG, unflatten(leaves)) != backbone.fingerprint


# --- On a mesh


def model_sharding(mesh):
    """Divide rows or columns over `model` as T5X does, so both kinds of slice are read."""

    def place(path):
        if path.endswith(("query/kernel", "key/kernel", "value/kernel", "wi_0/kernel")):
            return jax.NamedSharding(mesh, jax.P(None, "model"))
        if path.endswith(("out/kernel", "wo/kernel", "/embedding")):
            return jax.NamedSharding(mesh, jax.P("model", None))
        return jax.NamedSharding(mesh, jax.P())

    return place


@pytest.mark.parametrize("shape", [(1, 8), (2, 4)])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_each_device_holds_only_its_slice(directory, backbone, shape, dtype):
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=auto)
    place = model_sharding(mesh)
    loaded = load_backbone(directory, dtype=dtype, shardings=place)
    assert_equal(loaded.params, backbone.params, dtype or "float32")
    split = 0
    for name, leaf in flatten(loaded.params):
        assert leaf.sharding.is_equivalent_to(place(name), leaf.ndim), name
        parts = 1 if leaf.sharding.is_fully_replicated else shape[1]
        split += parts > 1
        for shard in leaf.addressable_shards:
            assert shard.data.size == leaf.size // parts, name
            expected = np.asarray(dict(flatten(backbone.params))[name])[shard.index]
            np.testing.assert_array_equal(np.asarray(shard.data), expected.astype(leaf.dtype), name)
    assert split > 20


def test_shardings_may_be_a_tree(directory, backbone):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    tree = unflatten({n: model_sharding(mesh)(n) for n in parameter_shapes(CONFIG)})
    loaded = load_backbone(directory, shardings=tree)
    assert len(loaded.params["token_embedder"]["embedding"].addressable_shards) == 8
    del tree["token_embedder"]
    with pytest.raises(SpotError, match="no sharding was given for .* token_embedder/embedding"):
        load_backbone(directory, shardings=tree)


def test_a_mesh_that_does_not_divide_a_weight(directory):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(SpotError, match=r"rel_embedding of shape \(2, 32\) cannot be divided"):
        load_backbone(directory, shardings=lambda path: jax.NamedSharding(mesh, jax.P("model")))


def test_only_the_slice_is_read(directory, backbone, monkeypatch):
    monkeypatch.setattr(tensor_files, "_BLOCK_BYTES", 200)  # so that columns come in many blocks
    embedding = backbone.params["token_embedder"]["embedding"]
    for path in sorted(directory.glob("*.safetensors")):
        file = TensorFile(path)
        if "token_embedder/embedding" in file.shapes:
            break
    rows = file.read("token_embedder/embedding", (slice(6, 12), slice(None)))
    np.testing.assert_array_equal(rows, embedding[6:12])
    assert file.bytes_read == rows.nbytes
    columns = file.read("token_embedder/embedding", (slice(3, 40), slice(2, 5)))
    np.testing.assert_array_equal(columns, embedding[3:40, 2:5])
    before = file.bytes_read
    halves = [(slice(0, 48), slice(0, 8)), (slice(0, 48), slice(8, 16))]
    parts = file.read_parts("token_embedder/embedding", halves)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), embedding)
    assert file.bytes_read - before == embedding.nbytes


# --- What a user may do wrong


def test_refuses_to_overwrite(directory, backbone):
    with pytest.raises(SpotError, match="exists and is not empty"):
        save_backbone(directory, backbone)
    empty = directory.parent / "empty"
    empty.mkdir()
    save_backbone(empty, backbone)
    assert_equal(load_backbone(empty).params, backbone.params)


def test_refuses_parameters_of_another_size(tmp_path, backbone):
    other = T5Config(**(CONFIG.__dict__ | {"mlp_dim": 41}))
    with pytest.raises(SpotError, match=r"9 parameters differ .* expected \(16, 41\)"):
        save_backbone(tmp_path / "stored", Backbone(other, backbone.params, ""))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, backbone, monkeypatch):
    real = tensor_files.TensorWriter._put

    def full(self, data):
        if self.size > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    monkeypatch.setattr(tensor_files.TensorWriter, "_put", full)
    with pytest.raises(SpotError, match="No space left on device"):
        save_backbone(tmp_path / "stored", backbone)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_line(tmp_path, backbone):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpotError, match="cannot be written .*; nothing was stored"):
        save_backbone(tmp_path / "file" / "stored", backbone)


def test_a_vocabulary_that_is_not_there(tmp_path, backbone):
    lost = Backbone(CONFIG, backbone.params, "", tmp_path / "lost.model")
    with pytest.raises(SpotError, match=r"lost\.model: no such vocabulary"):
        save_backbone(tmp_path / "stored", lost)
    assert list(tmp_path.iterdir()) == []


def test_no_backbone_there(tmp_path):
    with pytest.raises(SpotError, match="no stored backbone there.*spot convert"):
        load_backbone(tmp_path)


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def test_a_truncated_file_is_named(directory):
    path = sorted(directory.glob("*.safetensors"))[1]
    size = path.stat().st_size
    cut(path, size - 1)
    with pytest.raises(
        SpotError, match=rf"00002-of.*: truncated.*expected {size} bytes, found {size - 1}"
    ):
        load_backbone(directory)


def test_a_missing_file_is_named(directory):
    sorted(directory.glob("*.safetensors"))[0].unlink()
    with pytest.raises(SpotError, match="model-00001-of.*: missing"):
        load_backbone(directory)


def test_a_truncated_description_is_named(directory):
    cut(directory / "backbone.json", 300)
    with pytest.raises(SpotError, match=r"backbone\.json: not a backbone's description, or cut"):
        load_backbone(directory)


def test_a_changed_byte_is_found_by_verify(directory):
    stored.read_description(directory).verify()
    path = sorted(directory.glob("*.safetensors"))[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SpotError, match=f"{path.name}: its contents were changed"):
        stored.read_description(directory).verify()


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_a_safetensors_header_cut_short(directory, keep):
    path = sorted(directory.glob("*.safetensors"))[0]
    cut(path, keep)
    with pytest.raises(SpotError, match="not a safetensors file, or its header is cut short"):
        TensorFile(path)


@pytest.mark.parametrize("name", ["model-00001-of-00001.safetensors", "vocabulary.model"])
def test_what_ships_is_checked_whole_and_says_how_it_is_restored(name, tmp_path, monkeypatch):
    shipped = Path(stored.__file__).parents[2] / "backbones" / "mini"
    stored.read_description(shipped).verify()
    copy = tmp_path / "mini"
    shutil.copytree(shipped, copy)
    monkeypatch.setattr(stored, "_SHIPPED", copy.resolve())
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    for content, what in ((data, "changed"), (data[:-1], "truncated")):
        (copy / name).write_bytes(content)
        with pytest.raises(SpotError, match=rf"{what}.*git checkout -- {copy / name}$"):
            load_backbone(copy)
    (copy / name).unlink()
    with pytest.raises(SpotError, match=rf"missing.*git checkout -- {copy / name}$"):
        load_backbone(copy)
    cut(copy / "backbone.json", 300)
    with pytest.raises(SpotError, match="git checkout -- .*backbone.json$"):
        load_backbone(copy)
