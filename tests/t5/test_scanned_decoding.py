"""Stacked layers decode as single ones do, and hold no copy of the weights while they do."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from test_scoring import CONFIG, INPUTS, LABELS, model

from spot_jax.t5.decoding import beam_search, greedy
from spot_jax.t5.label_trees import label_tree, score_labels
from spot_jax.t5.model import init_params, stack_layers
from spot_jax.t5.prefix import prefix_shape, with_prefix
from spot_jax.t5.scoring import choose_label, rank_labels

SCANNED = dataclasses.replace(CONFIG, scan_layers=True)
PLACES = ("encoder", "decoder", "cross")
FUNCTIONS = {
    "greedy": functools.partial(greedy, max_length=5),
    "beams": functools.partial(beam_search, max_length=5, beams=3),
    "ranking": functools.partial(rank_labels, label_tokens=LABELS),
    "the best label": functools.partial(choose_label, label_tokens=LABELS),
    "a tree of labels": functools.partial(score_labels, trees=label_tree(LABELS)),
}


@pytest.mark.parametrize(
    "name",
    ["greedy", *(pytest.param(name, marks=pytest.mark.slow) for name in list(FUNCTIONS)[1:])],
)
def test_scanned_layers_decode_as_single_ones_do_after_a_prefix(name):
    params, table = model()
    prefix = jax.random.normal(jax.random.key(5), (1, *prefix_shape(CONFIG, 2, PLACES)))
    outputs = []
    for config, tree in ((CONFIG, params), (SCANNED, stack_layers(params, CONFIG))):
        prefixed = with_prefix(tree, config, prefix, PLACES)
        function = functools.partial(FUNCTIONS[name], config=config, table=table)
        outputs.append(jax.jit(lambda p, x, f=function: f(p, encoder_tokens=x))(prefixed, INPUTS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *outputs)


@pytest.mark.slow
@pytest.mark.parametrize("scanned", [False, True])
def test_the_best_label_after_a_prefix_is_the_one_that_ranks_first(scanned):
    params, table = model()
    config = SCANNED if scanned else CONFIG
    tree = stack_layers(params, CONFIG) if scanned else params
    prefix = jax.random.normal(jax.random.key(5), (1, *prefix_shape(CONFIG, 2, PLACES)))
    prefixed = with_prefix(tree, config, prefix, PLACES)
    chosen, score = choose_label(prefixed, config, INPUTS, LABELS, table=table)
    ranked = rank_labels(prefixed, config, INPUTS, LABELS, table=table)
    assert chosen.tolist() == np.argmax(ranked, axis=1).tolist()
    np.testing.assert_allclose(score, np.max(ranked, axis=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["greedy", "beams", "ranking", "the best label"])
def test_decoding_holds_no_copy_of_scanned_weights(name):
    # Eight wide layers, so that a copy of their weights would be far above all else.
    config = dataclasses.replace(SCANNED, num_decoder_layers=8, emb_dim=64, mlp_dim=4096)
    plain = dataclasses.replace(config, scan_layers=False)
    params = jax.eval_shape(
        lambda key: stack_layers(init_params(key, plain), plain), jax.random.key(0)
    )
    function = functools.partial(FUNCTIONS[name], config=config)
    compiled = jax.jit(lambda p, x: function(p, encoder_tokens=x)).lower(params, INPUTS).compile()
    weights = sum(x.size * 4 for x in jax.tree.leaves(params["decoder"]["layers"]))
    assert compiled.memory_analysis().temp_size_in_bytes < weights / 3
