"""Optimizers against their definitions, worked out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spot_jax.errors import SpotError
from spot_jax.training.optimizers import (
    Adafactor,
    AdamW,
    Constant,
    RsqrtDecay,
    StepDecay,
    WarmupDecay,
    build,
)

RNG = np.random.default_rng(0)


def update(tx, params, grads):
    """The parameters after each gradient."""
    state, path = tx.init(params), []
    step = jax.jit(tx.update)
    for grad in grads:
        updates, state = step(grad, state, params)
        params = optax.apply_updates(params, updates)
        path.append(jax.tree.map(np.asarray, params))
    return path


def adafactor(p, grads, lr, decay=0.8, weight_decay=0.0, clip=1.0, first=0):
    """T5X's unfactored Adafactor as its paper writes it."""
    v, path = np.zeros_like(p), []
    for i, g in enumerate(grads):
        beta = 1.0 - (first + i + 1.0) ** -decay
        v = beta * v + (1 - beta) * (g**2 + 1e-30)
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt(np.mean(u**2)) / clip) if clip else u
        p = (1 - weight_decay) * p - lr * u
        path.append(p)
    return path


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"weight_decay": 0.01},
        {"clip": None},
        {"clip": 0.3},
        {"decay": 0.5},
        {"first": 1_100_000},
        {"first": 1_100_000, "clip": None},
        {"lr": 0.01, "weight_decay": 1e-5},
    ],
    ids=str,
)
def test_adafactor_is_its_definition(case):
    p = RNG.normal(size=(4, 6)).astype(np.float32)
    grads = [RNG.normal(size=(4, 6)).astype(np.float32) * 10.0**k for k in (0, 1, -1, 0, 2)]
    case = {"lr": 0.3, "weight_decay": 0.0, "clip": 1.0, "decay": 0.8, "first": 0, **case}
    expected = adafactor(p, grads, **case)
    optimizer = Adafactor(
        case["lr"],
        weight_decay=case["weight_decay"],
        decay_rate=case["decay"],
        clipping_threshold=case["clip"],
        first_step=case["first"],
    )
    actual = update(build(optimizer, 1), p, grads)
    # beta2 is a float32: so near 1, its distance from 1 has fewer digits.
    np.testing.assert_allclose(actual, expected, rtol=1e-2 if case["first"] else 2e-5, atol=1e-5)


def test_weight_decay_is_not_scaled_by_the_learning_rate():
    p, zero = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    for lr in (1e-30, 0.3):
        (updated,) = update(build(Adafactor(lr, weight_decay=0.01), 1), p, [zero])
        np.testing.assert_allclose(updated, 0.99 * p, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_clipping_bounds_the_update_and_no_more(scale):
    # From a late first step the raw update is sign(g) / sqrt(1 - beta2), 260 of them: clipped to 1.
    p, g = np.zeros((8, 4), np.float32), RNG.normal(size=(8, 4)).astype(np.float32) * scale
    (updated,) = update(build(Adafactor(0.3, weight_decay=0.0, first_step=1_100_000), 1), p, [g])
    np.testing.assert_allclose(updated, -0.3 * np.sign(g), rtol=1e-4)
    # Below the threshold nothing is scaled: the second gradient is a tenth of the first.
    (_, updated) = update(build(Adafactor(0.3, weight_decay=0.0), 1), p, [g, g / 10])
    v = (1 - 2**-0.8) + 2**-0.8 / 100
    np.testing.assert_allclose(updated, -0.3 * np.sign(g) * (1 + 0.1 / np.sqrt(v)), rtol=1e-4)


@pytest.mark.parametrize(
    ("first_step", "beta"), [(0, 0.0), (1, 1 - 2**-0.8), (1_100_000, 1 - 1_100_001**-0.8)]
)
def test_first_step_is_where_the_second_moment_counts_from(first_step, beta):
    tx = build(Adafactor(first_step=first_step), 1)
    p, g = jnp.zeros((2, 3)), jnp.full((2, 3), 2.0)
    _, state = tx.update(g, tx.init(p), p)
    np.testing.assert_allclose(state[0].v, (1 - beta) * 4.0, rtol=1e-2)


@pytest.mark.parametrize(
    ("factored", "shape", "kept"),
    [
        (False, (128, 130), {"v": (128, 130)}),
        (True, (128, 130), {"v_row": (128,), "v_col": (130,)}),
        (True, (127, 130), {"v": (127, 130)}),
        (True, (130,), {"v": (130,)}),
    ],
)
def test_what_is_kept_of_the_second_moment(factored, shape, kept):
    state = build(Adafactor(factored=factored), 1).init(jnp.zeros(shape))[0]
    shapes = {n: getattr(state, n).shape for n in ("v", "v_row", "v_col")}
    assert {n: s for n, s in shapes.items() if s != (1,)} == kept


def test_factored_moments_rebuild_a_rank_one_second_moment():
    row = np.exp(RNG.normal(size=(128, 1))).astype(np.float32)
    column = np.exp(RNG.normal(size=(1, 128))).astype(np.float32)
    p, g = np.zeros((128, 128), np.float32), row * column
    whole, parts = (update(build(Adafactor(factored=f), 1), p, [g, 2 * g]) for f in (False, True))
    np.testing.assert_allclose(parts, whole, rtol=1e-4)


def test_parameter_scale_multiplies_by_the_parameters_size():
    p, g = np.full((4, 4), 5.0, np.float32), np.ones((4, 4), np.float32)
    plain, scaled = (
        update(build(Adafactor(0.1, parameter_scale=s, weight_decay=0.0), 1), p, [g])[0] - p
        for s in (False, True)
    )
    np.testing.assert_allclose(scaled, 5.0 * plain, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [Adafactor, AdamW])
def test_each_of_n_prompts_goes_as_it_goes_alone(optimizer):
    n, rates = 3, (0.3, 0.1, 0.01)
    p = RNG.normal(size=(n, 4, 6)).astype(np.float32)
    # Gradients of very different size: shared clipping or moments would show.
    sizes = np.array([1e-3, 1.0, 1e3], np.float32)[:, None, None]
    grads = [RNG.normal(size=p.shape).astype(np.float32) * sizes for _ in range(4)]
    together = update(build(optimizer(rates), n), {"prompt": p}, [{"prompt": g} for g in grads])
    for i, rate in enumerate(rates):
        at = slice(i, i + 1)
        alone = update(
            build(optimizer((rate,)), 1), {"prompt": p[at]}, [{"prompt": g[at]} for g in grads]
        )
        for actual, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(actual["prompt"][at], expected["prompt"], rtol=1e-5)


def test_one_learning_rate_is_for_all_prompts():
    p, g = np.ones((2, 3, 2), np.float32), np.ones((2, 3, 2), np.float32)
    shared, separate = (update(build(Adafactor(rate), 2), p, [g])[0] for rate in (0.3, (0.3, 0.3)))
    np.testing.assert_array_equal(shared, separate)


def test_learning_rates_that_do_not_fit_the_prompts_are_refused():
    with pytest.raises(SpotError, match="2 learning rates were given for 3 prompts"):
        build(Adafactor((0.1, 0.2)), 3)


def test_adamw_clips_the_whole_gradient_and_decays_matrices_only():
    p = {"kernel": np.ones((2, 2), np.float32), "scale": np.ones(2, np.float32)}
    zero = jax.tree.map(np.zeros_like, p)
    optimizer = AdamW(0.1, weight_decay=0.5)
    (updated,) = update(build(optimizer, 1), p, [zero])
    np.testing.assert_allclose(updated["kernel"], 0.95, rtol=1e-6)
    np.testing.assert_allclose(updated["scale"], 1.0)
    encoder = {"prompt_encoder": p, "decoder": p}
    (updated,) = update(build(optimizer, 1), encoder, [jax.tree.map(np.zeros_like, encoder)])
    np.testing.assert_allclose(updated["prompt_encoder"]["kernel"], 1.0)
    np.testing.assert_allclose(updated["decoder"]["kernel"], 0.95, rtol=1e-6)
    tx = build(AdamW(0.1, b1=0.0, max_norm=1.0), 1)
    big = jax.tree.map(lambda x: 100.0 * np.ones_like(x), p)
    _, state = tx.update(big, tx.init(p), p)
    first_moment = optax.tree.get(state, "mu")
    assert float(optax.tree.norm(first_moment)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        (Constant(), 0, 1.0),
        (Constant(), 10**6, 1.0),
        (WarmupDecay(10, 110), 0, 0.1),
        (WarmupDecay(10, 110), 9, 1.0),
        (WarmupDecay(10, 110), 60, 0.5),
        (WarmupDecay(10, 110), 110, 0.0),
        (WarmupDecay(10, 110), 500, 0.0),
        (WarmupDecay(10, 110, final=0.2), 60, 0.6),
        (WarmupDecay(10, 110, "cosine"), 35, 0.5 * (1 + np.cos(np.pi / 4))),
        (WarmupDecay(0, 100), 0, 1.0),
        (RsqrtDecay(100), 0, 0.1),
        (RsqrtDecay(100), 100, 0.1),
        (RsqrtDecay(100), 10_000, 0.01),
        (RsqrtDecay(100, normalized=True), 7, 1.0),
        (RsqrtDecay(100, normalized=True), 400, 0.5),
        (RsqrtDecay(0), 0, 1.0),
        (StepDecay(10, 0.5), 9, 1.0),
        (StepDecay(10, 0.5), 10, 0.5),
        (StepDecay(10, 0.5), 35, 0.125),
        (StepDecay(10, 0.5, warmup_steps=4), 0, 0.25),
    ],
)
def test_learning_rate_factors(schedule, step, factor):
    assert float(schedule(jnp.asarray(step))) == pytest.approx(factor, rel=1e-5, abs=1e-6)


def test_a_schedule_is_applied_to_each_step():
    schedule = WarmupDecay(2, 4)
    p, g = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    optimizer = Adafactor(0.3, schedule=schedule, weight_decay=0.0)
    path = update(build(optimizer, 1), p, [g] * 4)
    steps = -np.diff([0.0, *(x[0, 0] for x in path)])
    np.testing.assert_allclose(steps, [0.15, 0.3, 0.3, 0.15], rtol=1e-4)
