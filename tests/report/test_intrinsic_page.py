"""The page of a study of subspaces: its numbers are in it, and nothing in it loads anything."""

import csv
import json
import re

import pytest
from intrinsic_cases import PROMPTS, results, scores

from spot_jax.cli.main import main
from spot_jax.report import subspace, vega
from spot_jax.report.figures.relative import over_dimension, over_tasks
from spot_jax.studies.subspace.analysis import ALL, Group, relative_rows
from spot_jax.studies.subspace.jobs import TEST_IST, TEST_SECOND
from spot_jax.studies.subspace.results import PROMPT_TUNING, Score, VectorSimilarity


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(vega, "javascript", lambda: "window.vegaEmbed = () => Promise.resolve();")
    monkeypatch.setattr(vega, "svg", lambda specification: "<svg/>")


def points(figure):
    kept: list[dict] = []

    def collect(part):
        if isinstance(part, dict):
            data = part.get("data")
            values = data.get("values", []) if isinstance(data, dict) else []
            kept.extend(value for value in values if value not in kept)  # layers repeat data
            for value in part.values():
                collect(value)
        elif isinstance(part, list):
            for value in part:
                collect(value)

    collect(figure)
    return kept


def test_the_page_and_its_tables_hold_every_number(tmp_path, capsys):
    study = results()
    study.write(tmp_path)
    assert main(["intrinsic", "report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert "Subspaces &lt;of&gt; nothing" in text
    assert "a random one, in points of the score, +0.5 (0.7) with d = 1," in text
    assert set(re.findall(r'id="figure-(\w+)"', text)) == {"dimension", "tasks", "scores"}
    assert not re.findall(r"""(?:src|href)=["'](?!#|tables|figures)""", text)
    with (tmp_path / "tables" / "relative.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {(row.group, row.against): row for row in relative_rows(study)}
    assert len(rows) == len({group for group, _ in expected})
    (row,) = [
        r
        for r in rows
        if (r["setting"], r["category"], r["subspace"]) == (TEST_IST, ALL, "found")
        and (r["dimension"], r["training_tasks"]) == ("5", "2")
    ]
    value = expected[Group(TEST_IST, ALL, dimension=5, tasks=2), PROMPT_TUNING]
    assert float(row["prompt_tuning"]) == pytest.approx(100 * value.mean, abs=1e-5)
    assert float(row["prompt_tuning_sd"]) == pytest.approx(100 * value.sd, abs=1e-5)
    tables = json.loads((tmp_path / "tables.json").read_text())
    assert set(tables) == {"relative", "scores", "trained"} and len(tables["scores"]) == 6


def test_the_curves_are_over_dimension_and_over_tasks():
    rows = relative_rows(results())
    held_out = [
        p
        for p in points(over_dimension(rows))
        if p.get("line") == "held-out tasks (IST)" and p["against"] == PROMPT_TUNING
    ]
    assert [p["d"] for p in held_out] == [1, 5, 50]
    value = next(r for r in rows if r.group == Group(TEST_IST, ALL, dimension=50, tasks=2))
    assert held_out[2]["mean"] == pytest.approx(100 * value.mean)
    by_number = {p["n"]: p["mean"] for p in points(over_tasks(rows)) if "IST" in p.get("line", "")}
    assert set(by_number) == {1, 2} and by_number[1] == pytest.approx(by_number[2] / 2)


def test_no_prompt_and_its_gain_are_in_the_tables(tmp_path):
    bare = dict.fromkeys(PROMPTS, 20.0)
    study = results(no_prompt=bare)
    text = subspace.write_report(study, tmp_path).read_text()
    assert (
        "Of prompt tuning’s gain over no prompt that is" in text and "no prompt alone has" in text
    )
    with (tmp_path / "tables" / "relative.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {(row.group, row.against): row for row in relative_rows(study)}
    value = expected[Group(TEST_IST, ALL, dimension=50, tasks=2), PROMPT_TUNING]
    (row,) = [
        r
        for r in rows
        if (r["setting"], r["category"], r["subspace"]) == (TEST_IST, ALL, "found")
        and (r["dimension"], r["training_tasks"]) == ("50", "2")
    ]
    assert float(row["prompt_tuning_gain"]) == pytest.approx(100 * value.gain, abs=1e-5)
    # By hand: held-out prompts have 40 and 60, and 0.8 x 50/51 of that and the seed in a subspace.
    by_seed = [(0.8 * 50 / 51 * 100 + 2 * seed - 40) / (100 - 40) for seed in (0, 1)]
    assert value.gain == pytest.approx(sum(by_seed) / 2)
    with (tmp_path / "tables" / "scores.csv").open() as file:
        assert {row["no_prompt"] for row in csv.DictReader(file)} == {"20.0"}


def test_stability_and_vectors_are_tables(tmp_path):
    """Prompts from the subspace on beside those from scratch, and how alike vectors are."""
    second = [
        Score(TEST_SECOND, "t_c", "like", test, 5, tasks=2, seed=seed)
        for seed, test in enumerate((50.0, 52.0))
    ]
    vectors = {"5": VectorSimilarity(("t_c", "t_d"), ((1.0, -0.25), (-0.25, 1.0)))}
    study = results(scores=(*scores(), *second), vectors=vectors)
    text = subspace.write_report(study, tmp_path).read_text()
    with (tmp_path / "tables" / "stability.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["task"], float(row["prompt_tuning"]), float(row["d5"])) == ("t_c", 40.0, 51.0)
    assert float(row["prompt_tuning_sd"]) == 0.0
    assert float(row["d5_sd"]) == pytest.approx(2**0.5)
    with (tmp_path / "tables" / "vectors.csv").open() as file:
        (pair,) = csv.DictReader(file)
    assert {pair["first"], pair["second"]} == {"c", "d"} and float(pair["cosine"]) == -0.25
    assert "From the subspace on" in text and "cosine of their vectors" in text


def test_half_a_study_has_a_page(tmp_path):
    text = subspace.write_report(results(scores=(), references=()), tmp_path).read_text()
    body = text.split("</main>")[0]
    assert "Nothing has been tuned in a subspace yet" in body and "plot-" not in body
    only = results(scores=tuple(s for s in results().scores if s.draw < 0))
    assert (
        "No subspace has been found from a part"
        in subspace.write_report(only, tmp_path).read_text()
    )
