"""`spot report`, and what it says of directories that hold no study."""

import pytest

from spot_jax.cli.main import main
from spot_jax.report import vega
from spot_jax.studies.transfer.results import Score, TransferResults


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(vega, "javascript", lambda: "")
    monkeypatch.setattr(vega, "svg", lambda specification: "<svg/>")


def test_it_writes_beside_the_results_and_names_the_page(tmp_path, capsys):
    scores = [Score("t", "scratch", 50.0, seed=0), Score("t", "transfer", 60.0, source="a")]
    TransferResults(title="small", sources=("a",), targets=("t",), scores=tuple(scores)).write(
        tmp_path
    )
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    assert "1 source" in (tmp_path / "index.html").read_text()
    assert main(["report", str(tmp_path), "--output_dir", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere" / "tables" / "methods.csv").exists()


@pytest.mark.parametrize("text", [None, "", '{"format": 1, "ti', "[]", '{"a": 1}'])
def test_what_is_not_a_study_is_one_line_and_exit_2(text, tmp_path, capsys):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path) in said
    assert not (tmp_path / "index.html").exists()
