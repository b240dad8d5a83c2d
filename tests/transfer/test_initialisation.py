"""Studies and transfers of any method whose prompts can begin from stored ones."""

import dataclasses
import json

import pytest
from study_cases import make_world

from spot_jax.data.data_source import DataSource
from spot_jax.errors import SpotError
from spot_jax.methods.base import BaseMethod
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.studies.engine.plan import Stage
from spot_jax.studies.transfer.study import TransferStudy
from spot_jax.training.config import StoredBackbone
from spot_jax.transfer.initialisation import beginning
from spot_jax.transfer.tuning import Tuning


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A method that cannot begin from a prompt."""

    copies: int = 1
    tunes_backbone: bool = False


def test_a_plan_without_a_method_is_prompt_tuning_from_the_sampled_vocabulary(world, tmp_path):
    plan = world.plan(tmp_path)
    assert plan.stage_method(plan.source) == PromptTuning(3, "sampled_vocabulary")
    assert plan.stage_method(Stage(3, init="uniform")) == PromptTuning(3, "uniform")
    assert plan.stage_method(plan.target, ["a", "b"]) == PromptTuning(
        3, "prompt", prompt=["a", "b"]
    )
    # What studies of before have written down is what is asked for still.
    assert plan.settings()["source.init"] == "sampled_vocabulary"
    assert "method" not in plan.settings()


def test_a_plans_method_is_that_of_every_prompt(world, tmp_path):
    method = PromptTuning(5, "uniform", z_loss=0.5)
    plan = world.plan(tmp_path, method=method)
    assert plan.stage_method(plan.source) == method
    assert plan.stage_method(Stage(3, init="class_labels")).init == "class_labels"
    assert plan.stage_method(plan.target, ["a"]) == dataclasses.replace(
        method, init="prompt", prompt=["a"]
    )
    assert plan.settings()["method"]["type"] == "PromptTuning"
    assert plan.settings()["source.init"] == "uniform"
    json.dumps(plan.settings())
    assert plan.virtual_tokens == 5


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (ModelTuning(), "ModelTuning tunes the backbone and has no prompt"),
        (Fixed(), "Fixed has no setting 'init'"),
        (PromptTuning(3, "prompt", prompt="x"), "found 'prompt'"),
    ],
)
def test_a_method_that_cannot_be_transferred_is_one_line(world, tmp_path, method, message):
    with pytest.raises(SpotError, match=message) as caught:
        world.plan(tmp_path, method=method)
    assert "\n" not in str(caught.value)
    if method.__class__ is not PromptTuning:
        with pytest.raises(SpotError, match=message):
            Tuning(
                StoredBackbone(world.backbone), DataSource("a", {"inputs": 8, "targets": 2}), method
            )


def test_a_beginning_keeps_the_rest():
    method: BaseMethod = PromptTuning(7, "text", text="words")
    assert beginning(method, None) == method
    assert beginning(method, "uniform") == dataclasses.replace(method, init="uniform")
    begun = beginning(method, "uniform", ["a"])
    assert begun == dataclasses.replace(method, init="prompt", prompt=["a"])
    assert beginning(begun, "text") == method


@pytest.mark.slow
def test_a_study_tunes_with_its_method(world, tmp_path):
    plan = world.plan(tmp_path, method=PromptTuning(4, "uniform"), sources=world.tasks[:1])
    study = TransferStudy(plan)
    study.run(lambda line: None, progress=False)
    done = {job.kind: result for job, result in study.done()}
    assert set(done) == {"source", "no_prompt", "scratch", "transfer"}
    for kind, result in done.items():
        for prompt in result.prompts if kind != "no_prompt" else ():
            file = load_prompt(study.path / prompt.file)
            assert len(file.prompt) == 4
            assert file.tuning["init"] == ("prompt" if kind == "transfer" else "uniform")


def test_a_job_is_trained_with_the_plans_method(world, tmp_path, monkeypatch):
    methods = []

    def train(**options):
        methods.append(options["method"])
        raise SpotError("enough")

    monkeypatch.setattr("spot_jax.transfer.tuning.train", train)
    method = PromptTuning(4, "uniform", z_loss=0.5)
    study = TransferStudy(world.plan(tmp_path, method=method))
    with pytest.raises(SpotError, match="enough"):
        study.run_job(study.jobs[0].name, print, progress=False)
    assert methods == [method]
