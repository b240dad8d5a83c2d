"""The table of methods: what its summary says, by hand, and that a cell is what a run came to."""

import dataclasses
import json
import math

import numpy as np
import pytest

from bench.methods import __main__ as command
from bench.methods import ablations, models, others, page, prompts, summary, ways
from bench.methods.baselines import majority, no_prompt
from bench.methods.others import FOUND_FROM, template
from bench.methods.prompts import Candidate
from bench.methods.results import Cell, MethodResults
from bench.methods.study import MethodStudy
from bench.methods.tasks import DECODING, SETTINGS_FROM, TASKS, Bench, texts
from spot_jax.data.templates import parse
from spot_jax.errors import SpotError
from spot_jax.inference.scores import score
from spot_jax.inference.tuned import open_tuned
from spot_jax.methods.ia3 import IA3Tuning
from spot_jax.methods.lora import LoRATuning
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.y_tuning import YTuning
from spot_jax.t5.stored import read_description
from tasks.bundled import reading

ONE, TWO, UNSEEN = "banking77", "sms_spam", "gap_coref"
BY_HAND = {
    (ONE, "majority"): (10.0,),
    (TWO, "majority"): (50.0,),
    (ONE, "no_prompt"): (15.0,),
    (TWO, "no_prompt"): (41.0,),
    (ONE, "svm"): (80.0,),
    (TWO, "svm"): (90.0,),
    (ONE, "model_tuning"): (70.0, 72.0),
    (TWO, "model_tuning"): (90.0, 88.0),
    (ONE, "prompt_tuning"): (40.0, 50.0),
    (TWO, "prompt_tuning"): (60.0, 60.0),
    (ONE, "spot"): (44.0, 52.0),
    (TWO, "spot"): (60.0, 64.0),
}


def by_hand(**changes):
    values = {**BY_HAND, **changes.pop("values", {})}
    cells = [
        Cell(task, method, accuracies, 100, 7, 2.5, {"rate": 0.3})
        for (task, method), accuracies in values.items()
    ]
    settings = {"test": 1000, "validation": 300}
    return MethodResults(cells=tuple(cells), seeds=(0, 1), settings=settings, **changes)


@pytest.fixture
def results():
    return by_hand()


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
    low = by_hand(values={(TWO, "model_tuning"): (50.0, 50.0)})
    assert math.isnan(summary.closed(low, [TWO]))


def test_a_change_is_by_seed_with_an_interval_around_it(results):
    change = summary.change(results, "spot", "prompt_tuning", [ONE, TWO])
    assert change.mean == pytest.approx((4 + 2 + 0 + 4) / 4)
    assert change.low <= change.mean <= change.high
    assert summary.change(results, "spot", "prompt_tuning", [UNSEEN]) is None


def test_results_come_back_and_the_page_holds_them(results, tmp_path):
    again = MethodResults.read(results.write(tmp_path / "methods.json"))
    assert again == results
    text = page.render(again)
    assert (
        "Without a prompt the mean of the 2 sets is 28.0, with the commonest label 30.0: -2.0"
        in (text)
    )
    assert "Model tuning has 80.0 on the mean of the 2 sets, the SVM 85.0: -5.0 points" in text
    assert "closes 45% of the distance" in text and "banking77 57%, sms spam 26%" in text
    assert "at least 30% on 1 of 2 sets" in text
    assert "Against no prompt, over all sets unless" in text and "; prompt tuning +24.5 (" in text
    assert "(SPoT) +2.5 (" in text
    assert "| prompt tuning | 45.0 ± 7.1 | 60.0 ± 0.0 | 52.5 ± 3.5 |" in text
    assert "| no prompt | 15.0 | 41.0 | 28.0 |" in text
    assert "| P-Tuning |" not in text


def test_jobs_are_done_once_and_never_under_other_settings(tmp_path, monkeypatch, capsys):
    done = []

    def cell(bench, task, results):
        done.append(task.name)
        return Cell(task.name, "majority", (1.0,), 5)

    method = dataclasses.replace(ways.METHODS["majority"], cell=cell)
    monkeypatch.setitem(ways.METHODS, "majority", method)
    arguments = [
        *("--methods", "majority", "--tasks", ONE, UNSEEN),
        *("--output", str(tmp_path / "methods.json"), "--page", str(tmp_path / "page.md")),
        *("--directory", str(tmp_path / "runs")),
    ]
    assert command.main([*arguments[:2], "--tasks", ONE, *arguments[5:]]) == 0
    assert command.main(arguments) == 0
    assert done == [ONE, UNSEEN]
    assert "gap coref" in (tmp_path / "page.md").read_text()
    stored = MethodResults.read(tmp_path / "methods.json")
    assert stored.get(UNSEEN, "majority").mean == 1.0 and stored.majority == {ONE: 1.0, UNSEEN: 1.0}
    capsys.readouterr()
    assert command.main([*arguments, "--test", "7"]) == 2
    assert f"with test = {Bench.test}, this one has 7" in capsys.readouterr().err
    (tmp_path / "runs" / "study.json").unlink()
    assert command.main([*arguments, "--seeds", "5"]) == 2
    assert "with seeds = [0, 1, 2], this one has [5]" in capsys.readouterr().err
    assert len(done) == 2


def test_what_a_file_of_results_has_is_not_done_again(tmp_path, monkeypatch, capsys):
    """Elsewhere, where the study's directory is not: of its prompts some are needed."""
    done = []

    def counted(method):
        def cell(bench, task, results):
            done.append((task.name, method))
            return Cell(task.name, method, (1.0,) * (3 if ways.METHODS[method].seeded else 1), 5)

        changed = dataclasses.replace(ways.METHODS[method], cell=cell)
        monkeypatch.setitem(ways.METHODS, method, changed)

    for method in ("majority", "prompt_tuning", "lora", "spot"):
        counted(method)
    output = ["--output", str(tmp_path / "methods.json"), "--page", str(tmp_path / "page.md")]

    def run(directory, *methods, **options):
        done.clear()
        options = [f"--{name}={value}" for name, value in options.items()]
        words = [*("--methods", *methods), *("--tasks", SETTINGS_FROM), *output, *options]
        assert command.main([*words, "--directory", str(tmp_path / directory)]) == 0
        return list(done)

    assert len(run("first", "majority", "prompt_tuning")) == 2
    first = MethodResults.read(tmp_path / "methods.json")
    # Another directory: only what is new is done, and the file keeps what it had.
    assert run("second", "majority", "prompt_tuning", "lora") == [(SETTINGS_FROM, "lora")]
    second = MethodResults.read(tmp_path / "methods.json")
    assert all(cell in second.cells for cell in first.cells) and len(second.cells) == 3
    # SPoT begins from prompts, which are tuned again.
    assert (SETTINGS_FROM, "prompt_tuning") in run("third", "spot")
    # Results of other settings are none of this study's.
    assert len(run("fourth", "majority", "lora", test=7)) == 2


def test_sets_that_a_method_lacks_are_in_no_mean_and_no_change(results):
    fewer = [c for c in results.cells if (c.task, c.method) != (TWO, "spot")]
    text = page.render(dataclasses.replace(results, cells=tuple(fewer)))
    assert "| mean of 2 | mean of the 1 of all rows |" in text
    assert "| 48.0 ± 5.7 |  |  | 48.0 ± 5.7 |" in text
    assert "prompt tuning +24.5 (" in text
    fewer = [c for c in results.cells if (c.task, c.method) != (TWO, "prompt_tuning")]
    text = page.render(dataclasses.replace(results, cells=tuple(fewer)))
    assert "prompt tuning, on 1 +30.0" in text


def test_a_method_comes_after_what_it_begins_from():
    order = ways.order(["ist_5"], [UNSEEN])
    assert {task for task, _ in order[:-1]} == set(FOUND_FROM) and order[-1] == (UNSEEN, "ist_5")
    order = ways.order(["spot"], [ONE])
    assert order[-1] == (ONE, "spot")
    needed = (SETTINGS_FROM, ONE, TASKS[ONE].source)
    assert set(order[:-1]) == {(task, "prompt_tuning") for task in needed}
    assert order[0] == (SETTINGS_FROM, "prompt_tuning")
    with pytest.raises(SpotError, match="prompt_tuning on banking77 is not done"):
        ways.METHODS["spot"].cell(Bench(None), TASKS[ONE], MethodResults())


def test_settings_are_those_that_were_best_on_one_set(tmp_path, monkeypatch):
    runs = []

    class Stop(Exception):
        pass

    def run(bench, task, directory, way, candidate, *, rates, seeds):
        runs.append((task.name, candidate.method, rates, seeds))
        raise Stop

    monkeypatch.setattr(prompts, "run", run)
    chosen = {"recipe": "r = 8", "rate": 0.03}
    results = MethodResults(cells=(Cell(SETTINGS_FROM, "lora", (1.0,), 9, chosen=chosen),))
    with pytest.raises(Stop):
        others.lora(Bench(tmp_path), TASKS[ONE], results)
    assert runs == [(ONE, LoRATuning(8, 16.0), 0.03, [0, 1, 2])]
    with pytest.raises(SpotError, match=f"ia3 on {SETTINGS_FROM} is not done"):
        others.ia3(Bench(tmp_path), TASKS[ONE], results)
    with pytest.raises(Stop):
        others.ia3(Bench(tmp_path), TASKS[SETTINGS_FROM], results)
    assert runs[1] == (SETTINGS_FROM, IA3Tuning(), [0.01, 0.03, 0.1], 0)


def test_jobs_need_what_they_begin_from(tmp_path):
    study = MethodStudy(Bench(tmp_path), look=True)
    spot = study.job(f"spot-{ONE}")
    assert spot.needs == (f"prompt_tuning-{ONE}", f"prompt_tuning-{TASKS[ONE].source}")
    assert [part.seed for part in spot.parts] == [0, 1, 2]
    assert [part.seed for part in study.job(f"no_prompt-{ONE}").parts] == [None]
    assert len(study.jobs) == len(TASKS) * len(ways.METHODS)
    order = [job.name for job in study.jobs]
    assert all(order.index(n) < order.index(j.name) for j in study.jobs for n in j.needs)


@pytest.mark.parametrize("name", TASKS)
def test_templates_have_every_field_and_one_number_of_places(name):
    for length in (5, 20):
        assert parse(template(name, length)).length == length
        for field in reading.find(name).fields:
            assert field in template(name, length)


def test_tasks_are_the_bundled_ones_and_their_sources_differ():
    for task in TASKS.values():
        assert task.source in TASKS and task.source != task.name


def test_the_commonest_label_is_of_the_training_split(tmp_path):
    cell = majority(Bench(tmp_path, test=100), TASKS["sms_spam"])
    assert cell.chosen == {"label": "ham"} and cell.examples == 100
    assert cell.accuracies[0] == texts("sms_spam", "test")[1][:100].count("ham")


def test_no_prompt_is_the_bare_backbone_by_the_evaluator(tmp_path):
    bench = Bench(tmp_path, test=20, evaluation_rows=20)
    task = dataclasses.replace(TASKS["wordnet_hypernym"], inputs=16)
    cell = no_prompt(bench, task)
    tuned = open_tuned(backbone=bench.backbone)
    (by_hand,) = score(
        tuned,
        tasks=[task.task],
        decoding=DECODING,
        batch_size=10,
        lengths={"inputs": 16, "targets": task.targets},
        examples=20,
    )
    assert by_hand.prompt == "no prompt" and cell.accuracies == (by_hand.metrics["accuracy"],)
    assert (cell.method, cell.examples, cell.trainable) == ("no_prompt", 20, 0)


@pytest.mark.slow
def test_cells_are_what_runs_come_to(tmp_path):
    bench = Bench(tmp_path, seeds=(0, 1), validation=20, test=20, evaluation_rows=20)
    task = dataclasses.replace(TASKS["wordnet_hypernym"], inputs=16)
    two = {f"P = {length}": Candidate(PromptTuning(length), length) for length in (2, 3)}
    way = prompts.Way(two, (0.1, 0.3), 4, 8, evaluations=2)
    cell = prompts.tuned(bench, task, "prompt_tuning", way)
    assert len(cell.tried) == 4 and len(cell.accuracies) == len(cell.files) == 2
    best = max(trial["validation"] for trial in cell.tried)
    assert [trial for trial in cell.tried if trial["validation"] == best][0]["rate"] == cell.chosen[
        "rate"
    ]
    length = int(cell.chosen["recipe"].split()[-1])
    width = read_description(bench.backbone).config.emb_dim
    for file in cell.files:
        assert load_prompt(tmp_path / file).prompt.shape == (length, width)
    assert cell.trainable == length * width and cell.seconds > 0
    # Done again it says the same, the time of its updates included.
    again = prompts.tuned(bench, task, "prompt_tuning", way)
    assert dataclasses.replace(again, whole_seconds=0) == dataclasses.replace(cell, whole_seconds=0)
    tuning = models.Tuning(dropout_rates=(0.0, 0.1), steps=3, examples=8)
    model_cell = models.model_tuning(bench, task, tuning)
    assert len(model_cell.accuracies) == 2
    assert [trial["dropout"] for trial in model_cell.tried] == [0.0, 0.1]
    assert model_cell.trainable > 1_000_000
    assert not prompts.place(bench, task, "model_tuning", "").exists()


@pytest.fixture(scope="module")
def ablation_runs(tmp_path_factory):
    """A directory that the ablations share: their features are computed once."""
    return tmp_path_factory.mktemp("ablations")


@pytest.mark.slow
@pytest.mark.parametrize("name", ablations.TABLES)
def test_an_ablation_is_one_command_and_one_record(name, ablation_runs, tmp_path, capsys):
    output, values = tmp_path / f"{name}.json", list(ablations.TABLES[name])
    command = [name, "--tasks", "vader_movie", "--seeds", "0", "--steps", "3", "--test", "20"]
    ablations.main([*command, "--directory", str(ablation_runs), "--output", str(output)])
    record = json.loads(output.read_text())
    assert [r["value"] for r in record["results"]] == values
    assert all(len(r["accuracies"]) == 1 for r in record["results"])
    lines = capsys.readouterr().out.splitlines()[-len(values) :]
    assert [line.split()[0] for line in lines] == [str(value) for value in values]
    trained = [r["trained"] for r in record["results"]]
    # Vectors, layers and the mix's weights are trained numbers; a loss or a beginning is none.
    assert (len(set(trained)) == 1) == (name in ("loss", "init"))
    fields = {f.name for f in dataclasses.fields(YTuning)}
    assert set(ablations.TABLES) <= fields


def test_y_tuning_is_tried_by_both_losses_with_several_vectors(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(others, "tuned", lambda *arguments: seen.append(arguments[3]))
    for loss in ("triplet", "cross_entropy"):
        ways.METHODS[f"y_tuning_{loss}"].cell(Bench(tmp_path), TASKS["clinc150"], None)
    candidates = [c for way in seen for c in way.candidates.values()]
    grid = {(c.method.loss, c.method.per_label) for c in candidates}
    assert grid == {(loss, count) for loss in ("triplet", "cross_entropy") for count in (1, 4)}


@pytest.mark.slow
def test_every_other_method_comes_to_a_cell(tmp_path):
    steps = {"steps": 2, "prefix_steps": 2, "finding_steps": 2, "y_steps": 5}
    bench = Bench(tmp_path, seeds=(0, 1), validation=10, test=10, evaluation_rows=10, **steps)
    task = dataclasses.replace(TASKS[SETTINGS_FROM], inputs=24)
    rng, cells = np.random.default_rng(0), []
    described = read_description(bench.backbone)
    mark, width = described.fingerprint, described.config.emb_dim
    for name, bench_task in TASKS.items():
        prompt = rng.normal(size=(bench.length, width)).astype(np.float32)
        file = PromptFile(
            prompt, {"name": "PromptTuning"}, mark, task=bench_task.task, tasks=(bench_task.task,)
        )
        file.save(tmp_path / f"{name}.safetensors")
        tried = (
            {"recipe": f"P = {bench.length}", "validation": 1.0, "file": f"{name}.safetensors"},
        )
        cells.append(Cell(name, "prompt_tuning", (1.0,), 9, tried=tried))
    results = MethodResults(cells=tuple(cells))
    for method, most in (
        ("p_tuning", 100 * bench.length * width),
        ("prefix", 100 * bench.length * width),
        ("ist_5", 5),
        ("lora", 100 * bench.length * width),
        ("y_tuning_triplet", 20 * width * width),
    ):
        cell = ways.METHODS[method].cell(bench, task, results)
        assert (cell.method, len(cell.accuracies)) == (method, 2)
        assert 0 < cell.trainable <= most
