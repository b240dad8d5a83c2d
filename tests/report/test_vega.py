"""Drawing for real, without a network (the suite blocks sockets)."""

import re
import resource
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from synthetic_study import synthetic_study

from spot_jax.report import vega
from spot_jax.report.figures.heat_maps import transfer_map
from spot_jax.studies.transfer.analysis import analyse


class Page(HTMLParser):
    """The page as a browser takes it: what is inside scripts is no element."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag != "meta":
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "srcset", "poster", "action", "data") or tag in ("link", "base"):
                self.loads.append((tag, name, value))
            elif name == "href":
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


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
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert "tables.json" in page.links
    assert not any("//" in link for link in page.links)
    for name in ("transfer", "embeddings_average_tokens", "similarity_average_tokens", "methods"):
        assert (tmp_path / "figures" / f"{name}.svg").read_text().startswith("<svg")
