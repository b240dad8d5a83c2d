"""The GPU script runs whole, in small, on whatever device there is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_tiny_script_leaves_every_case_measured(tmp_path):
    output = tmp_path / "gpu.json"
    command = [sys.executable, ROOT / "bench" / "gpu.py", "--tiny", "--no-peft"]
    subprocess.run(
        [*command, "--seconds", "600", "--output", output],
        check=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    written = json.loads(output.read_text())
    results = written["results"]
    assert not [x for x in results if "error" in x or "skipped" in x]
    steps = [x for x in results if x["case"] == "step"]
    assert {x["shape"] for x in steps} == {"base", "large", "xl"}
    assert all(x["finite"] and x["mfu"] > 0 for x in steps)
    # Forms of attention differ by rounding alone, and do not change the loss.
    (apart,) = [
        x["difference_from_plain"]
        for x in results
        if x["case"] == "attention" and x["form"] == "triton"
    ]
    assert max(apart) < 1e-5
    assert {x["case"] for x in results} >= {"peak", "step", "attention", "greedy", "profile"}
