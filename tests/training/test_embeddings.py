"""Task embeddings: the prompts at an early, fixed step, kept whatever becomes of the run."""

import dataclasses

import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.training.checkpoints import CheckpointPlan


def embedding(directory, i=0):
    return load_prompt(directory / "prompts" / f"embedding-{i}.safetensors")


def test_the_prompts_at_the_embedding_step_are_kept_by_runs_that_go_on_too(tiny, tmp_path):
    data = tiny.data(tiny.tasks, batch_size=4)
    plan = CheckpointPlan(period=2, embedding_step=3)
    whole = tiny.train(tmp_path / "whole", 5, data=data, checkpoints=plan)
    assert [path.name for path in whole.embeddings] == [
        "embedding-0.safetensors",
        "embedding-1.safetensors",
    ]
    # A run that stops there ends with the same prompts; before the step there are none.
    early = dataclasses.replace(plan, embedding_step=0)
    parts = tmp_path / "parts"
    assert tiny.train(parts, 2, data=data, checkpoints=early).embeddings == []
    stopped = tiny.train(parts, 3, data=data, checkpoints=plan)
    for i, path in enumerate(whole.embeddings):
        file = load_prompt(path)
        np.testing.assert_array_equal(file.prompt, embedding(parts, i).prompt)
        np.testing.assert_array_equal(file.prompt, load_prompt(stopped.prompts[i]).prompt)
        assert (file.step, file.task, file.tasks) == (3, tiny.tasks[i], (tiny.tasks[i],))
        assert file.tuning["lengths"] == {"inputs": 9, "targets": 2}
        assert file.tuning["optimizer_settings"]["learning_rate"] == 0.3
        assert not np.array_equal(file.prompt, load_prompt(whole.prompts[i]).prompt)
    # Past the step it is there and stays; another step than it was kept at is too late now.
    before = stopped.embeddings[0].stat().st_mtime_ns
    assert tiny.train(parts, 3, data=data, checkpoints=plan).embeddings == stopped.embeddings
    assert stopped.embeddings[0].stat().st_mtime_ns == before
    late = dataclasses.replace(plan, embedding_step=2)
    with pytest.raises(SpotError, match="is at step 3 and kept no embedding at step 2") as caught:
        tiny.train(parts, 5, data=data, checkpoints=late)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "method", "match"),
    [
        (6, None, "embedding_step is 6, but the run's steps are 1 to 5; raise TRAIN_STEPS"),
        (-1, None, "embedding_step is -1; give a whole number from 0"),
        (2, ModelTuning(), "model tuning has no prompt to embed a task by"),
    ],
)
def test_an_embedding_that_cannot_be_is_refused_before_work(step, method, match, tiny, tmp_path):
    options = {} if method is None else {"method": method}
    with pytest.raises(SpotError, match=match) as caught:
        tiny.train(tmp_path / "run", 5, checkpoints=CheckpointPlan(embedding_step=step), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
