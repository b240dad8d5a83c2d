"""The profile of a step: operations as they are by hand, and rows that sum to the step."""

import json

import jax
import jax.numpy as jnp
import pytest

from bench.peers import profile
from bench.peers.shapes import SHAPES, step_operations


def test_operations_of_a_program_are_those_by_hand():
    def product(x, w):
        return jnp.tanh(x @ w) @ w.T

    x, w = jnp.ones((8, 16)), jnp.ones((16, 32))
    compiled = profile.instructions(jax.jit(product).lower(x, w).compile().as_text())
    leaves = [i.operations for name, i in compiled.items() if name.startswith("dot")]
    assert leaves == [2 * 8 * 16 * 32] * 2


def test_paths_have_their_part():
    forward = "jit(step)/jvp(T5.encode)/encoder/layers_0/"
    assert profile.part(forward + "mlp/dot_general") == ("feed-forward", "forward")
    assert profile.part(forward + "attention.attend/softmax")[0] == "attention"
    assert profile.part("jit(step)/transpose(jvp(T5.decode))/logits/dot")[1] == "backward"
    assert profile.part("jit(step)/add") == ("other", "update")


@pytest.mark.slow
def test_rows_of_a_step_sum_to_it_and_hold_every_product(tmp_path, capsys):
    output = tmp_path / "profile.json"
    profile.main(["--tiny", "--repeats", "2", "--output", str(output)])
    (result,) = json.loads(output.read_text())["results"]
    rows = result["rows"]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    needed = step_operations(SHAPES["tiny"], 2, 16, 4)
    whole = sum(row["operations"] for row in rows)
    # Attention's products are made once more in the backward pass.
    least = sum(needed.values())
    assert 0.9 * least < whole < 1.6 * least
    ways = {row["way"] for row in rows if row["part"] == "feed-forward" and row["operations"]}
    assert ways == {"forward", "backward"}
    assert "feed-forward backward matrix products" in capsys.readouterr().out
