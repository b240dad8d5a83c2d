"""Prompts of T5X and of PEFT go in and out, and do the same to the same T5."""

import dataclasses
import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from library_cases import make_prompt
from safetensors.numpy import load_file, save_file

from spot_jax.errors import SpotError
from spot_jax.library.exchange import write_prompt
from spot_jax.library.library import Library
from spot_jax.methods.base import StoredPrompt
from spot_jax.methods.prefix_tuning import PrefixTuning
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import T5X_NAME, load_prompt
from spot_jax.methods.stored import inference_of
from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.config import T5Config
from spot_jax.t5.importing import convert
from spot_jax.t5.model import decode, encode

HERE = Path(__file__).parent
HF = HERE.parent / "t5" / "importing" / "hf_fixtures" / "hf.tar.xz"
ADAPTERS = ("two_halves", "one_half", "p_tuning")


@pytest.fixture(scope="module")
def peft_files(tmp_path_factory):
    """Adapters that PEFT saved, and `t5_1_1`, the T5 that they are of."""
    directory = tmp_path_factory.mktemp("peft")
    for path in (HF, HERE / "peft_fixtures" / "peft.tar.xz"):
        with tarfile.open(path) as archive:
            archive.extractall(directory, filter="data")
    return directory


@pytest.fixture(scope="module")
def hf_logits(peft_files, tmp_path_factory):
    """Logits of the T5 with a prompt, for the inputs of an `expected.npz`."""
    return logits_of(peft_files / "t5_1_1", tmp_path_factory.mktemp("stored") / "t5")


def logits_of(source, stored):
    convert(source, stored)
    backbone = load_backbone(stored)
    config = dataclasses.replace(backbone.config, dropout_rate=0.0)

    @jax.jit
    def forward(table, tokens, inputs, targets):
        encoded = encode(backbone.params, config, tokens, table=table)
        return decode(backbone.params, config, encoded, tokens, inputs, targets)

    def logits(prompt, expected):
        tokens = expected["encoder_input_tokens"].astype(np.int32)
        inputs = expected["decoder_input_tokens"].astype(np.int32)
        targets = expected.get("decoder_target_tokens")
        ids = config.vocab_size + np.arange(len(prompt.prompt), dtype=np.int32)
        tokens = np.concatenate([np.tile(ids, (len(tokens), 1)), tokens], axis=1)
        targets = np.ones_like(inputs) if targets is None else targets.astype(np.int32)
        return np.asarray(forward(prompt.prompt, tokens, inputs, targets))

    return logits


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_does_here_what_it_did_there(name, peft_files, hf_logits):
    expected = np.load(peft_files / name / "expected.npz")
    file = load_prompt(peft_files / name)
    assert file.prompt.shape == (5, 16) and file.prompt.dtype == np.float32
    # PEFT saved a second half that it never puts before the encoder.
    np.testing.assert_array_equal(file.prompt, expected["table"][:5])
    assert (len(expected["table"]) == 5) == (name == "one_half")
    np.testing.assert_allclose(hf_logits(file, expected), expected["logits"], atol=1e-4, rtol=0)
    other = dataclasses.replace(file, prompt=file.prompt + 0.1)
    assert np.abs(hf_logits(other, expected) - expected["logits"]).max() > 1e-2


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_through_a_library_and_out_again(name, peft_files, tmp_path):
    before = load_prompt(peft_files / name)
    library = Library(tmp_path / "library")
    stored, _ = library.load(library.add(before))
    write_prompt(stored, tmp_path / "out", "peft", base_model="google/t5-v1_1-base")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["num_transformer_submodules"] == 1 and config["num_virtual_tokens"] == 5
    assert config["base_model_name_or_path"] == "google/t5-v1_1-base"
    [table] = load_file(tmp_path / "out" / "adapter_model.safetensors").values()
    np.testing.assert_array_equal(table, before.prompt)


def test_our_fields_survive_a_journey_by_adapter(tmp_path):
    prompt = make_prompt("mnli", seed=3, tasks=("mnli",), ancestry=({"task": "c4"},))
    write_prompt(prompt, tmp_path / "a", "peft")
    file = load_prompt(tmp_path / "a")
    np.testing.assert_array_equal(file.prompt, prompt.prompt)
    for field in dataclasses.fields(PromptFile):
        if field.name not in ("prompt", "method"):
            assert getattr(file, field.name) == getattr(prompt, field.name), field.name


def test_a_google_prompt_does_the_same_before_and_after(golden, tmp_path):
    z = np.load(golden / "golden.npz")
    logits = logits_of(golden / "ckpt_minimal" / "checkpoint_2", tmp_path / "stored")
    real = z["decoder_target_tokens"] > 0
    (tmp_path / T5X_NAME).write_bytes(numpy_bytes(z["prompt"]))

    before = load_prompt(tmp_path)
    library = Library(tmp_path / "library")
    stored, _ = library.load(library.add(dataclasses.replace(before, task="mine")))
    for form in ("t5x", "spot", "peft"):
        after = load_prompt(write_prompt(stored, tmp_path / f"out.{form}", form))
        np.testing.assert_array_equal(after.prompt, z["prompt"])
        assert np.abs(logits(after, z) - z["prompt/logits"])[real].max() < 1e-5


def test_the_file_that_t5x_wrote_comes_out_byte_for_byte(golden, tmp_path):
    source = golden / "ckpt_prompt" / "numpy_checkpoints" / "checkpoint_5"
    file = load_prompt(source)
    assert file.step == 5 and load_prompt(source / T5X_NAME).step == 5
    assert file.prompt.shape == (7, 32)
    path = Path(write_prompt(file, tmp_path, "t5x"))
    assert path == tmp_path / T5X_NAME
    assert path.read_bytes() == (source / T5X_NAME).read_bytes()


@pytest.fixture
def adapter(tmp_path):
    write_prompt(make_prompt(shape=(5, 8)), tmp_path / "adapter", "peft")
    path = tmp_path / "adapter"

    def change(**fields):
        file = path / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        return path

    return change


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"peft_type": "LOHA"}, "an adapter of type LOHA; expected a soft prompt"),
        ({"task_type": "CAUSAL_LM"}, "an adapter for CAUSAL_LM; expected one for a T5"),
        ({"num_virtual_tokens": 4}, r"expected prompt_embeddings of 4 .*found \[5, 8\]"),
        ({"num_virtual_tokens": None}, "expected num_virtual_tokens of 1 or more, found None"),
        ({"token_dim": 16}, r"rows of 16 .* found \[5, 8\]"),
    ],
)
def test_adapters_that_are_no_prompt_of_a_t5(adapter, fields, match):
    with pytest.raises(SpotError, match=match):
        load_prompt(adapter(**fields))


def test_broken_adapters(adapter, tmp_path):
    weights = adapter() / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(SpotError, match="adapter_model.safetensors"):
        load_prompt(adapter())
    save_file({"prompt_embeddings": np.ones(3, "f")}, weights)
    with pytest.raises(SpotError, match=r"found \[3\]"):
        load_prompt(adapter())
    save_file({"prompt_embeddings": np.full((5, 8), np.nan, "f")}, weights)
    with pytest.raises(SpotError, match="the prompt holds NaN or infinity"):
        load_prompt(adapter())
    save_file({"lora_A": np.ones((5, 8), "f")}, weights)
    with pytest.raises(SpotError, match="no tensor prompt_embeddings"):
        load_prompt(adapter())
    weights.unlink()
    with pytest.raises(SpotError, match="as safetensors"):
        load_prompt(adapter())
    (adapter() / "adapter_config.json").write_text("{")
    with pytest.raises(SpotError, match="adapter_config.json: damaged"):
        load_prompt(tmp_path / "adapter")


def test_an_adapter_in_a_directory_below_is_named(adapter):
    with pytest.raises(SpotError, match="adapter_config.json.*, such as .*adapter$"):
        load_prompt(adapter().parent)


def test_nothing_of_these_forms(tmp_path):
    with pytest.raises(SpotError, match="no prompt file"):
        load_prompt(tmp_path / "none")
    with pytest.raises(SpotError, match="or a PEFT adapter's directory"):
        load_prompt(tmp_path)
    (tmp_path / "a.npy").write_bytes(numpy_bytes(np.ones(3)))
    with pytest.raises(SpotError, match=r"\[tokens, width\]"):
        load_prompt(tmp_path / "a.npy")


def numpy_bytes(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def test_what_is_there_is_not_written_over(tmp_path):
    prompt = make_prompt()
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(SpotError, match="holds something that is no adapter"):
        write_prompt(prompt, tmp_path, "peft")
    with pytest.raises(SpotError, match="is a directory; give the name of a file"):
        write_prompt(prompt, tmp_path, "spot")
    with pytest.raises(SpotError, match="no form 'hf'; choose one of spot, t5x, peft"):
        write_prompt(prompt, tmp_path / "x", "hf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own, about each other
def test_peft_loads_what_we_write(peft_files, hf_logits, tmp_path):
    """Live, with the `reference` extra: PEFT, torch and transformers on CPU."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import T5ForConditionalGeneration

    expected = np.load(peft_files / "two_halves" / "expected.npz")
    tokens = torch.tensor(expected["encoder_input_tokens"])
    inputs = torch.tensor(expected["decoder_input_tokens"])

    def theirs(adapter):
        shutil.copytree(peft_files / "t5_1_1", tmp_path / "t5", dirs_exist_ok=True)
        model = T5ForConditionalGeneration.from_pretrained(tmp_path / "t5")
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
        mask = (tokens > 0).long()
        with torch.no_grad():
            out = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=inputs)
        return model, out.logits.numpy()

    prompt = make_prompt(shape=(9, 16))
    write_prompt(prompt, tmp_path / "ours", "peft")
    model, logits = theirs(tmp_path / "ours")
    np.testing.assert_allclose(hf_logits(prompt, expected), logits, atol=1e-4, rtol=0)
    # Out of PEFT again, and in and out of us: the same prompt, the same logits.
    model.save_pretrained(tmp_path / "theirs")
    again = load_prompt(tmp_path / "theirs")
    np.testing.assert_array_equal(again.prompt, prompt.prompt)
    for name in ADAPTERS:
        arrays = np.load(peft_files / name / "expected.npz")
        write_prompt(load_prompt(peft_files / name), tmp_path / f"{name}_out", "peft")
        _, logits = theirs(tmp_path / f"{name}_out")
        np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5, rtol=0)


def theirs(directory, config, base, tmp_path):
    """Adapter that PEFT saved of a T5 here, its inputs, and the logits that it gives."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration.from_pretrained(base)
    if config is None:
        model = peft.PeftModel.from_pretrained(model, directory).eval()
    else:
        model = peft.get_peft_model(model, getattr(peft, config[0])(**config[1])).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(directory)
    tokens, inputs = (torch.arange(n).reshape(2, -1) % 60 + 3 for n in (14, 8))
    with torch.no_grad():
        logits = model(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), decoder_input_ids=inputs
        ).logits
    return tokens.numpy(), inputs.numpy(), logits.numpy()


SOFT = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": 5}
PREFIX = SOFT | {"num_layers": 3, "token_dim": 12, "num_attention_heads": 4}
LIVE = {
    "prompt tuning": ("PromptTuningConfig", SOFT),
    "p-tuning": ("PromptEncoderConfig", SOFT | {"encoder_hidden_size": 8}),
    "prefix": ("PrefixTuningConfig", PREFIX),
    "prefix, projected": ("PrefixTuningConfig", PREFIX | {"prefix_projection": True}),
    "lora": ("LoraConfig", {"task_type": "SEQ_2_SEQ_LM", "r": 3}),
    "ia3": ("IA3Config", {"task_type": "SEQ_2_SEQ_LM"}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own, about each other
@pytest.mark.parametrize("name", LIVE)
def test_of_every_method_the_same_comes_in_and_goes_out(name, peft_files, tmp_path):
    """Live, with the `reference` extra: PEFT, torch and transformers on CPU."""
    base = peft_files / "t5_1_1"
    tokens, inputs, expected = theirs(tmp_path / "theirs", LIVE[name], base, tmp_path)
    prompt = load_prompt(tmp_path / "theirs")
    convert(base, tmp_path / "stored")
    backbone = load_backbone(tmp_path / "stored")
    config = dataclasses.replace(backbone.config, dropout_rate=0.0)

    def logits(prompt):
        inference = inference_of(backbone.params, config, prompt)
        table, ids = inference.table, tokens.astype(np.int32)
        if table is not None:
            virtual = config.vocab_size + np.arange(len(table), dtype=np.int32)
            ids = np.concatenate([np.tile(virtual, (len(ids), 1)), ids], axis=1)
        encoded = encode(inference.params, config, ids, table=table)
        ones = np.ones_like(inputs, np.int32)
        return decode(inference.params, config, encoded, ids, inputs.astype(np.int32), ones)

    np.testing.assert_allclose(logits(prompt), expected, atol=1e-4, rtol=0)
    bare = decode(
        backbone.params, config, encode(backbone.params, config, tokens.astype(np.int32)),
        tokens.astype(np.int32), inputs.astype(np.int32), np.ones_like(inputs, np.int32),
    )  # fmt: skip
    assert np.abs(np.asarray(bare) - expected).max() > 1e-2
    write_prompt(prompt, tmp_path / "ours", "peft")
    _, _, again = theirs(tmp_path / "ours", None, base, tmp_path)
    np.testing.assert_allclose(again, expected, atol=1e-4, rtol=0)


def test_a_prefix_of_peft_comes_in_and_goes_out_and_is_not_tuned(tmp_path):
    rng = np.random.default_rng(0)
    method = {"name": "PrefixTuning", "length": 2, "places": ["decoder"], "positions": True}
    rows = rng.normal(size=(2 * 2 * 3, 12)).astype(np.float32)
    prompt = PromptFile(rows, method={**method, "heads": 4})
    write_prompt(prompt, tmp_path / "a", "peft")
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    # PEFT takes the blocks 4i and 4i + 1 for the keys and values of layer i, counted around.
    by_layer = rows.reshape(3, 2, 2, 12)
    blocks = tensors["prompt_embeddings"].reshape(2, 6, 12)
    for i, part, p in itertools.product(range(3), range(2), range(2)):
        np.testing.assert_array_equal(blocks[p, (4 * i + part) % 6], by_layer[i, part, p])
    back = load_prompt(tmp_path / "a")
    np.testing.assert_array_equal(back.rows, rows)
    assert dict(back.method) == dict(prompt.method)
    config = tmp_path / "a" / "adapter_config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "num_transformer_submodules": 1}))
    with pytest.raises(SpotError, match="is mixed with the encoder's keys by PEFT; train one"):
        load_prompt(tmp_path / "a")
    even = rng.normal(size=(2 * 2 * 2, 12)).astype(np.float32)
    with pytest.raises(SpotError, match="layers share keys and values, these differ"):
        write_prompt(dataclasses.replace(prompt, prompt=even), tmp_path / "even", "peft")
    ours = dataclasses.replace(prompt, method={**method, "positions": False})
    with pytest.raises(SpotError, match="expected rows of virtual tokens, found a prompt of Pre"):
        write_prompt(ours, tmp_path / "b", "peft")
    config = T5Config(emb_dim=16, num_heads=4, head_dim=3, num_decoder_layers=3)
    source = StoredPrompt("prefix", prompt)
    with pytest.raises(SpotError, match="a prefix of PEFT's, .* is not tuned further"):
        PrefixTuning(length=2, places=("decoder",), init="prompt")._stored(config, source)
