"""A run that stops, by whatever way, goes on as if it had not."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2
from tiny_run import CONFIG, VOCABULARY, store

from spot_jax.errors import SpotError, SpotWarning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.training import loop
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import EvaluationPlan, StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import Adafactor
from spot_jax.training.run_directory import check_same_run

CHILD = Path(__file__).with_name("child.py")


def losses(directory):
    return [(line["step"], line["train/loss"]) for line in read_metrics(directory)]


def last_prompt(directory):
    return load_prompt(directory / "prompts" / "last-0.safetensors").prompt


def same(first, second):
    """Bit for bit the same prompt and the same log, each step once."""
    np.testing.assert_array_equal(last_prompt(first), last_prompt(second))
    assert losses(first) == losses(second)
    steps = [step for step, _ in losses(first)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_run_in_two_parts_equals_one_run(tiny, tmp_path):
    options = {
        "backbone": StoredBackbone(tiny.backbone, dropout_rate=0.1),
        "checkpoints": CheckpointPlan(period=3),
        # Packed, so that an example waits between batches.
        "data": tiny.data(batch_size=4, pack=True, packed_lengths={"inputs": 30, "targets": 6}),
    }
    whole = tiny.train(tmp_path / "whole", 11, **options)
    tiny.train(tmp_path / "parts", 7, **options)
    again = tiny.train(tmp_path / "parts", 11, **options)
    same(tmp_path / "whole", tmp_path / "parts")
    assert (again.step, again.examples) == (11, whole.examples)
    # Nothing left to do: the run is as it was.
    assert tiny.train(tmp_path / "parts", 11, **options).finished
    with pytest.raises(SpotError, match="is at step 11 already, TRAIN_STEPS is 5"):
        tiny.train(tmp_path / "parts", 5, **options)


def test_a_signal_saves_and_ends_cleanly(tiny, tmp_path, monkeypatch):
    # The signal comes while step 4 is under way.
    step_functions = loop.fit

    def fit(state, frozen, step_function, *rest):
        def step(state, frozen, batch):
            if int(state.step) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return step_function(state, frozen, batch)

        return step_functions(state, frozen, step, *rest)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr("spot_jax.training.run.fit", fit)
        stopped = tiny.train(tmp_path / "run", 9)
    assert (stopped.step, stopped.finished) == (4, False)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "run" / "result.json").exists()
    assert tiny.train(tmp_path / "run", 9).finished
    tiny.train(tmp_path / "whole", 9)
    same(tmp_path / "run", tmp_path / "whole")


def test_nan_stops_with_the_step_and_keeps_the_last_good_state(tiny, tmp_path):
    class At6:
        """An infinite factor at the sixth step, as a bad schedule gives."""

        def __call__(self, step):
            return jnp.where(step == 5, jnp.inf, 1.0)

        def __repr__(self):
            return "Constant()"

    settings = {"checkpoints": CheckpointPlan(2), "optimizer": Adafactor(0.3, schedule=At6())}
    with pytest.raises(SpotError, match="^step 6: .* not finite .* last saved step is kept"):
        tiny.train(tmp_path / "run", 9, **settings)
    saved = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == [2, 4]
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert tiny.train(tmp_path / "run", 5, **settings).finished
    assert np.isfinite(last_prompt(tmp_path / "run")).all()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("seeds", {"seeds": 1}),
        ("optimizer_settings", {"optimizer": Adafactor(0.2)}),
        ("method_settings", {"method": PromptTuning(length=5, init="uniform")}),
        ("batch_size", {"data": {"batch_size": 4}}),
        # With stacked layers sums are in another order.
        ("scan_layers", {"backbone": {"scan_layers": True}}),
    ],
)
def test_a_run_directory_of_another_configuration_is_refused(field, options, tiny, tmp_path):
    directory = tmp_path / "run"
    if "data" in options:
        options = {"data": tiny.data(**options["data"])}
    if "backbone" in options:
        options = {
            "backbone": StoredBackbone(tiny.backbone, dropout_rate=0.0, **options["backbone"])
        }
    with pytest.raises(SpotError, match=f"holds a run with {field} = ") as caught:
        _refuse(tiny, directory, options)
    assert "\n" not in str(caught.value)


def test_a_run_does_not_go_on_with_another_vocabulary(tiny, tmp_path):
    # The same weights and as many ids: nothing but the vocabulary's own hash tells them apart.
    other = tmp_path / "other.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(VOCABULARY.read_bytes())
    piece, next_piece = model.pieces[100], model.pieces[101]
    piece.piece, next_piece.piece = next_piece.piece, piece.piece
    other.write_bytes(model.SerializeToString())
    config = dataclasses.replace(CONFIG, vocab_size=8192, num_heads=2)
    options = [
        {"backbone": StoredBackbone(store(tmp_path / path.stem, config, vocabulary=path))}
        for path in (VOCABULARY, other)
    ]
    with pytest.raises(SpotError, match="holds a run with vocabulary = .*another MODEL_DIR"):
        _refuse(tiny, tmp_path / "run", options[1], options[0])
    # A run that an earlier version began does not say.
    path = tmp_path / "run" / "run.json"
    setup = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in setup.items() if k != "vocabulary"}))
    check_same_run(tmp_path / "run", setup)


def _refuse(tiny, directory, options, first=None):
    # The description alone decides: no step is needed to see it.
    from spot_jax.training import run

    class Stop(Exception):
        pass

    def stop(*args, **kwargs):
        raise Stop

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "_Run", stop)
        with pytest.raises(Stop):
            tiny.train(directory, 5, **(first or {}))
        kept = (directory / "run.json").read_text()
        try:
            tiny.train(directory, 5, **options)
        finally:
            assert (directory / "run.json").read_text() == kept


def test_a_run_directory_that_cannot_be_made_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(SpotError, match="cannot write the run directory") as caught:
        tiny.train(tmp_path / "file" / "run", 5)
    assert "\n" not in str(caught.value)


def options(tiny, directory, **more):
    defaults = {"backbone": tiny.backbone, "tasks": tiny.tasks, "directory": str(directory)}
    return json.dumps({**defaults, "steps": 80, "period": 5, "dropout": 0.1, **more})


def start(text, environment):
    command = [sys.executable, str(CHILD), text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def end_of(process):
    """What a child that ended well has printed, line by line."""
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.slow
def test_kill_at_ten_random_moments_and_a_sigterm_change_nothing(tiny, tmp_path, child_environment):
    whole = start(options(tiny, tmp_path / "whole"), child_environment)
    killed = start(options(tiny, tmp_path / "killed", kills=10), child_environment)
    assert end_of(whole) == [{"step": 80, "finished": True}]
    *kills, end = end_of(killed)
    assert len(kills) == 10
    assert sum(kill["killed"] for kill in kills) == 10
    for kill in kills:
        # The step that is being saved is no loss yet, nor is the one that is being logged.
        assert kill["saved"] >= kill["reached"] - 5
    print(kills)
    assert end == {"step": 80, "finished": True}
    same(tmp_path / "whole", tmp_path / "killed")

    ended = start(options(tiny, tmp_path / "ended"), child_environment)
    while len(losses(tmp_path / "ended")) < 7:
        assert ended.poll() is None
        time.sleep(0.005)
    ended.send_signal(signal.SIGTERM)
    (stopped,) = end_of(ended)
    assert not stopped["finished"]
    assert (tmp_path / "ended" / "checkpoints" / str(stopped["step"])).is_dir()
    assert end_of(start(options(tiny, tmp_path / "ended"), child_environment)) == [end]
    same(tmp_path / "whole", tmp_path / "ended")


@pytest.mark.slow
def test_what_is_of_another_run_is_not_taken_for_its_own(worded, tmp_path):
    options = {
        "evaluation": EvaluationPlan(period=2, decoding="greedy"),
        "checkpoints": CheckpointPlan(period=2),
    }
    run, other = tmp_path / "one", tmp_path / "two"
    worded.train(run, 4, **options)
    worded.train(other, 4, seeds=1, **options)
    (run / "checkpoints").rename(run / "kept")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    with pytest.raises(SpotError, match="steps of another run than run.json's"):
        worded.train(run, 6, **options)
    shutil.rmtree(run / "checkpoints")
    (run / "kept").rename(run / "checkpoints")
    (run / "checkpoints" / "4").rename(run / "checkpoints" / "5")
    with pytest.raises(SpotError, match="step 5 in .* is not what was saved"):
        worded.train(run, 6, **options)
    (run / "checkpoints" / "5").rename(run / "checkpoints" / "4")
    best = run / "prompts" / "best-0.safetensors"
    shutil.copy(other / "prompts" / "best-0.safetensors", best)
    with pytest.warns(SpotWarning, match="best-0.safetensors: of .*, seed 1; the best prompt so"):
        worded.train(run, 6, **options)
    assert (load_prompt(best).seed, load_prompt(best).step) == (0, 6)
    best.unlink()
    with pytest.warns(SpotWarning, match="of step 6, is lost"):
        ended = worded.train(run, 6, **options)
    assert ended.best[0].step == -1 and ended.prompts == [run / "prompts/last-0.safetensors"]
