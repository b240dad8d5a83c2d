"""Saved steps: whole or not there."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spot_jax.errors import SpotError
from spot_jax.training.checkpoints import CheckpointPlan, Checkpoints
from spot_jax.training.optimizers import Adafactor, build
from spot_jax.training.step import State, init_state


def state(step=0, rows=3, seed=0):
    prompt = np.random.default_rng(seed + step).normal(size=(1, rows, 4)).astype(np.float32)
    tx = build(Adafactor(), 1)
    fresh = init_state({"prompt": jnp.asarray(prompt)}, tx, jax.random.split(jax.random.key(5), 1))
    return State(jnp.asarray(step, jnp.int32), fresh.trainable, fresh.opt_state, fresh.keys)


def opened(path, period=1, keep=2):
    return Checkpoints(path / "checkpoints", CheckpointPlan(period, keep))


def test_what_was_saved_comes_back_bit_by_bit(tmp_path):
    saved = opened(tmp_path)
    assert saved.newest() is None
    place = {"batches": {"source": {"epoch": 2, "index": 7}, "examples": 63}, "score": 0.1 + 0.2}
    saved.save(state(4), place)
    saved.close()
    loaded, data = opened(tmp_path).restore(state(0, seed=9))
    expected = state(4)
    assert data == place
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    draw = [jax.random.normal(s.keys[0], (4,)) for s in (loaded, expected)]
    np.testing.assert_array_equal(*draw)
    for leaf, wanted in zip(
        jax.tree.leaves((loaded.step, loaded.trainable, loaded.opt_state)),
        jax.tree.leaves((expected.step, expected.trainable, expected.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf, wanted)
        assert leaf.dtype == wanted.dtype
    assert optax.tree.get(loaded.opt_state, "v")["prompt"].shape == (1, 3, 4)


def test_the_newest_are_kept_and_a_step_is_saved_once(tmp_path):
    saved = opened(tmp_path, keep=2)
    for step in (1, 2, 3, 3):
        saved.save(state(step), {"at": step})
    saved.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    assert opened(tmp_path).restore(state())[1] == {"at": 3}


def test_a_step_half_written_is_not_there(tmp_path):
    saved = opened(tmp_path)
    saved.save(state(1), {"at": 1})
    saved.close()
    # What a kill leaves in the middle of a save: a directory under another name.
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-0" / "state").mkdir(parents=True)
    again = opened(tmp_path)
    assert again.newest() == 1
    again.save(state(2), {"at": 2})
    again.close()
    assert opened(tmp_path).restore(state())[1] == {"at": 2}


# Orbax leaves the reads behind that it had begun when one failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_or_foreign_step_is_one_line(tmp_path):
    saved = opened(tmp_path)
    saved.save(state(1), {})
    saved.close()
    with pytest.raises(SpotError, match="cannot restore step 1 from .* choose another") as caught:
        opened(tmp_path).restore(state(rows=5))
    assert "\n" not in str(caught.value)
    for file in (tmp_path / "checkpoints" / "1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:3])
    with pytest.raises(SpotError, match="cannot restore step 1 from") as caught:
        opened(tmp_path).restore(state())
    assert "\n" not in str(caught.value)
    gc.collect()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"digest"', '"digest_"'),
        lambda text: text[: text.index(', "digest"')] + "}",
        lambda text: text.replace('"place"', '"plane"'),
        lambda text: text.replace("7", "8"),
        lambda text: '{"place": ' + text[text.index(', "digest"') + 12 :],
    ],
)
def test_a_place_without_its_digest_is_refused(tmp_path, damage):
    saved = opened(tmp_path)
    saved.save(state(1), {"batches": 7, "best": []})
    saved.close()
    (place,) = (tmp_path / "checkpoints" / "1" / "data").glob("metadata")
    changed = damage(place.read_text())
    assert changed != place.read_text() and json.loads(changed)
    place.write_text(changed)
    with pytest.raises(SpotError, match="step 1 in .* is not what was saved"):
        opened(tmp_path).restore(state())


def test_a_step_from_before_there_were_digests_is_restored(tmp_path):
    saved = opened(tmp_path)
    saved.save(state(1), {"batches": 7, "best": []})
    saved.close()
    (place,) = (tmp_path / "checkpoints" / "1" / "data").glob("metadata")
    place.write_text('{"batches": 7, "best": []}')
    assert opened(tmp_path).restore(state())[1] == {"batches": 7, "best": []}


def test_a_full_disk_is_one_line_and_keeps_the_step_before(tmp_path, monkeypatch):
    saved = opened(tmp_path)
    saved.save(state(1), {"at": 1})
    with monkeypatch.context() as full:
        usage = shutil.disk_usage(tmp_path)
        full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(SpotError, match="cannot save step 2 .* from step 1$") as caught:
            saved.save(state(2), {})
        assert "\n" not in str(caught.value)

    def refuse(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write\n to file 12: No space left")

    with monkeypatch.context() as refusing:
        refusing.setattr(saved._manager, "save", refuse)
        with pytest.raises(SpotError, match="cannot save step 2 .*No space left") as caught:
            saved.save(state(2), {})
        assert "\n" not in str(caught.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    saved.save(state(2), {"at": 2})
    assert opened(tmp_path).restore(state())[1] == {"at": 2}


@pytest.mark.parametrize("plan", [CheckpointPlan(0, 1), CheckpointPlan(5, 0)])
def test_plans_that_cannot_be(plan, tmp_path):
    with pytest.raises(SpotError, match="period and keep are at least 1"):
        Checkpoints(tmp_path, plan)
