"""The log of metrics: whole lines, none doubled after a resume, the same numbers in TensorBoard."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from spot_jax.training.metrics_log import FILE, MetricsLog, read_metrics


def lines(directory):
    return [json.loads(line) for line in (directory / FILE).read_text().splitlines()]


def events(directory):
    """(step, tag, value) of every scalar in the directory's event files."""
    scalars = []
    for path in sorted(directory.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            data = data[16 + size :]
    return scalars


def test_a_line_is_there_when_write_returns(tmp_path):
    log = MetricsLog(tmp_path / "run")
    log.write(1, {"train/loss": np.float32(0.5), "note": "ok", "n": 3, "none": None})
    assert lines(tmp_path / "run") == [
        {"step": 1, "train/loss": 0.5, "note": "ok", "n": 3, "none": None}
    ]
    log.close()


def test_values_of_several_prompts_are_a_list(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(2, {"loss": jnp.asarray([0.5, 0.25]), "all": [1, 2]})
    assert lines(tmp_path) == [{"step": 2, "loss": [0.5, 0.25], "all": [1, 2]}]
    assert (2, "loss/0", 0.5) in events(tmp_path) and (2, "loss/1", 0.25) in events(tmp_path)


def test_what_json_lacks_is_text_that_float_reads(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"a": float("nan"), "b": np.asarray([np.inf, -np.inf])})
    (row,) = lines(tmp_path)
    assert math.isnan(float(row["a"]))
    assert [float(value) for value in row["b"]] == [math.inf, -math.inf]


def test_resuming_doubles_no_line(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in range(1, 8):
            log.write(step, {"loss": 1 / step})
        log.write(5, {"validation/accuracy": 1.0})
    whole = lines(tmp_path)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 8, "lo')  # what a kill leaves
    assert read_metrics(tmp_path) == whole
    with MetricsLog(tmp_path) as log:
        log.truncate_after(4)
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
        for step in range(5, 8):
            log.write(step, {"loss": 1 / step})
        log.write(5, {"validation/accuracy": 1.0})
    assert lines(tmp_path) == whole


def test_a_run_killed_before_its_first_save_starts_a_clean_log(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": 9.0})
    with MetricsLog(tmp_path) as log:
        log.truncate_after(0)
        log.write(1, {"loss": 9.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 9.0}]


def test_truncating_keeps_an_unfinished_file_aside(tmp_path, monkeypatch):
    """Killed while truncating, the log is whole: the new file is moved in only when done."""
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": 9.0})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("kill")))
    with pytest.raises(OSError, match="kill"):
        MetricsLog(tmp_path).truncate_after(0)
    assert lines(tmp_path) == [{"step": 1, "loss": 9.0}]


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsLog(tmp_path / "run") as log:
        log.truncate_after(3)
        log.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_nothing_logged_is_nothing_read(tmp_path):
    MetricsLog(tmp_path / "run").close()
    assert read_metrics(tmp_path / "run") == []
