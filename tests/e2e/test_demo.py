"""The demo, cut short: it runs, learns, and says the same when it is run again."""

import dataclasses

import pytest

from spot_jax.cli.demo import plan_on_rows
from spot_jax.demo import demo


@pytest.mark.slow
def test_the_demo_beats_the_commonest_label_and_repeats_itself(tmp_path):
    plan = plan_on_rows(tmp_path)
    plan = dataclasses.replace(plan, source_steps=20, target_steps=8, seeds=(0, 1))
    plan = dataclasses.replace(plan, test_examples=200, evaluations=1)
    said: list[list[str]] = [[], []]
    results = [demo(tmp_path / str(i), plan, said[i].append, False) for i in (0, 1)]
    # The last line names the directory.
    assert said[0][:-1] == said[1][:-1]
    assert [list(each) for each in results] == [["no prompt", "scratch", "source prompt"]] * 2
    (bare,) = results[0]["no prompt"]
    assert bare.prompt == "no prompt" and bare.examples == results[0]["scratch"][0].examples
    for origin in ("scratch", "source prompt"):
        first, second = (each[origin] for each in results)
        assert [s.predictions for s in first] == [s.predictions for s in second]
        assert all(s.metrics["accuracy"] > s.majority for s in first)
