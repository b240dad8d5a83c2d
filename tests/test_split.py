import numpy as np
import pytest

from spot_jax.errors import SpotError
from spot_jax.split import merge, split

PARAMS = {
    "prompt": np.zeros(2),
    "encoder": {"layers_0": {"kernel": np.ones(3)}, "norm": {"scale": np.ones(1)}},
    "decoder": {"norm": {"scale": np.full(1, 2.0)}},
}


def paths(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}/")
        else:
            yield prefix + name


def test_the_first_rule_that_matches_decides():
    rules = [("decoder/.*", "freeze"), (".*/scale", "train"), (".*", "freeze")]
    trainable, frozen = split(PARAMS, rules)
    assert list(paths(trainable)) == ["encoder/norm/scale"]
    assert sorted(paths(frozen)) == ["decoder/norm/scale", "encoder/layers_0/kernel", "prompt"]


def test_leaves_are_the_very_objects():
    trainable, frozen = split(PARAMS, [("prompt", "train"), (".*", "freeze")])
    assert trainable["prompt"] is PARAMS["prompt"]
    kernel = PARAMS["encoder"]["layers_0"]["kernel"]
    assert frozen["encoder"]["layers_0"]["kernel"] is kernel


@pytest.mark.parametrize(
    "rules",
    [
        [("prompt", "train"), (".*", "freeze")],
        [(".*scale", "train"), (".*", "freeze")],
        [(".*", "train")],
        [(".*", "freeze")],
    ],
)
def test_merge_is_the_inverse(rules):
    trainable, frozen = split(PARAMS, rules)
    assert not set(paths(trainable)) & set(paths(frozen))
    whole = merge(trainable, frozen)
    assert sorted(paths(whole)) == sorted(paths(PARAMS))
    assert whole["encoder"]["norm"]["scale"] is PARAMS["encoder"]["norm"]["scale"]


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        ([("prompt", "train"), ("encoder/.*", "freeze")], "'decoder/norm/scale'"),
        # A rule matches whole paths: half a name is not enough.
        ([("prom", "train"), (".*/.*", "freeze")], "no train/freeze rule .* 'prompt'"),
        ([("prefix", "train"), (".*", "freeze")], "rule .'prefix', 'train'. decides no"),
        # Shadowed: all that it matches is taken.
        ([("prompt", "train"), (".*", "freeze"), ("encoder.*", "train")], "'encoder.*'"),
    ],
)
def test_a_list_that_does_not_fit_the_tree_is_refused(rules, match):
    with pytest.raises(SpotError, match=match) as caught:
        split(PARAMS, rules)
    assert "\n" not in str(caught.value)


def test_a_path_in_both_trees_is_refused():
    with pytest.raises(ValueError, match="'scale' is in both"):
        merge({"norm": {"scale": 1}}, {"norm": {"scale": 2}})
