"""The table of methods: what its summary says, by hand, and that a cell is what a run came to."""

import dataclasses
import math

import numpy as np
import pytest

from bench.methods import __main__ as command
from bench.methods import models, others, page, prompts, summary, ways
from bench.methods.baselines import majority
from bench.methods.others import LENGTH, template
from bench.methods.prompts import Candidate
from bench.methods.results import Cell, Results
from bench.methods.tasks import MOST_RANKED, TASKS, Bench, texts
from spot_jax.data.templates import parse
from spot_jax.errors import SpotError
from spot_jax.methods.prompt_file import PromptFile, load_prompt
from spot_jax.t5.stored import read_description
from spot_jax.training.config import PromptTuningRecipe
from tasks.bundled import reading

ONE, TWO, UNSEEN = "banking77", "sms_spam", "gap_coref"
BY_HAND = {
    (ONE, "majority"): (10.0,),
    (TWO, "majority"): (50.0,),
    (ONE, "svm"): (80.0,),
    (TWO, "svm"): (90.0,),
    (ONE, "model_tuning"): (70.0, 72.0),
    (TWO, "model_tuning"): (90.0, 88.0),
    (ONE, "prompt_tuning"): (40.0, 50.0),
    (TWO, "prompt_tuning"): (60.0, 60.0),
    (ONE, "spot"): (44.0, 52.0),
    (TWO, "spot"): (60.0, 64.0),
    (UNSEEN, "prompt_tuning"): (51.0, 50.0),
}


@pytest.fixture
def results(tmp_path):
    made = Results(tmp_path / "methods.json")
    made.about = {"seeds": [0, 1], "test": 1000, "validation": 300}
    for (task, method), accuracies in BY_HAND.items():
        made.cells[task, method] = Cell(task, method, accuracies, 100, 7, 2.5, {"rate": 0.3})
    return made


def test_means_are_over_tasks_and_their_deviation_over_seeds(results):
    mean, sd = summary.mean(results, "model_tuning", [ONE, TWO])
    # Seed by seed 80 and 80.
    assert (mean, sd) == (80.0, 0.0)
    mean, sd = summary.mean(results, "prompt_tuning", [ONE, TWO])
    assert mean == 52.5 and sd == pytest.approx(math.sqrt(12.5))
    assert summary.mean(results, "majority", [ONE, TWO])[0] == 30.0
    assert summary.mean(results, "svm", [ONE, UNSEEN]) is None


def test_the_share_of_the_distance_is_of_the_means(results):
    assert summary.closed(results, [ONE, TWO]) == pytest.approx((52.5 - 30) / (80 - 30))
    assert summary.closed(results, [ONE]) == pytest.approx((45 - 10) / (71 - 10))
    assert summary.closed(results, [UNSEEN]) is None
    results.cells[TWO, "model_tuning"] = dataclasses.replace(
        results.cells[TWO, "model_tuning"], accuracies=(50.0, 50.0)
    )
    assert math.isnan(summary.closed(results, [TWO]))


def test_a_change_is_by_seed_with_an_interval_around_it(results):
    found = summary.change(results, "spot", "prompt_tuning", [ONE, TWO])
    assert found.mean == pytest.approx((4 + 2 + 0 + 4) / 4)
    assert found.low <= found.mean <= found.high
    assert summary.change(results, "spot", "prompt_tuning", [UNSEEN]) is None


def test_results_come_back_and_the_page_holds_them(results, tmp_path):
    results.save()
    again = Results(results.path)
    assert again.cells == results.cells
    text = page.render(again)
    assert "Model tuning has 80.0 on the mean of the 2 seen sets, the SVM 85.0: -5.0 points" in text
    assert "closes 45% of the distance" in text and "banking77 57%, sms spam 26%" in text
    assert "at equal steps, over the seen sets: +2.5 points" in text
    assert "| prompt tuning | 45.0 ± 7.1 | 60.0 ± 0.0 | 52.5 ± 3.5 |" in text
    assert "| prompt tuning | 50.5 ± 0.7 | 50.5 ± 0.7 |" in text
    assert "| P-Tuning |" not in text


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(
    results, tmp_path, monkeypatch, capsys
):
    shared = {"test": Bench.test, "validation": Bench.validation}
    results.about = {"seeds": list(Bench.seeds), **shared}
    results.save()
    done = []

    def cell(bench, task, results):
        done.append(task.name)
        return Cell(task.name, "majority", (1.0,), 5)

    method = dataclasses.replace(ways.METHODS["majority"], cell=cell)
    monkeypatch.setitem(ways.METHODS, "majority", method)
    arguments = [
        *("--methods", "majority", "--tasks", ONE, UNSEEN, "--output", str(results.path)),
        *("--page", str(tmp_path / "page.md"), "--directory", str(tmp_path / "runs")),
    ]
    assert command.main(arguments) == 0
    assert done == [UNSEEN]
    assert "gap coref" in (tmp_path / "page.md").read_text()
    stored = Results(results.path)
    assert stored.get(UNSEEN, "majority").mean == 1.0
    stored.about["test"] = 7
    stored.save()
    assert command.main(arguments) == 2
    assert f"has test 7, this is {Bench.test}" in capsys.readouterr().err


def test_a_method_comes_after_what_it_begins_from():
    assert [task for task, _ in ways.order(["ist_5"], [UNSEEN])[:-1]] == [
        name for name, task in TASKS.items() if task.seen
    ]
    found = ways.order(["spot"], [ONE])
    assert found[-1] == (ONE, "spot")
    assert set(found[:-1]) == {(ONE, "prompt_tuning"), (TASKS[ONE].source, "prompt_tuning")}
    with pytest.raises(SpotError, match="prompt_tuning on banking77 is not done"):
        ways.METHODS["spot"].cell(Bench(None), TASKS[ONE], Results(TASKS_FILE))


TASKS_FILE = page.Path("/nowhere/methods.json")


@pytest.mark.parametrize("name", TASKS)
def test_templates_have_every_field_and_one_number_of_places(name):
    parsed = parse(template(name))
    assert parsed.length == LENGTH
    for field in reading.find(name).fields:
        assert field in template(name)


def test_tasks_are_the_bundled_ones_and_their_sources_differ():
    assert sum(task.seen for task in TASKS.values()) == 8
    for task in TASKS.values():
        assert task.source in TASKS and task.source != task.name
        assert TASKS[task.source].seen
        assert (task.decoding == "rank") == (len(task.labels) <= MOST_RANKED)


def test_the_commonest_label_is_of_the_training_split(tmp_path):
    found = majority(Bench(tmp_path, test=100), TASKS["sms_spam"])
    assert found.chosen == {"label": "ham"} and found.examples == 100
    assert found.accuracies[0] == texts("sms_spam", "test")[1][:100].count("ham")


@pytest.mark.slow
def test_cells_are_what_runs_come_to(tmp_path):
    bench = Bench(tmp_path, seeds=(0, 1), validation=20, test=20, evaluation_rows=20)
    task = dataclasses.replace(TASKS["wordnet_hypernym"], inputs=16)
    two = {f"P = {length}": Candidate(PromptTuningRecipe(length), length) for length in (2, 3)}
    way = prompts.Way(two, (0.1, 0.3), 4, 8, evaluations=2)
    cell = prompts.tuned(bench, task, "prompt_tuning", way)
    assert len(cell.tried) == 4 and len(cell.accuracies) == len(cell.files) == 2
    best = max(one["validation"] for one in cell.tried)
    assert [one for one in cell.tried if one["validation"] == best][0]["rate"] == cell.chosen[
        "rate"
    ]
    length = int(cell.chosen["recipe"].split()[-1])
    for file in cell.files:
        assert load_prompt(tmp_path / file).prompt.shape == (length, 128)
    assert cell.trainable == length * 128 and cell.seconds > 0
    # Done again it says the same, the time of its updates included.
    again = prompts.tuned(bench, task, "prompt_tuning", way)
    assert dataclasses.replace(again, whole_seconds=0) == dataclasses.replace(cell, whole_seconds=0)
    tuning = models.Tuning(steps=3, examples=8)
    found = models.model_tuning(bench, task, tuning)
    assert len(found.accuracies) == 2
    assert [one["dropout"] for one in found.tried] == [0.0, 0.1]
    assert found.trainable > 3_000_000
    assert not prompts.place(bench, task, "model_tuning", "").exists()


@pytest.mark.slow
def test_every_other_method_comes_to_a_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(others, "STEPS", 2)
    monkeypatch.setattr(others, "PREFIX_STEPS", 2)
    monkeypatch.setattr(others, "FINDING", 2)
    monkeypatch.setattr(others, "Y_STEPS", 5)
    bench = Bench(tmp_path, seeds=(0, 1), validation=10, test=10, evaluation_rows=10)
    task = dataclasses.replace(TASKS["wordnet_hypernym"], inputs=24)
    results = Results(tmp_path / "methods.json")
    rng = np.random.default_rng(0)
    mark = read_description(bench.backbone).fingerprint
    for name, one in TASKS.items():
        prompt = rng.normal(size=(others.LENGTH, 128)).astype(np.float32)
        file = PromptFile(prompt, {"name": "PromptTuning"}, mark, task=one.task, tasks=(one.task,))
        file.save(tmp_path / f"{name}.safetensors")
        tried = ({"recipe": others.PROMPTS, "validation": 1.0, "file": f"{name}.safetensors"},)
        results.cells[name, "prompt_tuning"] = Cell(name, "prompt_tuning", (1.0,), 9, tried=tried)
    for method, trainable in (
        ("p_tuning", {234_240, 2_560}),
        ("prefix", {30_720}),
        ("ist_5", {5}),
        ("y_tuning", {197_504}),
    ):
        cell = ways.METHODS[method].cell(bench, task, results)
        assert (cell.method, len(cell.accuracies)) == (method, 2)
        assert cell.trainable in trainable
