"""Every example runs from its first line to its last, in a directory of its own."""

import importlib.util
from pathlib import Path

import pytest
from tiny_text import store_backbone

import spot_jax as spot

EXAMPLES = Path(spot.__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return store_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


def load(name: str):
    module = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(module)
    module.loader.exec_module(example)
    return example


def test_all_examples_are_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHOWN, "your_own_method"}


SHOWN = {
    "tune_a_prompt": "best at step 1: ",
    "transfer_a_prompt": "from_source: ",
    "your_own_data": "slice the onions",
    "many_prompts": "bundled_vader_amazon: ",
}


# What the slow ones run is tested in parts elsewhere.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("tune_a_prompt", "transfer_a_prompt", "many_prompts")
        else name
        for name in SHOWN
    ],
)
def test_an_example_runs(name, backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    load(name).main("run", backbone, 2)
    assert SHOWN[name] in capsys.readouterr().out
    assert list(tmp_path.glob("run/**/last-0.safetensors"))
