"""Runs whose loss is over answers to choose among, and what predicts with them."""

import pytest
from choice_cases import ROWS, register

import spot_jax as spot
from spot_jax.data.data_source import DataSource
from spot_jax.errors import SpotError
from spot_jax.methods.model_tuning import ModelTuning
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.training.config import EvaluationPlan
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import AdamW

LENGTHS = {"inputs": 16, "targets": 12}


def data_of(name, **options):
    return DataSource(name, LENGTHS, **{"batch_size": 3, **options})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hinge", "cross_entropy"])
def test_a_model_learns_to_choose_and_predicts_among_a_rows_own_answers(worded, tmp_path, kind):
    name = register("choices_to_learn", ROWS)
    result = worded.train(
        tmp_path / "run",
        60,
        method=ModelTuning(choice_loss=kind),
        data=data_of(name),
        optimizer=AdamW(0.01, weight_decay=0.0),
        evaluation=EvaluationPlan(period=20, batch_size=3),
    )
    lines = [line for line in read_metrics(result.directory) if "train/loss" in line]
    assert lines[-1]["train/loss"] < 0.2 * lines[0]["train/loss"]
    # A hinge is by the token and a ranking by the whole answer, as in the authors' code.
    assert lines[-1]["train/accuracy"] == 1.0
    is_ranking = kind == "cross_entropy"
    assert result.best[0].score == 100.0 or not is_ranking
    predictor = spot.load(result.directory)
    rows = [{"inputs": text, "choices": choices} for text, choices, _ in ROWS]
    predictions = predictor.predict(rows)
    assert predictions == [choices[right] for _, choices, right in ROWS] or not is_ranking
    assert [set(p.probabilities) for p in predictions] == [set(c) for _, c, _ in ROWS]
    lines = ['{"inputs": "he ran because", "choices": ["night fell", "he was slow"]}']
    (row,) = predictor(lines)
    assert row["prediction"] in ("night fell", "he was slow")
    for wrong in (["one"], ["same", "same"], "none", [1, 2]):
        with pytest.raises(SpotError, match="input 1: expected two different texts or more"):
            predictor.predict([{"inputs": "x", "choices": wrong}])


def test_what_has_no_answers_to_choose_among_is_refused(worded, tmp_path):
    method = PromptTuning(4, "sampled_vocabulary", choice_loss="hinge")
    with pytest.raises(SpotError, match="has neither labels nor examples with a field `choices`"):
        worded.train(tmp_path / "a", 1, method=method, data=data_of(worded.tasks[0], split="train"))
    name = register("choices_to_learn", ROWS)
    with pytest.raises(SpotError, match="packs several; set PACK = False"):
        worded.train(tmp_path / "b", 1, method=method, data=data_of(name, pack=True))
