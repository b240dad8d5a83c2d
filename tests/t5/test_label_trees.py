"""Labels as trees score what labels one by one do, whatever they share."""

import dataclasses

import jax
import numpy as np
import pytest
from test_scoring import CONFIG, INPUTS, LABELS, model

from spot_jax.t5 import label_trees
from spot_jax.t5.label_trees import label_tree, pack_trees, score_labels, stack_trees
from spot_jax.t5.prefix import prefix_shape, with_prefix
from spot_jax.t5.scoring import rank_labels

score = jax.jit(score_labels, static_argnums=1)
rank = jax.jit(rank_labels, static_argnums=1)


def test_labels_that_begin_alike_share_nodes():
    tree = label_tree(LABELS)
    # The start, 4, 4 5, 8, 8 9 and 15; the empty label ends at the start.
    assert tree.tokens.tolist() == [[0, 4, 5, 8, 9, 15]]
    assert tree.parents.tolist() == [[0, 0, 1, 0, 3, 0]]
    assert tree.places[0, 2].tolist() == [0, 3, 4] and tree.places[0, 3, 0] == 0


@pytest.mark.parametrize("with_a_prefix", [False, True])
def test_a_tree_scores_as_one_pass_a_label_does(with_a_prefix):
    params, table = model()
    if with_a_prefix:
        places = ("encoder", "decoder", "cross")
        rows = jax.random.normal(jax.random.key(5), (1, *prefix_shape(CONFIG, 2, places)))
        params = with_prefix(params, CONFIG, rows, places)
    scores = score(params, CONFIG, INPUTS, label_tree(LABELS), table=table)
    expected = rank(params, CONFIG, INPUTS, LABELS, table=table)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_each_row_has_its_own_labels(monkeypatch):
    params, table = model()
    several = [LABELS, LABELS[[3, 1]], np.array([[7, 7, 7, 1]], np.int32)]
    trees = stack_trees([label_tree(labels) for labels in several], 8, 6, 4)
    scores = score(params, CONFIG, INPUTS, trees, table=table)
    assert np.isneginf(scores[1, 2:]).all() and np.isneginf(scores[2, 1:]).all()
    for row, labels in enumerate(several):
        alone = rank(params, CONFIG, INPUTS[row : row + 1], labels, table=table)
        np.testing.assert_allclose(scores[row, : len(labels)], alone[0], rtol=1e-5, atol=1e-5)
    # The same with no room for the logits of more than one row at a time.
    monkeypatch.setattr(label_trees, "_LOGITS_BYTES", 1)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    other = dataclasses.replace(CONFIG, dropout_rate=0.1)  # compiled anew
    few = score(params, other, INPUTS, trees, table=table)
    np.testing.assert_allclose(few, scores, rtol=1e-5, atol=1e-5)


def test_packed_texts_score_as_alone():
    params, table = model()
    lengths, labels = [int(np.sum(row > 0)) for row in INPUTS], [LABELS, LABELS[[3, 1]], LABELS]
    tokens, segments = np.zeros((2, 16), np.int32), np.zeros((2, 16), np.int32)
    for row, start, text in ((0, 0, 1), (0, lengths[1], 0), (1, 0, 2)):
        here = slice(start, start + lengths[text])
        tokens[row, here] = INPUTS[text, : lengths[text]]
        segments[row, here] = 1 if start == 0 else 2
    trees = [label_tree(some) for some in labels]
    packed = pack_trees([[trees[1], trees[0]], [trees[2]]], 16, 10, 5)
    scores = score(params, CONFIG, tokens, packed, table=table, segment_ids=segments)
    alone = score(params, CONFIG, INPUTS, label_tree(LABELS), table=table)
    np.testing.assert_allclose(scores[0, :2], alone[1, np.array([3, 1])], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[0, 2 : 2 + len(LABELS)], alone[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[1, : len(LABELS)], alone[2], rtol=1e-5, atol=1e-5)
    assert np.isneginf(scores[0, 2 + len(LABELS) :]).all()
