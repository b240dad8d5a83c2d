"""What a program costs: operations of its jaxpr, traffic of its HLO."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from spot_jax.planning.chips import CHIPS, parse
from spot_jax.planning.cost import collectives, operations
from spot_jax.training.sharding import MeshShape, make_mesh


def traced(function, *arguments):
    return jax.jit(function).trace(*arguments).jaxpr.jaxpr


def test_a_product_counts_two_for_each_multiplication():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert operations(traced(lambda a, b: jnp.tanh(a @ b), a, b)) == 2 * 3 * 5 * 7


def test_a_loop_counts_as_often_as_it_runs_and_a_recomputed_layer_twice():
    weights, x = jnp.ones((4, 5, 5)), jnp.ones((3, 5))

    def layers(x, step):
        return jax.lax.scan(lambda x, w: (step(x, w), None), x, weights)[0].sum()

    def step(x, w):
        return jnp.tanh(x @ w)

    once = 4 * 2 * 3 * 5 * 5
    assert operations(traced(lambda x: layers(x, step), x)) == once
    assert operations(traced(jax.grad(lambda x: layers(x, step)), x)) == 2 * once
    assert operations(traced(jax.grad(lambda x: layers(x, jax.checkpoint(step))), x)) == 3 * once


def test_traffic_within_a_loop_counts_as_often_as_it_runs():
    mesh = make_mesh(MeshShape(1, 8))

    def placed(*shape, spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)

    def run(x, up, down):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w[0]) @ w[1], None), x, (up, down))[0]

    arguments = (
        placed(4, 16, spec=()),
        placed(3, 16, 32, spec=(None, None, "model")),
        placed(3, 32, 16, spec=(None, "model", None)),
    )
    compiled = jax.jit(run).lower(*arguments).compile()
    # The sum over `model` after each of the three layers, of 4 x 16 float32.
    assert collectives(compiled.as_text()) == {"all-reduce": 3 * 4 * 16 * 4}


def test_a_loop_that_says_its_count_in_its_condition_alone_counts_as_often():
    # As TPU's compiler writes it.
    hlo = """
%body.1 (p.1: (s32[], bf16[4,16])) -> (s32[], bf16[4,16]) {
  %x.1 = bf16[4,16]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %all-reduce.1 = bf16[4,16]{1,0:T(8,128)(2,1)} all-reduce(%x.1), channel_id=1, to_apply=%add.1
}

%condition.1 (p.2: (s32[], bf16[4,16])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(24)
  %p.2 = (s32[]{:T(128)}, bf16[4,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %constant.1), direction=LT
}

ENTRY %main.1 (a.1: bf16[4,16]) -> bf16[4,16] {
  %t.1 = (s32[]{:T(128)}, bf16[4,16]{1,0:T(8,128)(2,1)}) tuple(%zero, %a.1)
  %while.1 = (s32[]{:T(128)}, bf16[4,16]{1,0}) while(%t.1), condition=%condition.1, body=%body.1
}
"""
    assert collectives(hlo) == {"all-reduce": 24 * 4 * 16 * 2}


def test_slices_are_read_by_name():
    assert parse("v5e:2x4") == ("v5e", 8)
    assert parse("v5p:2x2x1") == ("v5p", 4)
    for chip in CHIPS.values():
        counts = [parse(f"{chip.name}:{shape}")[1] for shape in chip.slices]
        assert counts == sorted(counts)
        assert "cloud.google.com" in chip.source


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v9:2x2", "2x4", "v5e:2x", "v5e-8"])
def test_a_name_that_is_none(name):
    from spot_jax.errors import SpotError

    with pytest.raises(SpotError, match="a topology is written v5e|v5p|v6e"):
        parse(name)
