"""Initial values that depend on the task: of one seed two tasks begin apart, together as alone."""

import json

import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.library import similarity
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.training.checkpoints import CheckpointPlan


def run(tiny, directory, tasks, **options):
    result = tiny.train(
        directory,
        1,
        data=tiny.data(tasks, batch_size=4),
        seeds=3,
        checkpoints=CheckpointPlan(1, embedding_step=1),
        **options,
    )
    return [load_prompt(path).prompt for path in result.embeddings]


def test_prompts_of_one_seed_begin_apart_and_together_as_alone(tiny, tmp_path):
    first, second = run(tiny, tmp_path / "both", list(tiny.tasks[:2]), init_by_task=True)
    (alone,) = run(tiny, tmp_path / "alone", tiny.tasks[1], init_by_task=True)
    np.testing.assert_allclose(second, alone, rtol=1e-4, atol=1e-5)
    plain = run(tiny, tmp_path / "plain", list(tiny.tasks[:2]))
    # By seed alone the prompts are alike after a step whatever their task.
    apart = similarity.average_tokens(first, second)
    assert apart < 0.9 < similarity.average_tokens(*plain)


def test_a_run_says_how_it_began_and_goes_on_in_no_other_way(tiny, tmp_path):
    run(tiny, tmp_path / "by_task", tiny.tasks[0], init_by_task=True)
    run(tiny, tmp_path / "by_seed", tiny.tasks[0])
    record = json.loads((tmp_path / "by_task" / "run.json").read_text())
    assert record["init_by_task"] is True
    # What a run without it says of itself is what it has always said.
    assert "init_by_task" not in json.loads((tmp_path / "by_seed" / "run.json").read_text())
    with pytest.raises(SpotError, match="holds a run with init_by_task"):
        run(tiny, tmp_path / "by_task", tiny.tasks[0])
