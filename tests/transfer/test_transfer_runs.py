"""Whole transfers on a tiny backbone: what is tuned, chosen, reported, kept and gone on with."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from study_cases import World, make_world

from spot_jax.data.data_source import DataSource
from spot_jax.errors import SpotError
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.library.library import Library
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.stored import read_description
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.optimizers import Adafactor
from spot_jax.training.run import train
from spot_jax.transfer import tuning as tuning_module
from spot_jax.transfer.result import lines, read_result
from spot_jax.transfer.search import EmbeddingSettings, search
from spot_jax.transfer.transfer import transfer
from spot_jax.transfer.tuning import Tuning

SHAPE = (3, 16)
LENGTHS = {"inputs": 8, "targets": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def library(world, tmp_path_factory) -> Library:
    """Prompts of all four tasks, drawn, not tuned: also of c, which will be the target."""
    filled = Library(tmp_path_factory.mktemp("library"))
    mark = read_description(world.backbone).fingerprint
    for i in range(4):
        rng = np.random.default_rng(i)
        tables = [rng.normal(size=SHAPE).astype(np.float32) for _ in range(2)]
        tuned = {"lengths": LENGTHS, "batch_size": 4, "dropout_rate": 0.0}
        fields = {"backbone": mark, "task": world.tasks[i], "seed": 9, "tuning": tuned}
        filled.add(
            PromptFile(tables[0], step=50, **fields), PromptFile(tables[1], step=1, **fields)
        )
    return filled


def make_tuning(world, **options):
    """Of task c, two steps."""
    settings = {
        "method": PromptTuning(length=3, init="sampled_vocabulary"),
        "train_steps": 2,
        "evaluation": EvaluationPlan(period=1, decoding="greedy", batch_size=12),
        "checkpoints": CheckpointPlan(period=1, embedding_step=1),
        **options,
    }
    backbone = StoredBackbone(world.backbone, dropout_rate=0.0)
    return Tuning(backbone, DataSource(world.tasks[2], LENGTHS, batch_size=4), **settings)


@pytest.fixture(scope="module")
def best_of_two(world, library, tmp_path_factory):
    """The outcome of a transfer from two prompts, its directory, and how it was asked for."""
    directory = tmp_path_factory.mktemp("transfer")
    arguments = {
        "model_dir": str(directory),
        "tuning": make_tuning(world),
        "library": str(library.directory),
        "top_k": 2,
        "progress": False,
    }
    return transfer(**arguments), directory, arguments


def test_the_prompts_most_like_the_target_are_tuned_in_one_program(best_of_two, world, library):
    result, directory, _ = best_of_two
    embedding = load_prompt(directory / "embedding" / "prompts" / "embedding-0.safetensors")
    assert (embedding.step, embedding.task) == (1, world.tasks[2])
    # Its own prompt is left out, which would be leakage.
    others = {"backbone": embedding.backbone, "exclude": [world.tasks[2]]}
    ranking = library.rank(embedding.prompt, top_k=2, **others)
    assert len(library.rank(embedding.prompt, **others)) == 3
    assert any("left out: 1 that have seen" in note for note in result.notes)
    assert [source.id for source in result.retrieved] == [match.entry.id for match in ranking]
    assert [candidate.id for candidate in result.candidates] == [
        match.entry.id for match in ranking
    ]
    # One run of two prompts, each begun from its source.
    run = json.loads((directory / "best_of_top_k-2" / "target" / "run.json").read_text())
    assert run["tasks"] == [world.tasks[2]] * 2
    for candidate, match in zip(result.candidates, ranking, strict=True):
        assert load_prompt(candidate.prompt).ancestry[0]["task"] == match.entry.task


def test_the_choice_is_validations_and_the_score_tests(best_of_two):
    result, directory, _ = best_of_two
    assert (result.choosing, result.reporting) == ("validation", "test")
    best = max(candidate.validation for candidate in result.candidates)
    (chosen,) = result.chosen
    assert chosen.validation == best
    tuned = open_tuned(directory / "best_of_top_k-2" / "target", prompts=[chosen.prompt])
    for split, expected in (("validation", chosen.validation), ("test", chosen.test)):
        (scored,) = score(tuned, split=split, decoding="greedy", batch_size=12)
        assert scored.score == expected


def test_a_second_call_shows_the_results_again(best_of_two, monkeypatch):
    result, directory, arguments = best_of_two

    def refuse(**options):
        raise AssertionError("a finished transfer was tuned again")

    monkeypatch.setattr(tuning_module, "train", refuse)
    assert transfer(**arguments) == result == read_result(directory / "best_of_top_k-2")
    shown = "\n".join(lines(result))
    for source in result.retrieved:
        assert f"{source.id}" in shown and f"{source.similarity:.4f}" in shown
    assert f"scored on test: {result.chosen[0].test:.2f}" in shown
    with pytest.raises(AssertionError, match="tuned again"):
        transfer(**{**arguments, "tuning": dataclasses.replace(arguments["tuning"], train_steps=3)})


def test_prompts_from_a_list_go_as_each_alone(best_of_two, world, tmp_path):
    result, directory, arguments = best_of_two
    source, tuning = result.retrieved[1], arguments["tuning"]
    alone = train(
        model_dir=str(tmp_path),
        backbone=tuning.backbone,
        method=PromptTuning(length=3, init="prompt", prompt=source.file),
        data=tuning.data,
        optimizer=Adafactor(0.3),
        train_steps=2,
        evaluation=EvaluationPlan(period=0),
        progress=False,
    )
    together = directory / "best_of_top_k-2" / "target" / "prompts"
    expected = load_prompt(alone.prompts[0]).prompt
    prompts = [load_prompt(together / f"last-{i}.safetensors").prompt for i in range(2)]
    np.testing.assert_allclose(prompts[1], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(prompts[0] - expected).max() > 0.1


def test_a_transfer_that_was_stopped_goes_on_without_its_library(
    best_of_two, world, library, tmp_path, monkeypatch
):
    result, directory, arguments = best_of_two
    shutil.copytree(library.directory, tmp_path / "library")
    embedding = str(directory / "embedding" / "prompts" / "embedding-0.safetensors")
    changed = {
        **arguments,
        "model_dir": str(tmp_path / "run"),
        "library": str(tmp_path / "library"),
        "embedding": embedding,
        "method": "weighted_average",
    }

    def stop(**options):
        raise tuning_module.Stopped("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr(tuning_module, "train", stop)
        with pytest.raises(tuning_module.Stopped):
            transfer(**changed)
    shutil.rmtree(tmp_path / "library")
    resumed = transfer(**changed)
    assert [source.id for source in resumed.retrieved] == [source.id for source in result.retrieved]
    start = load_prompt(tmp_path / "run" / "weighted_average-2" / "average-0.safetensors")
    shares = [max(source.similarity, 0) for source in resumed.retrieved]
    expected = sum(
        s * source.load().prompt for s, source in zip(shares, resumed.retrieved, strict=True)
    )
    np.testing.assert_allclose(start.prompt, expected / sum(shares), rtol=1e-5, atol=1e-6)
    assert resumed.notes[-1].startswith("weights: ")


def test_a_search_keeps_the_embedding_it_tuned(world, library, tmp_path, monkeypatch):
    asked = {
        "task": world.tasks[2],
        "backbone": world.backbone,
        "settings": EmbeddingSettings(seed=3),
        "output_dir": str(tmp_path),
        "progress": False,
    }
    result = search(str(library.directory), **asked)
    assert result.step == 1
    embedding = load_prompt(result.embedding)
    # Tuned as the library's prompts were.
    assert embedding.tuning["lengths"] == LENGTHS
    assert (embedding.tuning["batch_size"], embedding.tuning["dropout_rate"]) == (4, 0.0)
    others = {"backbone": embedding.backbone, "exclude": [world.tasks[2]]}
    expected = library.rank(embedding.prompt, **others)
    assert list(result.ranking) == list(expected)
    assert any("only 3 to rank, fewer than top_k = 5" in note for note in result.ranking.notes)
    monkeypatch.setattr(tuning_module, "train", None)
    again = search(str(library.directory), **asked)
    assert again.summary() == result.summary()
    # A source is no target of its own: what has seen it is left out.
    source = search(str(library.directory), embedding=str(result.embedding), task=world.tasks[0])
    assert world.tasks[0] not in {match.entry.task for match in source.ranking}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "best"}, "there is no transfer method 'best'"),
        ({"library": None}, "best_of_top_k needs a library of source prompts"),
        ({"top_k": 0}, "top_k is at least 1, found 0"),
        ({"top_k": 4}, "top_k is 4, but 3 prompts of .* can be transferred"),
        ({"metric": "cosine"}, "no metric 'cosine'"),
        ({"library": "/none"}, "no prompt library at /none"),
        ({"tuning": {"evaluation": EvaluationPlan(period=0)}}, "chooses by validation scores"),
        ({"tuning": {"prompts_at_once": 0}}, "prompts_at_once is 0; give a whole number from 1"),
        ({"tuning": {"checkpoints": CheckpointPlan()}}, "which need a step to be taken at"),
        ({"tuning": {"data": DataSource(["x", "y"], LENGTHS)}}, "a transfer has one target"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_tuned(
    options, match, world, library, tmp_path, monkeypatch
):
    monkeypatch.setattr(tuning_module, "train", None)
    arguments = {"library": str(library.directory), "tuning": make_tuning(world), **options}
    with pytest.raises(SpotError, match=match) as caught:
        if isinstance(arguments["tuning"], dict):
            arguments["tuning"] = dataclasses.replace(make_tuning(world), **arguments["tuning"])
        transfer(model_dir=str(tmp_path), progress=False, **arguments)
    assert "\n" not in str(caught.value)
