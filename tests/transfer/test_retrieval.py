"""Retrieval for a target: over its seeds, without what has seen it, kept for a later start."""

import re

import numpy as np
import pytest
from library_cases import BACKBONE, fill, make_pair, make_prompt

from spot_jax.errors import SpotError
from spot_jax.library.library import Library
from spot_jax.library.similarity import per_token
from spot_jax.transfer import retrieval

SHAPE = (5, 8)


@pytest.fixture
def library(tmp_path):
    return fill(Library(tmp_path / "library"))


def test_seeds_of_a_target_are_averaged(library):
    embeddings = [make_prompt("boolq", seed=seed, step=20).prompt for seed in range(3)]
    ranking = retrieval.rank(library, embeddings, backbone=BACKBONE, top_k=4)
    expected = {
        entry.id: np.mean([per_token(library.load(entry)[1].prompt, e) for e in embeddings])
        for entry in library.entries()
    }
    best = sorted(expected.values(), reverse=True)[:4]
    assert [m.similarity for m in ranking] == pytest.approx(best, abs=1e-6)
    assert all(m.similarity == pytest.approx(expected[m.entry.id], abs=1e-6) for m in ranking)
    with pytest.raises(SpotError, match="needs the target's task embedding"):
        retrieval.rank(library, [], backbone=BACKBONE)


@pytest.mark.parametrize(
    "seen",
    [
        {"task": "boolq"},
        {"task": "boolq_16shot"},
        {"task": "boolq_16shot_s2"},
        {"task": "all", "tasks": ("mnli", "boolq")},
        {"task": "rte", "ancestry": ({"task": "boolq", "step": 1},)},
        {"task": "rte", "ancestry": ({"task": "all", "step": 1, "tasks": ["boolq"]},)},
    ],
    ids=[
        "itself",
        "fewer shots",
        "another sample",
        "in a mixture",
        "ancestor",
        "ancestor's mixture",
    ],
)
def test_what_has_seen_the_target_is_left_out_and_told_of(seen, library):
    leak = library.add(*make_pair(**{"task": "x", "seed": 7, **seen}))
    options = {"backbone": BACKBONE, "exclude": ("boolq",)}
    embedding = library.load(leak)[1].prompt
    ranking = retrieval.rank(library, [embedding, embedding], top_k=7, **options)
    assert len(ranking) == 6
    assert leak.id not in {match.entry.id for match in ranking}
    assert any("1 that have seen boolq (leakage" in note for note in ranking.notes)
    with pytest.raises(SpotError, match=r"top_k is 7, but 6 prompts of .* 1 that have seen boolq"):
        retrieval.check_enough(library, SHAPE, top_k=7, **options)
    retrieval.check_enough(library, SHAPE, top_k=6, **options)


def test_too_little_to_retrieve_is_one_line_before_anything_is_tuned(library, tmp_path):
    def refused(where, match, **options):
        settings = {"backbone": BACKBONE, "exclude": (), "top_k": 3, **options}
        with pytest.raises(SpotError, match=match) as caught:
            retrieval.check_enough(where, SHAPE, **settings)
        assert "\n" not in str(caught.value)

    refused(library, "top_k is 9, but 6 prompts of .* give a top_k of 6 or less", top_k=9)
    refused(library, "nothing in .* is left to rank", exclude=("mnli", "squad", "sst2"))
    refused(library, "no prompt in .* was tuned on the backbone cccc", backbone="c" * 64)
    refused(Library(tmp_path / "none"), "no prompt library at")
    for entry in library.entries():
        library.remove(entry.id)
    refused(library, "is empty; fill it: spot prompts add")


def test_what_was_retrieved_stays_with_the_run(library, tmp_path):
    embedding = make_prompt("boolq", step=20).prompt
    ranking = retrieval.rank(library, [embedding], backbone=BACKBONE, top_k=2)
    asked = {"target": "boolq", "metric": "per_token", "top_k": 2}
    directory = tmp_path / "run"
    assert retrieval.stored(directory, asked) is None
    retrieved = retrieval.store(ranking, ["a note"], library, directory, asked)
    expected = [library.load(match.entry)[0].prompt for match in ranking]
    for entry in library.entries():
        library.remove(entry.id)
    again, notes = retrieval.stored(directory, asked)
    assert (again, notes) == (retrieved, ["a note"])
    for source, prompt in zip(again, expected, strict=True):
        np.testing.assert_array_equal(source.load().prompt, prompt)
    changed = re.escape("retrieved with metric = 'per_token', this command has 'average_tokens'")
    with pytest.raises(SpotError, match=changed):
        retrieval.stored(directory, {**asked, "metric": "average_tokens"})
    (directory / retrieval.FILE).write_text("{")
    with pytest.raises(SpotError, match="is damaged .* remove it to retrieve anew") as caught:
        retrieval.stored(directory, asked)
    assert "\n" not in str(caught.value)


def test_a_seed_that_only_some_sources_share_is_told_of(library):
    assert "sources of seed 0 began as the target's" in retrieval.seed_note(library, BACKBONE, {0})
    for fair in ({5}, {0, 1}, {0, 1, 2}):
        assert retrieval.seed_note(library, BACKBONE, fair) == ""
