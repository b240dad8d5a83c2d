"""Trackers hold by their own API what metrics.jsonl holds, over resumes and faults."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from spot_jax.cli.main import main
from spot_jax.errors import SpotError, SpotWarning
from spot_jax.training import trackers
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.metrics_log import MetricsLog, read_metrics
from spot_jax.training.trackers import Background, numbers_by_tag, tracking

EXTRAS = "needs make setup EXTRAS=dev,wandb,mlflow"


class Recorder:
    """A tracker in memory; `fault` is raised at the first row of that step."""

    def __init__(self, fault=None):
        self.rows, self.end, self.fault, self.id = [], None, fault, "r1"

    def log(self, rows):
        for step, numbers in rows:
            if step == self.fault:
                raise OSError("the network\nis gone")
            self.rows.append((step, dict(numbers)))

    def close(self, end):
        self.end = end


def logged(directory):
    """(step, tag, number) of metrics.jsonl, sorted."""
    rows = [(row.pop("step"), numbers_by_tag(row)) for row in read_metrics(directory)]
    return sorted((step, tag, number) for step, row in rows for tag, number in row.items())


def recorded(recorder):
    return sorted((s, tag, number) for s, row in recorder.rows for tag, number in row.items())


def start(directory, recorder, is_new, after, steps):
    """A start of a run: what it logs from the step after `after`."""
    view = Background("recorder", recorder, is_new)
    with MetricsLog(directory, [view]) as log:
        log.truncate_after(after)
        for step in steps:
            log.write(step, {"train/loss": np.float32([step / 3, step]), "note": "text"})
            if step % 2 == 0:
                log.write(step, {"validation/f1": [0.5, float("nan")]})
    view.close("finished")


def test_a_resume_repeats_nothing_and_misses_nothing(tmp_path):
    recorder = Recorder()
    start(tmp_path, recorder, True, 0, range(1, 5))
    start(tmp_path, recorder, False, 2, range(3, 8))
    assert recorded(recorder) == logged(tmp_path)
    assert recorder.end == "finished" and len(recorder.rows) > 7
    # One that is asked for at a later start gets the steps before.
    late = Recorder()
    start(tmp_path, late, True, 7, [8])
    assert recorded(late) == logged(tmp_path)


def test_a_failing_tracker_warns_once_and_the_log_goes_on(tmp_path):
    recorder = Recorder(fault=2)
    with pytest.warns(SpotWarning) as caught:
        start(tmp_path, recorder, True, 0, range(1, 50))
    lines = [str(w.message) for w in caught]
    assert len(lines) == 1 and "recorder failed" in lines[0] and "the network is gone" in lines[0]
    assert len(read_metrics(tmp_path)) == 49 + 24


def test_identifiers_and_ends(tmp_path, monkeypatch):
    opened = []

    def recorder(directory, id, settings):
        if id == "gone":
            raise OSError("no such run")
        if settings["seeds"] is None:
            raise OSError("no login")
        opened.append(Recorder())
        return opened[-1]

    monkeypatch.setitem(trackers.TRACKERS, "wandb", recorder)
    words = "wandb does not start: no login; see docs/tracking.md"
    with pytest.raises(SpotError, match=words), tracking(tmp_path, ["wandb"], {"seeds": None}):
        pass
    settings = {"seeds": [1]}
    with tracking(tmp_path, ["wandb"], settings) as tracked:
        tracked.finished = True
        assert tracked.trackers[0].is_new
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error), tracking(tmp_path, ["wandb"], settings) as tracked:
            assert not tracked.trackers[0].is_new
            raise error
    assert [r.end for r in opened] == ["finished", "stopped", "failed"]
    stored = json.loads((tmp_path / trackers.FILE).read_text())
    assert stored["wandb"] == "r1"
    # A run goes on where its tracker does not.
    trackers.write_object(tmp_path / trackers.FILE, {"format": 1, "wandb": "gone"})
    warned = pytest.warns(SpotWarning, match="does not go on with its run gone")
    with warned, tracking(tmp_path, ["wandb"], settings) as tracked:
        assert tracked.trackers == []


def test_unknown_and_missing_trackers_are_refused_first(tiny, tmp_path, monkeypatch):
    for names, words in [
        (["tensorflow"], "train.trackers is 'tensorflow'; choose wandb, mlflow"),
        ("wandb", r"a list of names, such as \['wandb'\]"),
    ]:
        with pytest.raises(SpotError, match=words):
            tiny.train(tmp_path / "run", 1, trackers=names)
    monkeypatch.setattr("spot_jax.errors.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        SpotError, match=r"--track mlflow needs .* pip install 'spot-jax\[mlflow\]'"
    ):
        tiny.train(tmp_path / "run", 1, trackers=["mlflow"])
    assert not (tmp_path / "run").exists()


def test_the_flag_is_a_setting(tmp_path, capsys):
    run_file = "--gin_file=gin_configs/runs/model_tuning_mini.gin"
    settings = [f"--gin.MODEL_DIR='{tmp_path / 'run'}'", "--gin.MIXTURE_OR_TASK_NAME='x'"]
    flags = ["--track", "wandb,mlflow", "--dry_run"]
    assert main(["train", run_file, *settings, *flags]) == 0
    assert "train.trackers = ['wandb', 'mlflow']" in capsys.readouterr().out


@pytest.mark.slow
def test_mlflow_holds_what_the_log_holds(tiny, tmp_path, monkeypatch):
    client_type = pytest.importorskip("mlflow.tracking", reason=EXTRAS).MlflowClient
    # The store that needs no database; MLflow wants to be asked for it.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    options = {"seeds": [0, 1], "checkpoints": CheckpointPlan(period=2), "trackers": ["mlflow"]}
    tiny.train(tmp_path / "run", 4, **options)
    # As a kill between two saves leaves it: the log is ahead of the checkpoint.
    run = json.loads((tmp_path / "run" / trackers.FILE).read_text())["mlflow"]
    tiny.train(tmp_path / "run", 6, **options)
    client = client_type()
    info = client.get_run(run)
    assert info.info.status == "FINISHED" and info.info.run_name == "run"
    assert info.data.params["optimizer_settings.learning_rate"] == "0.3"
    assert info.data.params["seeds"] == "[0, 1]"
    held = [
        (metric.step, tag, metric.value)
        for tag in info.data.metrics
        for metric in client.get_metric_history(run, tag)
    ]
    assert sorted(held) == logged(tmp_path / "run") and len(held) > 6 * 3
    # The store goes away in the middle.
    shutil.rmtree(tmp_path / "store")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SpotWarning, match="mlflow does not go on with its run"):
            tiny.train(tmp_path / "run", 7, **options)


WANDB_CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from tiny_run import Tiny, arrays, store, CONFIG
from spot_jax.training.checkpoints import CheckpointPlan
directory = Path(sys.argv[1])
tiny = Tiny(store(directory / "b", CONFIG), (arrays(directory / "a.npz", 0),) * 2)
for steps in (3, 5):
    tiny.train(directory / "run", steps, trackers=["wandb"])
"""


def records(path):
    """The records of a file of wandb's: a log of LevelDB's in blocks of 32 KiB after 7 bytes."""
    data, place, waiting = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        waiting += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield waiting
            waiting = b""


@pytest.mark.slow
def test_wandb_holds_what_the_log_holds(tmp_path, child_environment):
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason=EXTRAS)
    here = str(Path(__file__).parent)
    environment = {**child_environment, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    words = [sys.executable, "-c", WANDB_CHILD, str(tmp_path), here]
    subprocess.run(words, check=True, env=environment)
    ids, config, held = set(), {}, []
    paths = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    for record in (proto.Record.FromString(data) for path in paths for data in records(path)):
        ids |= {record.run.run_id} - {""}
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        held += [(int(row["_step"]), tag, float(x)) for tag, x in row.items() if tag[0] != "_"]
    assert ids == {json.loads((tmp_path / "run" / trackers.FILE).read_text())["wandb"]}
    assert config["optimizer_settings"]["learning_rate"] == 0.3
    assert sorted(held) == logged(tmp_path / "run") and len(held) >= 5 * 3
