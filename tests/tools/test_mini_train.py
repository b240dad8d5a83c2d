"""The schedule of mini's stages, what its commands refuse, and the whole chain at a small size."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from mini_cases import fake_tokenise, use_small_sets, write_sources

from spot_jax.errors import SpotError
from spot_jax.t5 import model
from spot_jax.t5.backbone import flatten, load_backbone
from tools.mini import prepare, shape, store, teacher, train
from tools.mini.command import run
from tools.mini.corpus import FILES
from tools.mini.schedule import ASK, LANGUAGE, SPAN, Schedule


def small_config(dtype="float32", *, scan_layers=True):
    full = shape.T5Config(
        vocab_size=8192, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_encoder_layers=1,
        num_decoder_layers=1, dropout_rate=0.0, attention="plain",
    )  # fmt: skip
    return dataclasses.replace(full, dtype=dtype, scan_layers=scan_layers)


def test_stages_follow_the_shares_and_the_last_waits_for_its_programs():
    plan = Schedule((1.0, 1.0, 2.0), renew=3)
    stages = [plan.next(done, False).stage for done in (0.0, 0.24, 0.26, 0.6)]
    assert stages == [SPAN, SPAN, LANGUAGE, LANGUAGE]
    steps = [plan.next(done, True) for done in (0.7, 0.75, 0.8, 0.82, 0.84, 0.86, 0.9)]
    assert {step.stage for step in steps} == {ASK} and plan.asking_from == 0.7
    assert [step.number for step in steps] == list(range(4, 11))
    # Every third step, and none when too little time is left to learn a new prompt.
    assert [step.asked for step in steps if step.renew] == [0, 3]


def test_the_rate_rises_and_falls():
    plan = Schedule((1.0, 1.0, 2.0), renew=100)
    rates = [plan.next(0.3, False).rate for _ in range(300)]
    assert rates[0] == pytest.approx(1 / 200) and rates[199:] == [1.0] * 101
    assert np.all(np.diff(rates) >= 0)
    last = [plan.next(done, True).rate for done in np.linspace(0.5, 0.999, 400)]
    assert last[0] == pytest.approx(0.01) and last[-1] == pytest.approx(0.02, abs=1e-3)
    assert max(last) > 0.8 and np.all(np.diff(last[100:]) < 0)


def said(capsys, monkeypatch, command, main, *arguments):
    monkeypatch.setattr("sys.argv", [command, *map(str, arguments)])
    assert run(command, main) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"tools.mini.{command}: ")
    return lines[0]


def test_train_complains_in_one_line(tmp_path, capsys, monkeypatch):
    def complaint(*arguments):
        return said(capsys, monkeypatch, "train", train.main, *arguments)

    data = tmp_path / "data"
    data.mkdir()
    assert "texts.tsv, phrases.txt" in complaint(data, tmp_path / "dest")
    assert "directory at" in complaint(tmp_path / "none", tmp_path / "dest")
    for name in FILES:
        (data / name).write_text("nothing")
    assert "probes.json" in complaint(data, tmp_path / "dest")
    assert "teacher.npz, found a damaged" in complaint(
        data, tmp_path / "dest", "--probe_steps", "0"
    )
    (tmp_path / "file").write_text("")
    assert "directory to write to" in complaint(data, tmp_path / "file", "--probe_steps", "0")
    for flag, value in (("--scale", "0"), ("--tasks", "3"), ("--renew", "0"), ("--rate", "nan")):
        assert flag in complaint(data, tmp_path / "dest", flag, value)
    assert "--shares" in complaint(data, tmp_path / "dest", "--shares", "0", "0", "0")
    assert "--colour" in complaint(data, tmp_path / "dest", "--colour", "red")


def test_no_time_left_after_reading_is_said():
    with pytest.raises(SpotError, match="raise --seconds"):
        train.fit(None, None, None, Schedule((1, 1, 1), 1), 0.0, None, {}, print)


@pytest.fixture(scope="module")
def params():
    config = small_config()
    shapes = jax.eval_shape(lambda key: model.init_params(key, config), jax.random.key(0))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes)


def test_stored_parts_are_the_weights(params, tmp_path):
    stacked, separate = small_config(), small_config(scan_layers=False)
    store.write_parts(tmp_path, model.stack_layers(params, stacked), stacked)
    read = dict(flatten(store.read_parts(tmp_path, separate)))
    expected = dict(flatten(params))
    assert read.keys() == expected.keys()
    for name, leaf in read.items():
        assert leaf.dtype == jax.numpy.bfloat16
        assert np.array_equal(leaf, jax.numpy.asarray(expected[name], leaf.dtype)), name


def test_parts_of_another_model_are_refused(params, tmp_path, capsys, monkeypatch):
    with pytest.raises(SpotError, match="no whole part0"):
        store.read_parts(tmp_path, small_config())
    stacked = small_config()
    store.write_parts(tmp_path, model.stack_layers(params, stacked), stacked)
    with pytest.raises(SpotError, match="expected .* of shape .*found"):
        store.read_parts(tmp_path, shape.config(scan_layers=False))
    (tmp_path / "part1.npz").write_bytes(b"PK")
    message = said(capsys, monkeypatch, "store", store.main, tmp_path, tmp_path / "dest")
    assert "part1.npz" in message and not (tmp_path / "dest").exists()


@pytest.mark.slow
def test_the_chain_of_commands_makes_a_backbone(tmp_path, monkeypatch):
    use_small_sets(monkeypatch)
    monkeypatch.setattr(teacher, "tokenise", fake_tokenise)
    monkeypatch.setattr(shape, "config", small_config)
    # A clock of steps, so that a slow machine takes as many of them.
    ticks = itertools.count()
    monkeypatch.setattr(train.time, "monotonic", lambda: float(next(ticks)))
    ready = train.Programs.ready

    def wait(self):
        self.wait(list(self._waiting))
        return ready(self)

    monkeypatch.setattr(train.Programs, "ready", wait)
    data, trained, backbone = (str(tmp_path / name) for name in ("data", "trained", "backbone"))
    prepare.main([*write_sources(tmp_path / "sources"), data])
    train.main(
        [data, trained, "--seconds", "60", "--scale", "0.001", "--tasks", "8", "--renew", "3"]
        + ["--probe_steps", "0", "--shares", "0.2", "0.2", "0.6"]
    )
    report = train.json.loads((tmp_path / "trained" / "report.json").read_text())
    assert report["asked"] > 4 and report["steps"] > report["stage 3 at step"] > 0
    store.main([trained, backbone])
    loaded = load_backbone(backbone)
    assert loaded.config.emb_dim == 16
    leaves = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(loaded.params)]
    assert all(np.isfinite(leaf).all() for leaf in leaves)
