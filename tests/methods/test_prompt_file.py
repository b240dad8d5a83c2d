import io
import json

import numpy as np
import pytest
import safetensors.numpy

from spot_jax.errors import SpotError
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import is_prompt, load_prompt

PROMPT = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def saved(path, **fields):
    PromptFile(PROMPT, **fields).save(path)
    return path


def test_everything_comes_back(tmp_path):
    fields = {
        "method": {"name": "PromptTuning", "length": 5},
        "backbone": "ab" * 32,
        "vocabulary": "cd" * 32,
        "task": "bundled_sms_spam",
        "step": 300,
        "seed": 7,
        "metrics": {"accuracy": 0.1 + 0.2},
        "ancestry": ({"task": "source", "step": 100, "seed": 1, "file": "a.safetensors"},),
    }
    loaded = load_prompt(saved(tmp_path / "new" / "p.safetensors", **fields))
    np.testing.assert_array_equal(loaded.prompt, PROMPT)
    assert loaded.prompt.dtype == np.float32
    assert {name: getattr(loaded, name) for name in fields} == fields
    # Nothing half written stays behind.
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p.safetensors"]


def test_a_prompt_that_begins_from_it_says_so(tmp_path):
    path = saved(tmp_path / "p.safetensors", task="mnli", step=10, seed=3)
    expected = {"task": "mnli", "step": 10, "seed": 3, "file": str(path)}
    assert load_prompt(path).ancestor(str(path)) == expected


def test_t5x_prompts_are_read(tmp_path, golden):
    path = next(golden.rglob("numpy_checkpoints/checkpoint_5/encoder.prompt.prompt.prompt"))
    with path.open("rb") as file:
        expected = np.load(file)
    np.testing.assert_array_equal(load_prompt(path).prompt, expected)
    # It does not say its backbone: taken on trust.
    assert load_prompt(path, backbone="ab" * 32).backbone == ""


@pytest.mark.parametrize("form", ["ckpt_prompt", "ckpt_prompt_orbax"])
def test_t5x_s_checkpoint_is_read_as_the_prompt_in_it(golden, form):
    checkpoint = next(golden.rglob(f"{form}/checkpoint_5"))
    assert is_prompt(checkpoint)
    prompt = load_prompt(checkpoint)
    assert prompt.step == 5 and prompt.prompt.dtype == np.float32
    path = next(golden.rglob("numpy_checkpoints/checkpoint_5/encoder.prompt.prompt.prompt"))
    np.testing.assert_array_equal(prompt.prompt, load_prompt(path).prompt)


def test_a_checkpoint_without_a_prompt_is_none(golden, tmp_path):
    backbones = [p for p in golden.rglob("checkpoint_*") if "prompt" not in str(p)]
    (tmp_path / "checkpoint_3").mkdir()
    assert backbones
    for place in [*backbones, tmp_path / "checkpoint_3"]:
        assert not is_prompt(place)
        with pytest.raises(SpotError, match="no prompt file at"):
            load_prompt(place)


def test_a_prompt_of_another_backbone_is_refused(tmp_path):
    path = saved(tmp_path / "p.safetensors", backbone="a" * 64)
    assert load_prompt(path, backbone="a" * 64).backbone == "a" * 64
    with pytest.raises(
        SpotError, match="another backbone .*aaaaaaaaaaaa, this one is bbbbbbbbbbbb"
    ):
        load_prompt(path, backbone="b" * 64)


def numpy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def ours(array, **fields):
    text = {"spot_jax": json.dumps({"format": 1, "ancestry": [], **fields})}
    return safetensors.numpy.save({"prompt": array}, text if fields is not None else None)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (numpy_bytes(PROMPT)[:-8], "damaged or truncated"),
        (ours(PROMPT)[:-8], "not a prompt file of spot-jax, or truncated"),
        (b"{}", "not a prompt file"),
        (b"", "not a prompt file"),
        (safetensors.numpy.save({"prompt": PROMPT}), "not a prompt file"),
        (ours(PROMPT, format=99), "newer spot-jax"),
        (numpy_bytes(PROMPT[0]), r"\[tokens, width\], found shape \[4\]"),
        (numpy_bytes(np.full((2, 2), np.nan, np.float32)), "NaN or infinity"),
        (numpy_bytes(np.array(["a", "b"])), "damaged or truncated"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(data, match, tmp_path):
    path = tmp_path / "p.safetensors"
    path.write_bytes(data)
    with pytest.raises(SpotError, match=match) as caught:
        load_prompt(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(SpotError, match="no prompt file at"):
        load_prompt(tmp_path / "none.safetensors")
