"""Backbones in Hugging Face's and T5X's forms: what goes out comes in again, and does the same."""

import dataclasses
import json
import tarfile
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from spot_jax.cli import convert as convert_command
from spot_jax.errors import SpotError
from spot_jax.t5.backbone import Backbone, flatten, load_backbone, save_backbone, unflatten
from spot_jax.t5.config import T5Config, parameter_shapes
from spot_jax.t5.importing import convert, open_source
from spot_jax.t5.importing.hf import _their_name
from spot_jax.t5.importing.matching import infer_config
from spot_jax.t5.model import decode, encode

HERE = Path(__file__).parent
VOCABULARY = HERE.parents[2] / "tasks" / "t5_spiece.model"
SHIPPED = HERE.parents[2] / "backbones" / "mini"
SHAPE = {"vocab_size": 50, "emb_dim": 8, "num_heads": 2, "head_dim": 3, "mlp_dim": 12}
SHAPE |= {"num_encoder_layers": 2, "num_decoder_layers": 1}
CONFIGS = {
    "t5_1_0": T5Config(**SHAPE, mlp_activations=("relu",), logits_via_embedding=True),
    "t5_1_1": T5Config(**SHAPE | {"num_encoder_layers": 11}),
    "gated, tied": T5Config(
        **SHAPE,
        mlp_activations=("silu", "linear"),
        logits_via_embedding=True,
        layer_norm_epsilon=1e-5,
    ),
    "umt5": T5Config(**SHAPE, relative_bias_per_layer=True),
}


def stored(directory, config, dtype=np.float32):
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=s).astype(dtype) for n, s in parameter_shapes(config).items()}
    arrays["encoder/encoder_norm/scale"] = np.zeros(config.emb_dim, dtype)
    save_backbone(directory, Backbone(config, unflatten(arrays), ""))
    return arrays


@pytest.mark.parametrize(("name", "form"), [("t5_1_0", "t5x"), *((name, "hf") for name in CONFIGS)])
def test_out_and_in_again_is_the_same_backbone_bit_for_bit(name, form, tmp_path):
    config = CONFIGS[name]
    arrays = stored(tmp_path / "stored", config)
    out = convert(tmp_path / "stored", tmp_path / "out", form=form)
    if form == "t5x":  # which does not say its activations
        back = convert(tmp_path / "out", tmp_path / "back", config=config)
    else:
        back = convert(tmp_path / "out", tmp_path / "back")
    assert back.fingerprint == out.fingerprint
    loaded = load_backbone(tmp_path / "back")
    assert dataclasses.replace(loaded.config, dtype="float32") == config
    for path, array in flatten(loaded.params):
        np.testing.assert_array_equal(array, arrays[path], path)
    assert not list(tmp_path.glob(".*")), "a temporary directory is left"


@pytest.mark.parametrize("form", ["hf", "t5x"])
def test_bfloat16_stays_bfloat16(form, tmp_path):
    arrays = stored(tmp_path / "stored", CONFIGS["gated, tied"], ml_dtypes.bfloat16)
    report = convert(tmp_path / "stored", tmp_path / "out", form=form)
    assert report.dtype == "bfloat16"
    back = convert(tmp_path / "out", tmp_path / "back", config=CONFIGS["gated, tied"])
    assert back.dtype == "bfloat16"
    for path, array in flatten(load_backbone(tmp_path / "back").params):
        np.testing.assert_array_equal(np.asarray(array), arrays[path], path)


@pytest.mark.slow
def test_what_googles_code_computed_comes_of_what_went_out(golden, tmp_path):
    z = np.load(golden / "golden.npz")
    source = golden / "ckpt_minimal" / "checkpoint_2"
    config = dataclasses.replace(infer_config(open_source(source)), dropout_rate=0.0)

    @jax.jit
    def forward(params, tokens, inputs, targets):
        return decode(params, config, encode(params, config, tokens), tokens, inputs, targets)

    for form in ("hf", "t5x"):
        convert(source, tmp_path / form, form=form)
        convert(tmp_path / form, tmp_path / f"{form}_back")
        backbone = load_backbone(tmp_path / f"{form}_back")
        names = ("encoder_input", "decoder_input", "decoder_target")
        tokens, inputs, targets = (z[f"{name}_tokens"].astype(np.int32) for name in names)
        logits = forward(backbone.params, tokens, inputs, targets)
        real = targets > 0
        assert np.abs(np.asarray(logits) - z["minimal/logits"])[real].max() < 1e-5


def test_the_index_and_the_arrays_are_laid_out_as_t5x_lays_them(golden, tmp_path):
    source = golden / "ckpt_flaxformer" / "checkpoint_2"
    convert(source, tmp_path / "checkpoint_0", form="t5x")

    def target(directory):
        state = flax.serialization.msgpack_restore((directory / "checkpoint").read_bytes())
        assert state["version"] == 3
        return state["optimizer"]["target"]

    assert target(tmp_path / "checkpoint_0") == target(source)
    for theirs in source.glob("target.*"):
        ours = tmp_path / "checkpoint_0" / theirs.name
        assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
        a, b = (json.loads((d / ".zarray").read_text()) for d in (ours, theirs))
        assert a == b, theirs.name


def test_the_tensors_that_transformers_wrote_come_out_as_they_were(tmp_path):
    with tarfile.open(HERE / "hf_fixtures" / "hf.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for name in ("t5_1_0", "t5_1_1"):
        convert(tmp_path / name, tmp_path / "out" / name, form="hf")
        theirs, ours = (
            load_file(d / name / "model.safetensors") for d in (tmp_path, tmp_path / "out")
        )
        copies = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
        if name == "t5_1_0":
            copies.add("lm_head.weight")
        assert theirs.keys() - copies == ours.keys()
        for tensor, array in ours.items():
            np.testing.assert_array_equal(array, theirs[tensor], tensor)
        fields = json.loads((tmp_path / "out" / name / "config.json").read_text())
        before = json.loads((tmp_path / name / "config.json").read_text())
        for field in fields.keys() - {"tie_word_embeddings", "dropout_rate"}:
            assert fields[field] == before[field], field


def test_every_parameter_has_a_name_of_its_own():
    for config in CONFIGS.values():
        names = list(map(_their_name, parameter_shapes(config)))
        assert len(set(names)) == len(names)


def test_the_command_writes_a_run_s_tuned_backbone_for_transformers(tmp_path, capsys):
    convert(SHIPPED, tmp_path / "run" / "backbone")
    out = tmp_path / "out"
    assert convert_command.main([str(tmp_path / "run"), str(out), "--to", "hf"]) == 0
    assert "stored in" in capsys.readouterr().out
    files = {"config.json", "model.safetensors", "spiece.model", "tokenizer_config.json"}
    assert {path.name for path in out.iterdir()} == files
    with pytest.raises(SpotError, match="exists and is not empty"):
        convert(SHIPPED, out, form="t5x")


def test_what_has_no_place_there_is_refused(tmp_path):
    odd = dataclasses.replace(CONFIGS["t5_1_1"], mlp_activations=("gelu",))
    stored(tmp_path / "stored", odd)
    with pytest.raises(SpotError, match="no T5 with the activations gelu; export it as t5x"):
        convert(tmp_path / "stored", tmp_path / "out", form="hf")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    with pytest.raises(SpotError, match="form 'onnx': expected one of spot, hf, t5x"):
        convert(tmp_path / "stored", tmp_path / "out", form="onnx")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("name", ["mini", *CONFIGS])
def test_transformers_computes_the_same(name, tmp_path):
    """Live, with the `reference` extra."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = SHIPPED
    if name != "mini":
        source = tmp_path / "stored"
        stored(source, CONFIGS[name])
    convert(source, tmp_path / "out", form="hf", dtype="float32")
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    backbone = load_backbone(source)
    config = dataclasses.replace(backbone.config, dropout_rate=0.0)
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, config.vocab_size, (2, 9)).astype(np.int32)
    inputs = rng.integers(1, config.vocab_size, (2, 5)).astype(np.int32)
    encoded = encode(backbone.params, config, tokens)
    ours = decode(backbone.params, config, encoded, tokens, inputs, jnp.ones_like(inputs))
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            decoder_input_ids=torch.tensor(inputs, dtype=torch.long),
        ).logits.numpy()
    scale = max(1.0, np.abs(theirs).max())  # rounding grows with the numbers
    np.testing.assert_allclose(jax.device_get(ours), theirs, atol=1e-5 * scale, rtol=0)
    if name == "mini":
        text = "Is it <extra_id_0>? Ja."
        tokenizer = transformers.T5Tokenizer.from_pretrained(tmp_path / "out")
        from spot_jax.t5.vocabulary import Vocabulary

        vocabulary = Vocabulary(backbone.vocabulary_path)
        plain = "is it good? it is."
        assert tokenizer(plain).input_ids == [*vocabulary.encode(plain), 1]
        assert vocabulary.sentinel(0) in tokenizer(text).input_ids
