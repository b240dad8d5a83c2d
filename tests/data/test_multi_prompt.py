import numpy as np
import pytest

from spot_jax.data.batches import Batches, BatchShape
from spot_jax.data.examples import Examples
from spot_jax.data.multi_prompt import MultiPromptBatches
from spot_jax.data.sources import Shuffled
from spot_jax.data.virtual_tokens import VirtualTokens
from spot_jax.errors import SpotError

V, P, N, B = 100, 3, 4, 2


def batches(prompt, index, *, pack, rows=B):
    pairs = [([10 + prompt, 5 + i, 1], [20 + prompt, 1]) for i in range(7)]
    packed = {"packed_inputs_length": 20} if pack else {}
    return Batches(
        Shuffled(Examples.from_lists(pairs), seed=prompt),
        BatchShape(rows, 4, 6, pack=pack, **packed),
        write=VirtualTokens(V, P, index),
    )


@pytest.mark.parametrize("pack", [False, True])
def test_each_prompt_s_rows_are_what_they_are_alone_with_their_ids_shifted(pack):
    together = MultiPromptBatches([batches(n, n, pack=pack) for n in range(N)])
    alone = [batches(n, 0, pack=pack) for n in range(N)]
    for _ in range(5):
        batch, apart = next(together), [next(each) for each in alone]
        assert batch["row_prompt"].tolist() == np.repeat(range(N), B).tolist()
        assert batch["row_number"].tolist() == list(range(B)) * N
        for n, expected in enumerate(apart):
            rows = batch["row_prompt"] == n
            tokens = expected["encoder_input_tokens"]
            expected["encoder_input_tokens"] = np.where(tokens >= V, tokens + n * P, tokens)
            for name in expected:
                assert (batch[name][rows] == expected[name]).all(), name
    assert together.examples == sum(each.examples for each in alone)


@pytest.mark.parametrize("key", ["prompts", "lanes"])  # runs of 0.1 have "lanes"
def test_restore_of_all_prompts_is_exact(key):
    first, second = (
        MultiPromptBatches([batches(n, n, pack=True) for n in range(N)]) for _ in range(2)
    )
    next(first)
    second.restore({key: first.state()["prompts"]})
    expected, actual = next(first), next(second)
    assert all((expected[name] == actual[name]).all() for name in expected)


def test_hosts_take_their_rows_of_all_prompts():
    whole = next(MultiPromptBatches([batches(n, n, pack=False) for n in range(N)]))
    part = next(
        MultiPromptBatches([batches(n, n, pack=False) for n in range(N)], host_rows=slice(3, 6))
    )
    assert all((whole[name][3:6] == part[name]).all() for name in whole)


def test_prompts_that_do_not_match_are_refused():
    with pytest.raises(SpotError, match="prompts of one batch shape, found 2"):
        MultiPromptBatches([batches(0, 0, pack=False), batches(1, 1, pack=False, rows=3)])
    with pytest.raises(SpotError, match="batches of at least one prompt"):
        MultiPromptBatches([])
    with pytest.raises(SpotError, match="data places of 1 prompts, found 2"):
        MultiPromptBatches([batches(0, 0, pack=False)]).restore({"prompts": [{}, {}]})
