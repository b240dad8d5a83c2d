"""How targets begin: weighted averages, what a choice looks at, the names of strategies."""

import dataclasses

import numpy as np
import pytest
from library_cases import BACKBONE, OTHER, fill, make_prompt

from spot_jax.errors import SpotError
from spot_jax.library.library import Library
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.transfer.result import Candidate
from spot_jax.transfer.retrieval import Retrieved
from spot_jax.transfer.strategies import (
    STRATEGIES,
    Context,
    average,
    strategy,
    weighted_average,
    weights,
)
from spot_jax.transfer.transfer import choose


def test_a_weighted_average_is_the_papers_formula(tmp_path):
    library = fill(Library(tmp_path / "library"))
    entry = library.entries()[0]
    embedding = library.load(entry)[1].prompt + 0.5
    matches = library.rank(embedding, backbone=BACKBONE, top_k=3)
    similarities = [match.similarity for match in matches]
    assert min(similarities) > 0
    expected = sum(
        match.similarity / sum(similarities) * library.load(match.entry)[0].prompt
        for match in matches
    )
    group = [
        Retrieved(m.entry.id, m.entry.task, m.entry.tasks, m.entry.seed, m.similarity, m.entry.path)
        for m in matches
    ]
    (start,) = weighted_average(Context(tmp_path, "target", lambda names: []), [group])
    averaged = load_prompt(start.file)
    np.testing.assert_allclose(averaged.prompt, expected, rtol=1e-6, atol=1e-6)
    assert averaged.prompt.dtype == np.float32
    assert averaged.backbone == BACKBONE
    assert set(averaged.tasks) == {match.entry.task for match in matches}
    parts = averaged.ancestry[:3]
    assert [part["task"] for part in parts] == [match.entry.task for match in matches]
    assert [part["similarity"] for part in parts] == similarities
    assert sum(part["weight"] for part in parts) == pytest.approx(1)


def test_what_is_not_similar_has_no_weight():
    assert weights([0.6, 0.2]) == pytest.approx([0.75, 0.25])
    assert weights([0.6, -0.5, 0.2, 0.0]) == pytest.approx([0.75, 0, 0.25, 0])
    # Left in the formula, these would be weights of 31 and -30.
    assert weights([0.31, -0.30]) == [1, 0]
    # Where none is similar a study must not stop: all weigh the same.
    assert weights([-0.1, 0.0]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"shape": (4, 8)}, r"found shapes \(4, 8\), \(5, 8\)"),
        ({"backbone": OTHER}, "found backbones aaaaaaaaaaaa, bbbbbbbbbbbb"),
    ],
)
def test_prompts_of_several_kinds_have_no_average(other, match):
    prompts = [make_prompt("mnli"), make_prompt("squad", **other)]
    with pytest.raises(SpotError, match=match) as caught:
        average(prompts, [0.5, 0.4], ["a", "b"])
    assert "\n" not in str(caught.value)


def test_prompts_with_tensors_beside_their_rows_have_no_average():
    beside = {"decoder": np.zeros((2, 3), np.float32)}
    method = {"name": "YTuning"}
    prompts = [make_prompt("mnli"), make_prompt("squad")]
    prompts = [dataclasses.replace(p, method=method, tensors=beside) for p in prompts]
    with pytest.raises(SpotError, match="a prompt of YTuning with tensors beside its rows"):
        average(prompts, [0.5, 0.4], ["a", "b"])


def candidate(validation, seed=0, test=None):
    return Candidate("source", seed, validation, 5, "p.safetensors", test)


def test_a_choice_looks_at_validation_alone():
    # The better a test score, the worse its validation: test must not be looked at.
    candidates = [
        candidate(50, 0, 90),
        candidate(60, 0, 10),
        candidate(55, 1, 5),
        candidate(54, 1, 99),
    ]
    assert choose(candidates) == [1, 2]
    # Of equals the one that was retrieved first.
    assert choose([candidate(50), candidate(50)]) == [0]


def test_an_unknown_strategy_is_one_line():
    with pytest.raises(SpotError, match="no transfer method 'best', but scratch, best_of_top_k"):
        strategy("best")
    assert {name for name, way in STRATEGIES.items() if not way.retrieves} == {"scratch"}
