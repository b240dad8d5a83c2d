"""Drawing for real, without a network (the suite blocks sockets)."""

import re
import resource
import subprocess
import sys

import pytest
from synthetic_study import synthetic_study

from spot_jax.report import vega
from spot_jax.report.figures.heat_maps import transfer_map
from spot_jax.transfer.analysis import analyse


def test_a_figure_is_drawn_with_its_values():
    drawn = vega.svg(transfer_map(analyse(synthetic_study(2, 2, seeds=1, steps=2))))
    assert drawn.startswith("<svg")
    assert len(re.findall(r">[+−]\d+</text>", drawn)) == 4
    assert "relative error reduction" in drawn


@pytest.mark.slow
def test_the_papers_report_is_written_whole_in_half_a_minute(tmp_path):
    code = f"from spot_jax.report.published import write; write({str(tmp_path)!r})"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30
    text = (tmp_path / "index.html").read_text()
    assert "window.vegaEmbed=" in text
    assert text.count("</script>") == len(re.findall(r"<script[ >]", text))
    # What would make a browser load something; namespaces and the editor's address are text.
    assert not re.search(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=", text)
    for name in ("transfer", "embeddings_average_tokens", "similarity_average_tokens", "methods"):
        assert (tmp_path / "figures" / f"{name}.svg").read_text().startswith("<svg")
