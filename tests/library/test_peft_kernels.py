"""LoRA and IA3 of PEFT go in and out, and do the same to the same T5."""

import dataclasses
import functools
import json
import shutil
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spot_jax.errors import SpotError
from spot_jax.library.exchange import write_prompt
from spot_jax.library.library import Library
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.stored import inference_of
from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.importing import convert
from spot_jax.t5.model import decode, encode

HERE = Path(__file__).parent
HF = HERE.parent / "t5" / "importing" / "hf_fixtures" / "hf.tar.xz"
ADAPTERS = ("lora", "rslora", "ia3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Adapters that PEFT saved, `t5_1_1`, the T5 that they are of, and `stored`, ours of it."""
    directory = tmp_path_factory.mktemp("peft")
    for path in (HF, HERE / "peft_fixtures" / "kernels.tar.xz"):
        with tarfile.open(path) as archive:
            archive.extractall(directory, filter="data")
    convert(directory / "t5_1_1", directory / "stored")
    return directory


@pytest.fixture(scope="module")
def logits(files):
    """Logits of the T5 with an adapter, for the inputs of an `expected.npz`."""
    backbone = load_backbone(files / "stored")
    config = dataclasses.replace(backbone.config, dropout_rate=0.0)

    @jax.jit
    def forward(params, tokens, inputs):
        encoded = encode(params, config, tokens)
        return decode(params, config, encoded, tokens, inputs, jnp.ones_like(inputs))

    def of(prompt, expected):
        tokens = expected["encoder_input_tokens"].astype(np.int32)
        inputs = expected["decoder_input_tokens"].astype(np.int32)
        return np.asarray(
            forward(inference_of(backbone.params, config, prompt).params, tokens, inputs)
        )

    return of


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_does_here_what_it_did_there_and_goes_out_as_it_came(
    name, files, logits, tmp_path
):
    expected = np.load(files / name / "expected.npz")
    prompt = load_prompt(files / name)
    np.testing.assert_allclose(logits(prompt, expected), expected["logits"], atol=1e-4, rtol=0)
    tensors = {n: x + 0.1 for n, x in prompt.tensors.items()}
    other = logits(dataclasses.replace(prompt, tensors=tensors), expected)
    assert np.abs(other - expected["logits"]).max() > 1e-2

    write_prompt(prompt, tmp_path / "out", "peft", base_model="google/t5-v1_1-small")
    before = load_file(files / name / "adapter_model.safetensors")
    after = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    for tensor in before:
        np.testing.assert_array_equal(after[tensor], before[tensor])
    theirs, ours = (
        json.loads((directory / "adapter_config.json").read_text())
        for directory in (files / name, tmp_path / "out")
    )
    for field in ("peft_type", "task_type", "r"):
        assert ours.get(field) == theirs.get(field)
    for field in ("target_modules", "feedforward_modules"):
        assert sorted(ours.get(field, ())) == sorted(theirs.get(field, ()))
    again = load_prompt(tmp_path / "out")
    np.testing.assert_array_equal(logits(again, expected), logits(prompt, expected))


def test_what_ours_says_of_itself_survives_the_journey(files, tmp_path):
    prompt = dataclasses.replace(
        load_prompt(files / "lora"), task="mnli", step=7, backbone="f" * 64, metrics={"score": 1.0}
    )
    write_prompt(prompt, tmp_path / "a", "peft")
    again = load_prompt(tmp_path / "a")
    for field in dataclasses.fields(again):
        if field.name != "tensors":
            assert getattr(again, field.name) == getattr(prompt, field.name), field.name


@pytest.fixture
def adapter(files, tmp_path):
    shutil.copytree(files / "lora", tmp_path / "adapter")

    def change(fields=(), tensors=None):
        path = tmp_path / "adapter" / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **dict(fields)}))
        weights = tmp_path / "adapter" / "adapter_model.safetensors"
        if tensors is not None:
            save_file(tensors(load_file(weights)), weights)
        return tmp_path / "adapter"

    return change


def without(part, tensors):
    return {name: x for name, x in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("fields", "tensors", "match"),
    [
        ({"use_dora": True}, None, "an adapter with use_dora, which cannot be read; merge it"),
        ({"rank_pattern": {"q": 4}}, None, "an adapter with rank_pattern"),
        ({"bias": "all"}, None, "an adapter with bias"),
        ({"r": 4}, None, r"expected rank 4 by its description, found \[3\]"),
        ({"peft_type": "IA3"}, None, "fetch the adapter again"),
        ({"task_type": "CAUSAL_LM"}, None, "an adapter for CAUSAL_LM"),
        ({}, functools.partial(without, "block.0"), "in every layer, found it in"),
        ({}, functools.partial(without, "EncDec"), "in decoder/layers/encoder_decoder_attention"),
        ({}, lambda t: {**t, "base_model.model.lm_head.lora_A.weight": t[min(t)]}, "of no T5's"),
        ({}, lambda t: {}, "no tensor of LoRA or IA3"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(fields, tensors, match, adapter):
    with pytest.raises(SpotError, match=match):
        load_prompt(adapter(fields, tensors))


def test_where_an_update_cannot_go_says_so(files, tmp_path):
    prompt = load_prompt(files / "lora")
    with pytest.raises(SpotError, match="expected rows of virtual tokens, found .* LoRATuning"):
        write_prompt(prompt, tmp_path / "out", "t5x")
    with pytest.raises(SpotError, match="LoRATuning"):
        Library(tmp_path / "library").add(dataclasses.replace(prompt, task="mine"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own, about each other
@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_loads_what_we_write(name, files, logits, tmp_path):
    """Live, with the `reference` extra: PEFT, torch and transformers on CPU."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import T5ForConditionalGeneration

    expected = np.load(files / name / "expected.npz")
    prompt = load_prompt(files / name)
    rng = np.random.default_rng(0)
    tensors = {
        n: x + rng.normal(0, 0.1, x.shape).astype(x.dtype) for n, x in prompt.tensors.items()
    }
    prompt = dataclasses.replace(prompt, tensors=tensors)
    write_prompt(prompt, tmp_path / "ours", "peft")
    shutil.copytree(files / "t5_1_1", tmp_path / "t5")
    model = T5ForConditionalGeneration.from_pretrained(tmp_path / "t5")
    model = peft.PeftModel.from_pretrained(model, tmp_path / "ours").eval()
    tokens = torch.tensor(expected["encoder_input_tokens"])
    inputs = torch.tensor(expected["decoder_input_tokens"])
    with torch.no_grad():
        out = model(input_ids=tokens, attention_mask=(tokens > 0).long(), decoder_input_ids=inputs)
    np.testing.assert_allclose(logits(prompt, expected), out.logits.numpy(), atol=1e-4, rtol=0)
    # Out of PEFT again: the same numbers.
    model.save_pretrained(tmp_path / "theirs")
    again = load_prompt(tmp_path / "theirs")
    assert again.tensors.keys() == prompt.tensors.keys()
    for tensor in again.tensors:
        np.testing.assert_array_equal(again.tensors[tensor], prompt.tensors[tensor])
