"""Log-likelihoods against T5X's, and ranking against one forward pass a label."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.t5 import scoring
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import init_params

sequence_log_likelihood = jax.jit(scoring.sequence_log_likelihood, static_argnums=1)
segment_log_likelihoods = jax.jit(scoring.segment_log_likelihoods, static_argnums=(1, 3))

CONFIG = T5Config(
    vocab_size=16,
    emb_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=12,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
)
# Virtual tokens 16 and 17 first, then text.
INPUTS = np.array([[16, 17, 5, 6, 7, 1], [16, 17, 9, 1, 0, 0], [16, 17, 3, 4, 1, 0]], np.int32)
LABELS = np.array([[4, 5, 1], [8, 1, 0], [8, 9, 1], [1, 0, 0], [15, 1, 0]], np.int32)


@functools.cache
def model():
    table = jax.random.normal(jax.random.key(1), (2, CONFIG.emb_dim))
    return init_params(jax.random.key(0), CONFIG), table


def batch_of(inputs, targets):
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }


@pytest.mark.parametrize("name", ["minimal", "prompt"])
def test_log_likelihoods_equal_t5x(golden_backbone, golden, name):
    config, params = golden_backbone
    z = np.load(golden / "golden.npz")
    batch = {key: z[key] for key in batch_of(INPUTS, LABELS)}
    table = None
    if name == "prompt":
        table = jnp.asarray(z["prompt"])
        virtual = np.tile(config.vocab_size + np.arange(len(table)), (3, 1))
        ids = np.concatenate([virtual, batch["encoder_input_tokens"]], axis=1)
        batch["encoder_input_tokens"] = ids
    likelihoods = sequence_log_likelihood(params, config, batch, table=table)
    np.testing.assert_allclose(likelihoods, z[f"{name}/score_batch"], rtol=1e-5)


@pytest.mark.slow
def test_packed_segments_score_as_rows_of_their_own():
    params, table = model()
    alone = sequence_log_likelihood(params, CONFIG, batch_of(INPUTS, LABELS[:3]), table=table)
    # Rows 0 and 1 share a row, row 2 has one alone.
    packed = {
        "encoder_input_tokens": [[16, 17, 5, 6, 7, 1, 16, 17, 9, 1], [16, 17, 3, 4, 1] + [0] * 5],
        "encoder_segment_ids": [[1] * 6 + [2] * 4, [1] * 5 + [0] * 5],
        "decoder_input_tokens": [[0, 4, 5, 0, 8, 0], [0, 8, 9, 0, 0, 0]],
        "decoder_target_tokens": [[4, 5, 1, 8, 1, 0], [8, 9, 1, 0, 0, 0]],
        "decoder_segment_ids": [[1, 1, 1, 2, 2, 0], [1, 1, 1, 0, 0, 0]],
        "decoder_loss_weights": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]],
    }
    packed = {name: np.array(rows, np.int32) for name, rows in packed.items()}
    likelihoods = segment_log_likelihoods(params, CONFIG, packed, 3, table=table)
    expected = [[alone[0], alone[1], 0], [alone[2], 0, 0]]
    np.testing.assert_allclose(likelihoods, expected, rtol=1e-5)
    np.testing.assert_allclose(
        sequence_log_likelihood(params, CONFIG, packed, table=table),
        [alone[0] + alone[1], alone[2]],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "labels_at_a_time", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5))]
)
def test_ranking_equals_a_forward_pass_a_label(monkeypatch, labels_at_a_time):
    params, table = model()
    a_label = 4 * len(INPUTS) * LABELS.shape[1] * CONFIG.vocab_size
    monkeypatch.setattr(scoring, "_LOGITS_BYTES", labels_at_a_time * a_label)
    encodings = []

    def counted(*args, **kwargs):
        encodings.append(1)
        return original(*args, **kwargs)

    original = scoring.encode
    monkeypatch.setattr(scoring, "encode", counted)

    # A function of this test's own: what `jit` has traced before would not count.
    def ranked(params, table, normalise):
        return scoring.rank_labels(params, CONFIG, INPUTS, LABELS, table=table, normalise=normalise)

    rank = jax.jit(ranked, static_argnums=2)
    scores = rank(params, table, False)
    assert len(encodings) == 1 and scores.shape == (3, 5)
    for number, label in enumerate(LABELS):
        batch = batch_of(INPUTS, np.tile(label, (3, 1)))
        expected = sequence_log_likelihood(params, CONFIG, batch, table=table)
        np.testing.assert_allclose(scores[:, number], expected, rtol=1e-5)
    mean = rank(params, table, True)
    np.testing.assert_allclose(mean, scores / np.array([[3, 2, 3, 1, 2]]), rtol=1e-5)


@pytest.mark.parametrize(
    ("sharpness", "normalise"),
    [
        (0.3, True),
        *(
            pytest.param(*c, marks=pytest.mark.slow)
            for c in ((0.3, False), (4.0, True), (4.0, False))
        ),
    ],
)
def test_the_chosen_label_is_the_one_that_ranks_first(monkeypatch, sharpness, normalise):
    params, table = model()
    head = params["decoder"]["logits_dense"]["kernel"] * sharpness
    params = {**params, "decoder": {**params["decoder"], "logits_dense": {"kernel": head}}}
    random = np.random.default_rng(0)
    drawn = {tuple(random.integers(2, 8, random.integers(1, 4)).tolist()) for _ in range(60)}
    labels = np.zeros((len(drawn), 4), np.int32)
    for row, label in zip(labels, sorted(drawn), strict=True):
        row[: len(label) + 1] = [*label, 1]
    inputs = random.integers(2, 18, (9, 6)).astype(np.int32)
    scored = []
    original = scoring.decode_step

    def counted(*arguments):
        jax.debug.callback(lambda: scored.append(1))
        return original(*arguments)

    # Written as for one device, where rows are taken in parts.
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(scoring, "decode_step", counted)
    options = {"table": table, "normalise": normalise}
    choose = functools.partial(scoring.choose_label, config=CONFIG, **options)
    chosen = jax.jit(lambda params, x: choose(params, encoder_tokens=x, label_tokens=labels))
    best_labels, best_scores = jax.block_until_ready(chosen(params, inputs))
    jax.effects_barrier()
    calls = len(scored)
    scores = scoring.rank_labels(params, CONFIG, inputs, labels, **options)
    assert best_labels.tolist() == np.argmax(scores, axis=1).tolist()
    np.testing.assert_allclose(best_scores, np.max(scores, axis=1), rtol=1e-5)
    # Sure of itself, a model has its label spelled, and a few others begun; unsure, most of them.
    assert calls < (60 if sharpness > 1 else 4 * len(labels))


@pytest.mark.slow
def test_rows_that_do_not_count_are_not_searched():
    params, table = model()
    chosen, _ = scoring.choose_label(
        params, CONFIG, INPUTS, LABELS, table=table, valid=np.array([True, False, False])
    )
    ranked = scoring.rank_labels(params, CONFIG, INPUTS, LABELS, table=table)
    assert int(chosen[0]) == int(jnp.argmax(ranked[0]))
