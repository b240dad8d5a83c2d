"""The table of names, and the values that gin files write in short."""

import math

import pytest

from spot_jax.cli import values
from spot_jax.cli.configurables import CONFIGURABLES, target
from spot_jax.cli.gin_files import INSTALLED, read
from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config, parameter_shapes

# Parameters as published: T5 1.0 in Hugging Face's model cards, T5 1.1 in Lester et al. 2021,
# table 4, without the one virtual token that it counts; mT5 as the paper rounds them.
PARAMETERS = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_xl": 2_851_598_336,
    "t5_xxl": 11_307_321_344,
    "t5_1_1_small": 76_961_664 - 512,
    "t5_1_1_base": 247_578_624 - 768,
    "t5_1_1_large": 783_151_104 - 1024,
    "t5_1_1_xl": 2_849_759_232 - 2048,
    "t5_1_1_xxl": 11_135_336_448 - 4096,
}
ROUNDED = {"mt5_small": 300e6, "mt5_base": 580e6, "mt5_large": 1.2e9, "mt5_xl": 3.7e9}
ROUNDED["mt5_xxl"] = 13e9


@pytest.mark.parametrize("name", CONFIGURABLES)
def test_every_name_stands_for_something(name):
    assert callable(target(name))


def parameters(name: str) -> int:
    settings = read([f"gin_configs/models/{name}.gin"])
    config = T5Config(**{b.parameter: b.value for b in settings.of("T5Config")})
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_have_the_published_size(name):
    assert parameters(name) == PARAMETERS[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_mt5_has_about_the_published_size(name):
    assert parameters(name) == pytest.approx(ROUNDED[name], rel=0.04)


def test_every_model_file_gives_the_whole_shape():
    shape = set(T5Config().shape_fields()) - {"layer_norm_epsilon"}
    shape = {name for name in shape if not name.startswith("relative_attention")}
    for path in sorted((INSTALLED / "gin_configs" / "models").glob("*.gin")):
        bound = {binding.parameter for binding in read([str(path)]).of("T5Config")}
        assert bound == shape, path


@pytest.mark.parametrize(
    ("text", "expected"), [("1x1", (1, 1)), ("2x4", (2, 4)), ("*x8", (None, 8)), (" 8 x 1", (8, 1))]
)
def test_a_mesh_in_short(text, expected):
    shape = values.mesh(text)
    assert (shape.data, shape.model) == expected


@pytest.mark.parametrize("text", ["8", "2x", "x2", "2x2x2", "-1x2", ""])
def test_a_mesh_that_is_not_one(text):
    with pytest.raises(SpotError, match="DATAxMODEL"):
        values.mesh(text)


def test_a_file_that_ships_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed = values.shipped("tasks/t5_spiece.model")
    assert installed == str(INSTALLED / "tasks" / "t5_spiece.model")
    local = tmp_path / "tasks" / "t5_spiece.model"
    local.parent.mkdir()
    local.write_bytes(b"")
    assert values.shipped("tasks/t5_spiece.model") == "tasks/t5_spiece.model"
    assert values.shipped("gs://bucket/x") == "gs://bucket/x"
    assert values.shipped("no/such.file") == "no/such.file"
