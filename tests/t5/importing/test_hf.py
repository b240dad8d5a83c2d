"""Hugging Face directories: models that `transformers` saved, and hand-made and broken ones."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

from spot_jax.errors import SpotError
from spot_jax.t5.backbone import flatten, load_backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.decoding import greedy
from spot_jax.t5.importing import MismatchError, convert
from spot_jax.t5.model import decode, encode

MODELS = (
    *("t5_1_0", "t5_1_1", "t5_1_1_tied", "t5_1_1_sharded", "mt5", "mt5_tied"),
    *("ul2", "umt5"),
)
T5_VOCABULARY = Path(__file__).parents[3] / "tasks" / "t5_spiece.model"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hf")
    with tarfile.open(Path(__file__).parent / "hf_fixtures" / "hf.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture
def copy(models, tmp_path):
    return lambda name: shutil.copytree(models / name, tmp_path / name)


def imported(source, dest):
    report = convert(source, dest)
    return load_backbone(dest), report


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_tokens_are_theirs(models, tmp_path, name):
    backbone, report = imported(models / name, tmp_path / "stored")
    expected = np.load(models / name / "expected.npz")
    tokens = jnp.asarray(expected["encoder_input_tokens"], jnp.int32)
    inputs = jnp.asarray(expected["decoder_input_tokens"], jnp.int32)

    @jax.jit
    def forward(params):
        encoded = encode(params, backbone.config, tokens)
        targets = jnp.ones_like(inputs)
        return decode(params, backbone.config, encoded, tokens, inputs, targets)

    logits = forward(backbone.params)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)
    answer = greedy(backbone.params, backbone.config, tokens, max_length=8)
    np.testing.assert_array_equal(answer, expected["greedy"])
    assert report.fits and report.dtype == "float32"


def test_configurations(models, tmp_path):
    configs = {n: imported(models / n, tmp_path / n)[0].config for n in MODELS}
    shape = {"emb_dim": 16, "num_heads": 4, "head_dim": 3, "mlp_dim": 24, "num_encoder_layers": 2}
    plain = {"mlp_activations": ("relu",), "logits_via_embedding": True}
    assert configs["t5_1_0"] == T5Config(vocab_size=64, num_decoder_layers=2, **shape, **plain)
    assert configs["t5_1_1"] == T5Config(vocab_size=64, num_decoder_layers=3, **shape)
    assert configs["mt5"] == T5Config(vocab_size=80, num_decoder_layers=2, **shape)
    assert configs["ul2"] == T5Config(
        vocab_size=64, num_decoder_layers=3, mlp_activations=("silu", "linear"), **shape
    )
    assert configs["umt5"] == T5Config(
        vocab_size=80, num_decoder_layers=3, relative_bias_per_layer=True, **shape
    )
    # A tied head that is not scaled is no T5X model: it is stored as a head of its own.
    for name in ("t5_1_1_tied", "mt5_tied"):
        assert not configs[name].logits_via_embedding


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ul2", "umt5"])
def test_models_of_the_day_have_the_same_logits(name, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).parent / "hf_fixtures")
    import make_hf_fixtures

    model = make_hf_fixtures.make(name, seed=1)
    model.save_pretrained(tmp_path / "theirs")
    backbone, _ = imported(tmp_path / "theirs", tmp_path / "ours")
    rng = np.random.default_rng(0)
    tokens, inputs = (rng.integers(2, 60, shape) for shape in ((2, 9), (2, 5)))
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(tokens), decoder_input_ids=torch.tensor(inputs)
        ).logits.numpy()
    params, config = backbone.params, backbone.config
    encoded = encode(params, config, jnp.asarray(tokens))
    arguments = jnp.asarray(tokens), jnp.asarray(inputs), jnp.ones_like(inputs)
    logits = decode(params, config, encoded, *arguments)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_sharded_equals_whole(models, tmp_path):
    single, first = imported(models / "t5_1_1", tmp_path / "one")
    sharded, second = imported(models / "t5_1_1_sharded", tmp_path / "many")
    assert len(list((models / "t5_1_1_sharded").glob("model-*.safetensors"))) == 3
    assert first.fingerprint == second.fingerprint
    for (name, a), (_, b) in zip(flatten(single.params), flatten(sharded.params), strict=True):
        np.testing.assert_array_equal(a, b, name)


def test_transposes_and_names(models, tmp_path):
    tensors = load_file(models / "t5_1_1" / "model.safetensors")
    params = dict(flatten(imported(models / "t5_1_1", tmp_path / "stored")[0].params))
    block = "decoder.block.2.layer.1.EncDecAttention"
    pairs = {
        "decoder/layers_2/encoder_decoder_attention/out/kernel": tensors[f"{block}.o.weight"].T,
        "decoder/logits_dense/kernel": tensors["lm_head.weight"].T,
        "token_embedder/embedding": tensors["shared.weight"],
        "encoder/encoder_norm/scale": tensors["encoder.final_layer_norm.weight"],
    }
    for name, array in pairs.items():
        np.testing.assert_array_equal(params[name], array, name)


def rewrite(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)


def reconfigure(directory, **changes):
    path = directory / "config.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def test_copies_of_the_embedding_are_recognised(copy, tmp_path):
    directory = copy("t5_1_0")

    def add(tensors):
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            tensors[f"{name}.weight"] = tensors["shared.weight"]
        unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        tensors[unused] = np.zeros((32, 4), np.float32)

    before = convert(directory, tmp_path / "before")
    rewrite(directory, add)
    after = convert(directory, tmp_path / "after")
    assert after.config.logits_via_embedding
    assert after.fingerprint == before.fingerprint
    assert len(after.ignored) == 4

    def differ(tensors):
        tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"] + 1

    rewrite(directory, differ)
    with pytest.raises(SpotError, match=r"decoder\.embed_tokens\.weight differs from shared"):
        convert(directory, tmp_path / "differs")


def test_older_transformers_told_an_untied_head_by_the_flag(copy, tmp_path):
    # Before version 5: tie_word_embeddings false and no scale_decoder_outputs.
    directory = copy("t5_1_1")
    before = convert(directory, tmp_path / "before")
    reconfigure(directory, tie_word_embeddings=False, scale_decoder_outputs=None)
    assert convert(directory, tmp_path / "after").fingerprint == before.fingerprint


def test_a_scaled_head_of_its_own_is_scaled_once(copy, tmp_path):
    directory = copy("t5_1_1")
    reconfigure(directory, scale_decoder_outputs=True)
    head = load_file(directory / "model.safetensors")["lm_head.weight"]
    kernel = imported(directory, tmp_path / "stored")[0].params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_allclose(kernel, head.T / 4, rtol=1e-7)  # d = 16


def test_half_precision_is_widened(copy, tmp_path):
    directory = copy("t5_1_0")
    rewrite(directory, lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    backbone, report = imported(directory, tmp_path / "stored")
    assert report.dtype == "float32"
    table = load_file(directory / "model.safetensors")["shared.weight"].astype(np.float32)
    np.testing.assert_array_equal(backbone.params["token_embedder"]["embedding"], table)


def test_a_checkpoint_without_its_vocabulary_says_so(copy, tmp_path):
    _, report = imported(copy("t5_1_0"), tmp_path / "stored")
    assert "convert it with --vocabulary FILE" in report.table()


def test_its_vocabulary_comes_along(copy, tmp_path):
    directory = copy("t5_1_0")
    small = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "a dog ran"] * 20),
        model_writer=small,
        vocab_size=18,
        minloglevel=2,
    )
    (directory / "spiece.model").write_bytes(small.getvalue())
    backbone, _ = imported(directory, tmp_path / "stored")
    assert backbone.vocabulary_path.read_bytes() == small.getvalue()
    shutil.copy(T5_VOCABULARY, directory / "spiece.model")
    with pytest.raises(SpotError, match="32000 pieces .* only 64 rows"):
        convert(directory, tmp_path / "other")


# --- Broken and unfit directories


def refused(source, dest, match):
    with pytest.raises(SpotError, match=match) as caught:
        convert(source, dest)
    assert "\n" not in str(caught.value)
    assert not dest.exists()
    return caught.value


def test_a_truncated_file(copy, tmp_path):
    path = copy("t5_1_1_sharded") / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    refused(path.parent, tmp_path / "stored", "model-00002-of-00003.safetensors: truncated")


def test_a_missing_shard(copy, tmp_path):
    path = copy("t5_1_1_sharded") / "model-00003-of-00003.safetensors"
    path.unlink()
    refused(path.parent, tmp_path / "stored", "model-00003-of-00003.safetensors: missing")


def test_a_missing_and_a_left_over_tensor(copy, tmp_path):
    directory = copy("mt5")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    rewrite(directory, lambda t: t.update({f"{name}.lora_A": t.pop(name)}))
    error = refused(directory, tmp_path / "stored", "1 missing, 1 left over")
    assert isinstance(error, MismatchError)
    assert error.report.missing == [("encoder/layers_1/attention/query/kernel", (16, 12))]
    assert error.report.left_over == [(f"{name}.lora_A", (12, 16))]


def test_a_bias_in_every_layer_is_left_over(copy, tmp_path):
    # umT5 has one; taking only the first layer's would be another model.
    directory = copy("mt5")
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    rewrite(directory, lambda t: t.update({first.replace("0", "1", 1): t[first]}))
    refused(directory, tmp_path / "stored", "0 missing, 1 left over")


def test_a_configuration_of_another_size(copy, tmp_path):
    directory = copy("t5_1_0")
    reconfigure(directory, d_ff=25)
    refused(directory, tmp_path / "stored", r"has shape .*24.*, expected .*25")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', expected t5, mt5 or umt5"),
        ({"feed_forward_proj": "gelu"}, "feed_forward_proj is 'gelu', expected one of relu"),
        ({"d_model": None}, "lacks d_model"),
    ],
)
def test_configurations_that_are_no_t5(copy, tmp_path, changes, message):
    directory = copy("t5_1_0")
    reconfigure(directory, **changes)
    refused(directory, tmp_path / "stored", message)


def test_only_pickled_weights(copy, tmp_path):
    directory = copy("t5_1_0")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    refused(directory, tmp_path / "stored", "no model.safetensors .* save it as")


def test_quantised_weights(copy, tmp_path):
    directory = copy("t5_1_0")
    rewrite(directory, lambda t: t.update({"shared.weight": t["shared.weight"].astype(np.int8)}))
    refused(directory, tmp_path / "stored", "has dtype int8, expected one of float16")
