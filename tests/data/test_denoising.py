import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spot_jax.data.denoising import PrefixLM, SpanCorruption, TokenSource, objective
from spot_jax.data.sources import generator
from spot_jax.errors import SpotError

V = 1100  # of which the last hundred are sentinels
text = st.lists(st.integers(3, 999), min_size=2, max_size=300)


def pieces(ids, sentinels):
    """Split at sentinels: what comes before the first, and (sentinel, what follows it) pairs."""
    parts, head = [], []
    for token in ids:
        if token >= V - sentinels:
            parts.append((token, []))
        else:
            (parts[-1][1] if parts else head).append(token)
    return head, parts


@settings(max_examples=80, deadline=None)
@given(text, st.integers(0, 1000), st.sampled_from([0.15, 0.5]), st.sampled_from([100, 3]))
def test_inputs_and_targets_together_are_the_text(chunk, seed, density, sentinels):
    corruption = SpanCorruption(V, sentinels=sentinels, noise_density=density)
    inputs, targets = corruption.apply(np.array(chunk), generator(seed))
    assert inputs[-1] == targets[-1] == 1
    head, kept = pieces(inputs[:-1].tolist(), sentinels)
    nothing, gone = pieces(targets[:-1].tolist(), sentinels)
    names = [V - 1 - k for k in range(len(gone))]
    assert [name for name, _ in kept] == [name for name, _ in gone] == names
    assert head and not nothing and all(span for _, span in gone)
    again = head + [token for (_, a), (_, b) in zip(gone, kept, strict=True) for token in [*a, *b]]
    assert again == chunk
    noise = sum(len(span) for _, span in gone)
    assert noise == min(max(round(len(chunk) * density), 1), len(chunk) - 1)


def test_lengths_are_t5s():
    corruption = SpanCorruption(32100)
    assert (corruption.chunk_length(512), corruption.targets_length(512)) == (568, 114)
    inputs, targets = corruption.apply(np.full(568, 5), generator(0))
    assert (len(inputs), len(targets)) == (512, 114)
    assert (inputs == 32099).sum() == 1 and (inputs == 32099 - 27).sum() == 1


def test_spans_are_three_long_on_average_and_anywhere():
    masks = np.array([SpanCorruption(32100).mask(568, generator(seed)) for seed in range(300)])
    assert (masks.sum(axis=1) == 85).all()
    starts = (masks[:, 1:] & ~masks[:, :-1]).sum(axis=1)
    assert (starts == 28).all()
    middle = masks[:, 50:500].mean(axis=0)
    assert abs(middle.mean() - 0.15) < 0.01 and middle.min() > 0.05


@settings(max_examples=50, deadline=None)
@given(text, st.integers(0, 1000), st.sampled_from([None, 4]))
def test_prefix_and_continuation_are_the_text(chunk, seed, continuation):
    inputs, targets = PrefixLM(continuation).apply(np.array(chunk), generator(seed))
    assert inputs[-1] == targets[-1] == 1 and len(inputs) > 1 and len(targets) > 1
    whole = [*inputs[:-1].tolist(), *targets[:-1].tolist()]
    assert whole == chunk[: len(whole)]
    assert len(targets) <= PrefixLM(continuation).targets_length(len(chunk))
    assert continuation is None or len(targets) <= continuation + 1
    if continuation is None:
        assert whole == chunk


@pytest.mark.parametrize("name", ["span_corruption", "prefix_lm"])
def test_a_source_fits_its_lengths_covers_the_text_and_restores(name):
    tokens = np.arange(3, 903, dtype=np.uint16)
    pretraining = objective(name, V, 12)

    def source():
        return TokenSource(tokens, pretraining, 40, seed=5)

    original = source()
    drawn = [original.next() for _ in range(3 * original.chunks)]
    assert max(len(inputs) for inputs, _ in drawn) <= 40
    assert max(len(targets) for _, targets in drawn) <= pretraining.targets_length(40)
    first = {int(i[0]) for i, _ in drawn[: original.chunks]}
    assert len(first) == original.chunks and first != {
        int(i[0]) for i, _ in drawn[original.chunks :]
    }

    stopped = source()
    for _ in range(original.chunks + 3):
        stopped.next()
    state = stopped.state()
    resumed = source()
    resumed.restore(state)
    for inputs, targets in drawn[original.chunks + 3 : original.chunks + 20]:
        again = resumed.next()
        assert again[0].tolist() == inputs.tolist() and again[1].tolist() == targets.tolist()


def test_what_becomes_of_a_chunk_follows_from_seed_epoch_and_number_alone():
    tokens, prefix_lm = np.arange(3, 903), PrefixLM()
    source = TokenSource(tokens, prefix_lm, 40, seed=5)
    seen = {}
    for epoch in range(2):
        offset = int(generator(5, epoch).integers(40))
        for _ in range(source.chunks):
            inputs, targets = source.next()
            number, rest = divmod(int(inputs[0]) - 3 - offset, 40)
            assert rest == 0
            chunk = tokens[offset + number * 40 :][:40]
            again = prefix_lm.apply(chunk, generator(5, epoch, number))
            assert again[0].tolist() == inputs.tolist() and again[1].tolist() == targets.tolist()
            seen.setdefault(number, []).append(len(inputs))
    assert len(seen) == source.chunks and any(a != b for a, b in seen.values())


def test_mistakes_are_one_clear_line():
    with pytest.raises(SpotError, match="at least 80 tokens of text .* found 50"):
        TokenSource(np.zeros(50, np.int32), PrefixLM(), 40, 0)
    with pytest.raises(SpotError, match="expected an objective"):
        objective("spans", V)
    with pytest.raises(SpotError, match="text has changed"):
        TokenSource(np.zeros(500, np.int32), PrefixLM(), 40, 0).restore({"epoch": 0, "index": 99})
