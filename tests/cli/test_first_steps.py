"""What a command does before its first update: little is imported, compiled programs are kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spot_jax.cli.demo import SOURCE, TARGET, plan_on_rows, rows_file
from spot_jax.data.table import is_table
from spot_jax.files.program_cache import keep_compiled


def test_compiled_programs_are_kept_for_the_user_unless_it_was_said_where(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    keep_compiled()  # JAX is imported and would not see it
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ and not list(tmp_path.iterdir())
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "" and not list(tmp_path.iterdir())
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    keep_compiled()
    directory = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert directory.parent == tmp_path / "spot_jax" / "compiled"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")


def test_the_demo_runs_on_files_of_rows_that_it_writes_once(tmp_path):
    path = rows_file(tmp_path, "gap_coref_16shot")
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["split"] for row in written].count("train") == 2 * 16
    assert path.parent == tmp_path / "data" and {"text1", "label"} <= written[0].keys()
    for name in (SOURCE, TARGET):
        (path.parent / f"{name}.jsonl").write_text("mine\n")
    plan = plan_on_rows(tmp_path)
    assert is_table(plan.source) and is_table(plan.target) and not plan.modules
    assert {p.read_text() for p in path.parent.iterdir() if p != path} == {"mine\n"}


def test_another_process_writes_the_demos_rows_while_jax_is_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; import spot_jax.cli.demo as demo\n"
        "def rows_file(directory, name):\n"
        "    path = directory / name\n"
        "    if not path.exists(): path.write_text(str('jax' in sys.modules))\n"
        "    return path\n"
        "demo.rows_file = rows_file\n"
        "print(demo.plan_on_rows(Path(sys.argv[1])).source)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path / SOURCE)) and done.stderr == ""
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {SOURCE: "False", TARGET: "False"}


def test_rows_that_cannot_be_written_end_the_demo_with_a_line():
    command = [sys.executable, "-m", "spot_jax.cli.main", "demo", "--directory", "/dev/null/x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "/dev/null" in done.stderr


@pytest.mark.slow
def test_a_run_without_seqio_imports_nothing_that_takes_long():
    heavy = ("tensorflow", "seqio", "scipy.optimize", "tensorboardX", "google.cloud.storage")
    code = (
        "import sys, spot_jax.demo; import spot_jax.training.run\n"
        f"sys.exit(','.join(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
