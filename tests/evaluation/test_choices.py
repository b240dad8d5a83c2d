"""Answers that each example has to itself: read, ranked, and scored in order."""

import dataclasses

import jax
import numpy as np
import pytest
from choice_cases import ROWS, VOCABULARY, register

from spot_jax.data import loading
from spot_jax.data.batches import BatchShape, evaluation_batches
from spot_jax.errors import SpotError
from spot_jax.evaluation.evaluate import evaluate
from spot_jax.evaluation.scored_task import load_task
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import init_params
from spot_jax.t5.scoring import label_matrix, rank_candidates, rank_labels

CONFIG = T5Config(
    vocab_size=8192,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)


@pytest.fixture(scope="module")
def params():
    return init_params(jax.random.key(0), CONFIG)


def task_of(name="choices_of_each"):
    lengths = {"inputs": 16, "targets": 12}
    return load_task(register(name, ROWS), "validation", VOCABULARY, lengths=lengths)


def test_each_example_is_ranked_among_its_own_answers(params):
    task = task_of()
    assert task.choices == [tuple(choices) for _, choices, _ in ROWS]
    assert task.candidates.shape[:2] == (3, 3)
    shape = BatchShape(2, 16, 12)
    rank = jax.jit(rank_labels, static_argnums=1)
    expected = []
    for (ids, _), choices in zip(task.examples, task.choices, strict=True):
        row, labels = np.zeros((1, 16), np.int32), np.zeros((3, 12), np.int32)
        row[0, : len(ids)] = ids
        matrix = label_matrix(VOCABULARY, choices)
        labels[: len(matrix), : matrix.shape[1]] = matrix
        scores = rank(params, CONFIG, row, labels)[0, : len(choices)]
        expected.append(choices[int(np.argmax(scores))])
    batches = list(evaluation_batches(task.examples, shape, candidates=task.candidates))
    assert batches[1]["candidate_tokens"][1].sum() == 0
    result = evaluate(
        params,
        CONFIG,
        batches,
        VOCABULARY,
        task.targets,
        task.metrics,
        search=task.search,
        choices=task.choices,
    )
    assert result.predictions == expected
    right = [a == b for a, b in zip(expected, task.targets, strict=True)]
    assert result.metrics["accuracy"] == pytest.approx(100 * np.mean(right))


def test_an_answer_of_padding_is_none(params):
    tokens = np.array([[5, 6, 1]])
    candidates = np.zeros((1, 3, 2), np.int32)
    candidates[0, 1] = [900, 1]
    rank = jax.jit(rank_candidates, static_argnums=1)
    scores = np.asarray(rank(params, CONFIG, tokens, candidates))
    assert np.isneginf(scores[0, [0, 2]]).all() and np.isfinite(scores[0, 1])


def test_decoding_may_be_chosen_and_bad_choices_are_refused():
    lengths = {"inputs": 16, "targets": 12}
    name = register("choices_of_each", ROWS)
    written = load_task(name, "validation", VOCABULARY, lengths=lengths, decoding="greedy")
    assert written.choices == [] and written.candidates is None
    twice = register("choices_twice", [("a", ["same", "same"], 0)])
    with pytest.raises(SpotError, match=r"expected choices of choices_twice that differ"):
        loading.load_evaluation(twice, "validation", VOCABULARY, lengths=lengths)
    assert dataclasses.asdict(written.search)["beams"] == 1
