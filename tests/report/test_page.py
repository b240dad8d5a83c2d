"""The page: every number it should show is in it, and nothing in it loads anything."""

import csv
import html
import json
import re

import numpy as np
import pytest
from synthetic_study import synthetic_study

from spot_jax.report import transfer, vega
from spot_jax.report.figures.heat_maps import transfer_map
from spot_jax.report.figures.theme import DIVERGING, SEQUENTIAL, is_dark
from spot_jax.report.labels import number, short_names
from spot_jax.report.tables import all_tables
from spot_jax.report.transfer import figures, page, write_report
from spot_jax.studies.transfer.analysis import CLIP, analyse
from spot_jax.studies.transfer.published import paper_results, printed
from spot_jax.studies.transfer.results import (
    BASELINES,
    EmbeddedPrompt,
    Embeddings,
    Score,
    TransferResults,
)

STUB = "window.vegaEmbed = () => Promise.resolve();"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The real script and drawing take seconds; test_vega.py has them."""
    monkeypatch.setattr(vega, "javascript", lambda: STUB)
    monkeypatch.setattr(vega, "svg", lambda specification: "<svg/>")


@pytest.fixture(scope="module")
def study_analysis():
    return analyse(synthetic_study(4, 3, seeds=2, steps=4))


@pytest.fixture(scope="module")
def drawn(study_analysis):
    return figures(study_analysis)


@pytest.fixture(scope="module")
def text(study_analysis, drawn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vega, "javascript", lambda: STUB)
        return page(study_analysis, drawn, all_tables(study_analysis, None))


def data_of(text: str, name: str) -> list[dict]:
    """The rows inside a figure of the page."""
    stored = re.search(rf'id="figure-{name}">(.*?)</script>', text, re.DOTALL)
    assert stored is not None, f"no figure {name}"
    groups: list[list[dict]] = []

    def collect(part):
        if isinstance(part, dict):
            values = (
                part.get("data", {}).get("values") if isinstance(part.get("data"), dict) else None
            )
            if values is not None and values not in groups:  # layers may repeat their data
                groups.append(values)
            collect(list(part.values()))
        elif isinstance(part, list):
            for value in part:
                collect(value)

    collect(json.loads(stored[1]))
    return [row for values in groups for row in values]


def cells_of(text: str, table: str) -> list[list[str]]:
    """The cells of a table of the page."""
    body = re.search(rf'id="table-{table}">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)[1]
    return [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]


def test_the_transfer_map_holds_every_pair(study_analysis, text):
    label = short_names((*study_analysis.results.sources, *study_analysis.results.targets))
    rows = {(r["source"], r["target"]): r for r in data_of(text, "transfer") if "source" in r}
    assert len(rows) == len(study_analysis.pairs)
    for pair in study_analysis.pairs:
        row = rows[label[pair.source], label[pair.target]]
        assert row["value"] == pytest.approx(max(-CLIP, min(CLIP, pair.relative)))
        assert row["text"] == number(pair.relative, 0, sign=True)
        assert row["relative"] == f"{number(pair.relative, sign=True)}%"


def test_the_map_of_embeddings_holds_every_pair_of_tasks(study_analysis, text):
    for metric, stored in study_analysis.embeddings.items():
        rows = {
            (r["one"], r["other"]): r for r in data_of(text, f"embeddings_{metric}") if "one" in r
        }
        label = short_names(stored.names)
        for i, first in enumerate(stored.names):
            for j, second in enumerate(stored.names):
                value = rows[label[first], label[second]]["value"]
                assert value == pytest.approx(stored.values[i, j], abs=1e-4)


def test_the_scatter_holds_every_point_with_r_and_p(study_analysis, text):
    for metric, rows in study_analysis.correlations.items():
        data = [r for r in data_of(text, f"similarity_{metric}") if r.get("mark") == "point"]
        points = [p for row in rows for p in row.points]
        assert [(r["similarity"], r["relative"]) for r in data] == [
            (p.similarity, p.relative) for p in points
        ]
        panels = " ".join({r["panel"] for r in data})
        for row in rows:
            assert f"r = {number(row.r, 2)}, p" in panels


def test_the_methods_are_in_the_figure_and_in_the_table(study_analysis, text):
    data = [r for r in data_of(text, "methods") if r.get("what") == "absolute"]
    rows = [row for row in study_analysis.methods if row.method not in (*BASELINES, "scratch")]
    assert [r["mean"] for r in data] == [row.absolute.mean for row in rows]
    assert [r["low"] for r in data] == [row.absolute.low for row in rows]
    shown = cells_of(text, "methods")
    assert len(shown) == len(study_analysis.methods)
    for cells, row in zip(shown, study_analysis.methods, strict=True):
        assert number(row.score.mean) in cells[-1]


def test_no_prompt_stands_beside_the_commonest_label(study_analysis, text):
    assert all("51.2" in cells for cells in cells_of(text, "targets"))
    names = [cells[0] for cells in cells_of(text, "methods")]
    assert names[:3] == ["commonest label", "no prompt", "from scratch"]


def test_the_curves_are_means_over_seeds(study_analysis, text):
    data = [r for r in data_of(text, "curves") if "validation" in r]
    target = study_analysis.results.targets[0]
    label = short_names((*study_analysis.results.sources, *study_analysis.results.targets))
    mine = [
        c for c in study_analysis.results.curves if c.target == target and c.method == "scratch"
    ]
    rows = [r for r in data if r["target"] == label[target] and r["kind"] == "from scratch"]
    assert [r["step"] for r in rows] == list(mine[0].steps)
    assert rows[-1]["validation"] == pytest.approx(sum(c.validation[-1] for c in mine) / len(mine))


def test_prompts_say_what_they_began_from(study_analysis, text):
    rows = cells_of(text, "prompts")
    assert len(rows) == len(study_analysis.results.prompts)
    first = short_names((*study_analysis.results.sources, *study_analysis.results.targets))[
        study_analysis.results.sources[0]
    ]
    assert any(f"{first} (seed 0, step 600)" in row for row in rows)
    assert any("its initialisation" in row for row in rows)
    assert "spot study --gin_file=gin_configs/studies/mini.gin" in text


def test_parts_of_a_weighted_average_are_told_from_ancestors():
    from spot_jax.report.tables import began_from

    parts = [
        {"task": "a", "seed": 0, "weight": 0.75},
        {"task": "b", "seed": 1, "weight": 0.25},
        {"task": "c", "step": 9},
    ]
    assert began_from([{"task": "", "step": 0}, *parts]) == (
        "a weighted average ← a (seed 0, weight 0.750) + b (seed 1, weight 0.250) ← c (step 9)"
    )


def test_nothing_is_loaded_and_nothing_may_be(text):
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|action|poster)\s*=\s*["']""", text)
    assert not re.search(r"@import|url\(|<link|<iframe|<img|fetch\(|XMLHttp", text)
    for address in re.findall(r'href="([^"]*)"', text):
        assert address.startswith("#") or "/" not in address.strip("/"), address
    assert "http://" not in text
    assert "https://" not in text


def test_missing_parts_are_sentences_not_empty_figures():
    bare = TransferResults(
        title="bare",
        sources=("a",),
        targets=("t",),
        scores=(
            Score("t", "scratch", 50.0, seed=0),
            Score("t", "transfer", 60.0, source="a", seed=0),
        ),
    )
    analysis = analyse(bare)
    drawn = figures(analysis)
    text = page(analysis, drawn, all_tables(analysis, None))
    assert set(drawn) == {"methods", "transfer"}
    for sentence in (
        "stores no similarities of all task embeddings",
        "no similarities of sources to targets",
        "does not say which tasks belong together",
        "No learning curves are stored",
        "No prompts are stored",
        "commands that made the study were not stored",
    ):
        assert sentence in text
    assert len(re.findall(r'class="plot"', text)) == 2


def test_a_study_that_has_only_begun_has_a_page(tmp_path):
    begun = TransferResults(
        title="begun",
        sources=("a",),
        targets=("t",),
        scores=(Score("t", "scratch", 50.0, seed=0),),
    )
    text = write_report(begun, tmp_path).read_text()
    assert "nothing to compare" in text
    assert 'class="plot"' not in text


def test_names_cannot_break_out_of_the_page():
    odd = '</script><b>"&'
    results = TransferResults(
        title=odd,
        sources=(odd,),
        targets=("t",),
        scores=(Score("t", "scratch", 50.0), Score("t", "transfer", 60.0, source=odd)),
        commands=(odd,),
    )
    analysis = analyse(results)
    text = page(analysis, figures(analysis), all_tables(analysis, None))
    assert "<b>" not in text
    assert text.count("</script>") == text.count("<script")
    assert {r["source"] for r in data_of(text, "transfer") if "source" in r} == {odd}


def test_the_files_beside_the_page_hold_the_same_numbers(study_analysis, tmp_path):
    write_report(study_analysis.results, tmp_path)
    stored = json.loads((tmp_path / "tables.json").read_text())
    tables = all_tables(study_analysis, None)
    assert set(stored) == set(tables)
    for name, table in tables.items():
        with (tmp_path / "tables" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(stored[name]) == len(table.rows)
        for from_csv, from_json in zip(rows, stored[name], strict=True):
            assert list(from_csv) == list(from_json)
            for key, value in from_json.items():
                assert from_csv[key] == ("" if value is None else str(value))
    first = stored["transfer"][0]
    assert first["relative_error_reduction"] == pytest.approx(study_analysis.pairs[0].relative)
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"methods", "transfer", "curves"} < drawn


def test_the_papers_page_has_its_own_numbers_and_the_printed_ones():
    analysis, theirs = analyse(paper_results()), printed()
    text = page(analysis, figures(analysis, theirs), all_tables(analysis, theirs), theirs)
    rows = cells_of(text, "printed_transfers")
    assert len(rows) == 30
    assert all(ours == printed_value for _, _, ours, printed_value in rows)
    assert ["best of top 1", "average tokens", "+11.0", "+11.7 (1.1)", "76.1", "76.2 (0.1)"] in (
        cells_of(text, "printed_methods")
    )
    marks = [r for r in data_of(text, "methods") if r.get("kind") == "printed in the paper"]
    assert {r["shown"] for r in marks} >= {"+1.5", "+6.0", "+26.5"}
    # What the paper did not print is not on its page, not even as an empty section.
    sections = set(re.findall(r'<section id="(\w+)"', text))
    assert not {"curves", "prompts"} & sections and 'class="absent"' not in text
    assert set(re.findall(r'<a href="#(\w+)"', text)) <= sections
    cell = next(
        r
        for r in data_of(text, "transfer")
        if (r.get("source"), r.get("target")) == ("ReCoRD", "CB")
    )
    assert (cell["value"], cell["text"], cell["relative"]) == (-CLIP, "−255", "−254.8%")


def test_wide_maps_print_signs():
    analysis = analyse(synthetic_study(2, 40, seeds=1, steps=1))
    rows = transfer_map(analysis)["data"]["values"]
    assert {row["text"] for row in rows} <= {"+", "−", ""}
    assert {row["text"] for row in rows} >= {"+", "−"}


def test_maps_of_too_many_runs_are_left_to_the_tables(monkeypatch):
    names = tuple(EmbeddedPrompt("a", seed) for seed in range(3))
    runs = Embeddings(names, average_tokens=tuple(map(tuple, np.eye(3).tolist())))
    analysis = analyse(
        TransferResults(title="many", sources=("a",), targets=(), scores=(), embeddings=runs)
    )
    assert "embedding_runs_average_tokens" in figures(analysis)
    monkeypatch.setattr(transfer, "MOST_RUNS", 2)
    drawn = figures(analysis)
    assert "embedding_runs_average_tokens" not in drawn
    text = page(analysis, drawn, all_tables(analysis, None))
    assert "is left out; its numbers are in tables/embeddings_runs_average_tokens.csv" in text


def test_gains_and_losses_differ_in_grey():
    def grey(colour):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    loss, gain = grey(DIVERGING[0]), grey(DIVERGING[-1])
    assert gain - loss > 50
    assert is_dark(DIVERGING, 0)
    assert not is_dark(DIVERGING, 1)
    shades = [grey(colour) for colour in SEQUENTIAL]
    assert shades == sorted(shades, reverse=True)


@pytest.mark.parametrize(
    ("value", "digits", "sign", "expected"),
    [
        (-254.79, 1, True, "−254.8"),
        (0.04, 1, True, "0.0"),
        (-0.04, 1, False, "0.0"),
        (3, 0, True, "+3"),
        (float("nan"), 1, False, "–"),
        (None, 1, False, "–"),
    ],
)
def test_numbers(value, digits, sign, expected):
    assert number(value, digits, sign=sign) == expected


def test_names_lose_the_beginning_that_all_share():
    assert short_names(["bundled_a", "bundled_b_16shot"]) == {
        "bundled_a": "a",
        "bundled_b_16shot": "b_16shot",
    }
    assert short_names(["bundled_a"]) == {"bundled_a": "bundled_a"}
    assert short_names(["sst2", "sst5"]) == {"sst2": "sst2", "sst5": "sst5"}
