"""int8 kernels: how close they are, that they run everywhere, and what they hold in memory."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_text import store_backbone

from spot_jax.cli.main import main
from spot_jax.errors import SpotError
from spot_jax.methods.base import Task
from spot_jax.methods.fastfood import FastfoodTuning
from spot_jax.methods.losses import seq2seq_loss
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.p_tuning import PTuning
from spot_jax.methods.program import Program
from spot_jax.t5.backbone import flatten, load_backbone, save_backbone, unflatten
from spot_jax.t5.decoding import greedy
from spot_jax.t5.int8 import check_kernels_stay, dequantise, has_int8, quantise, scale_name
from spot_jax.t5.model import init_params, stack_layers
from spot_jax.training.config import StoredBackbone
from spot_jax.training.sharding import MeshShape, make_mesh

MINI = "backbones/mini"


def narrowed(params):
    leaves = dict(flatten(params))
    for name in [name for name in leaves if scale_name(name)]:
        leaves[name], leaves[scale_name(name)] = quantise(leaves[name])
    return unflatten(leaves)


def batch_of(config, rows, prompt, seed=0):
    """Draw inputs after a prompt, and targets; nothing is padding."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(3, config.vocab_size, (rows, prompt + 12))
    inputs[:, :prompt] = config.vocab_size + np.arange(prompt)
    targets = rng.integers(3, config.vocab_size, (rows, 4))
    return {
        "encoder_input_tokens": jnp.asarray(inputs),
        "decoder_target_tokens": jnp.asarray(targets),
        "decoder_input_tokens": jnp.asarray(np.pad(targets[:, :-1], ((0, 0), (1, 0)))),
        "decoder_loss_weights": jnp.ones(targets.shape),
    }


def loss_and_gradient(params, config, table, batch):
    def loss(table):
        return seq2seq_loss(params, config, batch, None, table=table, per_token=True)[0]

    return jax.jit(jax.value_and_grad(loss))(table)


def cosine(a, b):
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_integers_are_within_half_a_step_and_scales_exact_in_bfloat16():
    kernel = np.random.default_rng(0).normal(size=(3, 64, 32)).astype(np.float32)
    kernel[1, :, 5] = 0.0
    kernel[:, :, 7] *= 1e-6
    integers, scale = quantise(jnp.asarray(kernel))
    assert integers.dtype == jnp.int8 and scale.shape == (3, 32)
    np.testing.assert_array_equal(scale, scale.astype(jnp.bfloat16).astype(jnp.float32))
    difference = np.abs(dequantise(integers, scale, "float32") - kernel)
    assert (difference <= 0.76 * np.asarray(scale)[:, None]).all()
    assert (difference[1, :, 5] == 0).all()


def close(config, params, rows=8, prompt=8):
    config = dataclasses.replace(config, dropout_rate=0.0)
    table = jnp.asarray(params["token_embedder"]["embedding"][50 : 50 + prompt], jnp.float32)
    batch = batch_of(config, rows, prompt)
    small = narrowed(params)
    (loss, gradient), (loss8, gradient8) = (
        loss_and_gradient(tree, config, table, batch) for tree in (params, small)
    )
    inputs = batch["encoder_input_tokens"]
    write = jax.jit(lambda tree: greedy(tree, config, inputs, max_length=6, table=table))
    equal = float(np.mean(np.asarray(write(params)) == np.asarray(write(small))))
    relative = abs(float(loss8 / loss) - 1)
    print(f"loss {relative:.2%}, cosine {cosine(gradient, gradient8):.5f}, tokens {equal:.0%}")
    return relative, cosine(gradient, gradient8), equal


@pytest.mark.slow
def test_mini_with_int8_kernels_is_close_to_mini():
    backbone = load_backbone(MINI, dtype="float32")
    relative, alike, equal = close(backbone.config, backbone.params)
    assert relative < 0.01 and alike > 0.999 and equal > 0.8


@pytest.mark.slow
def test_the_golden_model_with_int8_kernels_is_close_to_itself(golden_backbone):
    relative, alike, equal = close(*golden_backbone)
    assert relative < 0.01 and alike > 0.999 and equal > 0.8


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return store_backbone(tmp_path_factory.mktemp("stored") / "float")


def one_device(path, **options):
    return StoredBackbone(path, dropout_rate=0.0, **options).load(make_mesh(MeshShape(1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
def test_scanned_and_sharded_are_as_one_device(stored, shape):
    plain = one_device(stored, parameter_dtype="int8")
    table = jnp.ones((4, 16)) * 0.1
    batch = batch_of(plain.config, 4, 4)
    expected = loss_and_gradient(plain.params, plain.config, table, batch)
    scanned = StoredBackbone(stored, dropout_rate=0.0, parameter_dtype="int8", scan_layers=True)
    loaded = scanned.load(make_mesh(MeshShape(*shape)))
    result = loss_and_gradient(loaded.params, loaded.config, table, batch)
    for a, b in zip(expected, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    wi, wo = (loaded.params["encoder"]["layers"]["mlp"][name] for name in ("wi_0", "wo"))
    assert wi["kernel"].dtype == wo["kernel"].dtype == jnp.int8
    if shape == (2, 2):
        assert tuple(wi["kernel_scale"].sharding.spec) == (None, "model")
        assert not any(wo["kernel_scale"].sharding.spec)


def test_convert_to_int8_reads_back_as_what_loading_makes(stored, tmp_path, capsys):
    target = tmp_path / "int8"
    assert main(["convert", stored, str(target), "--dtype", "int8"]) == 0
    assert "int8" in capsys.readouterr().out
    description = json.loads((target / "backbone.json").read_text())
    assert (description["dtype"], description["format"]) == ("int8", 2)
    whole, loaded, read = (
        load_backbone(stored),
        load_backbone(stored, dtype="int8"),
        load_backbone(target),
    )
    jax.tree.map(np.testing.assert_array_equal, loaded.params, read.params)
    assert whole.fingerprint == loaded.fingerprint == read.fingerprint
    assert not has_int8(whole.params) and has_int8(read.params)
    # Kernels are a quarter; the embeddings, which most of this tiny one is, stay.
    kernels = sum(x.nbytes for name, x in flatten(whole.params) if scale_name(name))
    small, big = (sum(x.nbytes for x in jax.tree.leaves(b.params)) for b in (read, whole))
    scales = sum(x.nbytes for name, x in flatten(read.params) if name.endswith("kernel_scale"))
    assert small == big - kernels * 3 // 4 + scales
    wide = load_backbone(target, dtype="float32")
    assert not has_int8(wide.params)
    kernel = read.params["encoder"]["layers_0"]["mlp"]["wo"]
    np.testing.assert_array_equal(
        wide.params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"],
        dequantise(kernel["kernel"], kernel["kernel_scale"], "float32"),
    )


def test_a_changed_scale_is_refused(stored, tmp_path):
    target = tmp_path / "int8"
    assert main(["convert", stored, str(target), "--dtype", "int8"]) == 0
    file = next(target.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = header["encoder/layers_0/mlp/wo/kernel_scale"]["data_offsets"][0]
    data[8 + int.from_bytes(data[:8], "little") + start] ^= 1
    file.write_bytes(data)
    with pytest.raises(SpotError, match="its contents were changed"):
        load_backbone(target)


def test_what_int8_is_not_for_is_refused_in_a_line(stored, tmp_path, capsys):
    backbone = load_backbone(stored, dtype="int8")
    joint = PTuning(length=2, tune_backbone=True)
    for method in (ModelTuning(), joint, FastfoodTuning(dim=4)):
        with pytest.raises(SpotError, match=f"{type(method).__name__} changes the T5's kernels"):
            Program.of(method, backbone, [Task()])
    with pytest.raises(SpotError, match="by `spot convert --dtype int8` alone"):
        save_backbone(tmp_path / "again", backbone)
    decoder = jax.tree.map(lambda x: x + 0, backbone.params["decoder"])
    changed = {**backbone.params, "decoder": decoder}
    with pytest.raises(SpotError, match="Mine changes the T5's kernels"):
        check_kernels_stay(backbone.params, changed, "Mine")
    assert main(["convert", stored, str(tmp_path / "hf"), "--dtype=int8", "--to=hf"]) == 2
    assert "our form alone" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("function", ["training", "greedy"])
def test_no_copy_of_the_kernels_in_floating_point_is_held(golden_backbone, function):
    # Eight wide layers, so that a copy of their weights would be far above all else.
    plain = dataclasses.replace(
        golden_backbone[0], num_encoder_layers=8, num_decoder_layers=8, emb_dim=64, mlp_dim=4096
    )
    config = dataclasses.replace(plain, scan_layers=True, remat=True)
    params = jax.eval_shape(lambda k: init_params(k, plain), jax.random.key(0))
    weights = sum(x.size * 4 for x in jax.tree.leaves(params))
    params = jax.eval_shape(lambda p: stack_layers(narrowed(p), plain), params)
    batch, table = batch_of(config, 2, 4), jnp.zeros((4, 64))

    def step(params, table):
        if function == "training":
            return loss_and_gradient(params, config, table, batch)
        return greedy(params, config, batch["encoder_input_tokens"], max_length=5, table=table)

    memory = jax.jit(step).lower(params, table).compile().memory_analysis()
    print(f"{memory.temp_size_in_bytes / weights:.3f} of the float weights")
    assert memory.temp_size_in_bytes < weights / 3
