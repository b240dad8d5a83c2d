"""Optimizers and learning rates, made of optax's parts with T5X's meaning.

Each is a frozen dataclass that builds an `optax.GradientTransformation` for one learning rate;
`build` maps it over the leading axis of N prompts, so that no prompt's clipping or second moment
sees another's.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from spot_jax.errors import (
    COUNT,
    POSITIVE,
    SHARE,
    Range,
    SpotError,
    check_choice,
    check_fields,
    whole,
)
from spot_jax.methods.p_tuning import ENCODER as UNDECAYED
from spot_jax.training.layerwise import by_layer, is_stacked, names_of, ranks

Schedule = Callable[[Any], Any]
# Far above what any of ours can be trained with, and below what overflows.
RATE = Range(0, 1e6, "low")
STEP = whole(0, 10**9)
# AdamW scales its decay by the learning rate, so it may be above 1.
DECAY = Range(0, 1e6)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The learning rate as it is: Prompt Tuning's 0.3 (Lester 2021, §3)."""

    def __call__(self, step: Any) -> Any:
        """Return factor 1."""
        return jnp.ones(())


@dataclasses.dataclass(frozen=True)
class WarmupDecay:
    """Linear warm-up, then a linear or cosine fall to `final` of the learning rate at `steps`.

    Attributes:
        warmup_steps: steps until the learning rate is reached.
        steps: the step at which the fall ends.
        shape: "linear" or "cosine".
        final: the factor at the end.
    """

    warmup_steps: int
    steps: int
    shape: str = "linear"
    final: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, warmup_steps=STEP, steps=whole(1, 10**9), final=SHARE)
        check_choice("WarmupDecay.shape", self.shape, ("linear", "cosine"))

    def __call__(self, step: Any) -> Any:
        """Return the factor at a step."""
        warm = jnp.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        span = max(self.steps - self.warmup_steps, 1)
        done = jnp.clip((step - self.warmup_steps) / span, 0.0, 1.0)
        left = 0.5 * (1 + jnp.cos(jnp.pi * done)) if self.shape == "cosine" else 1.0 - done
        return warm * (self.final + (1.0 - self.final) * left)


@dataclasses.dataclass(frozen=True)
class RsqrtDecay:
    """T5X's rsqrt decay: 1 / sqrt(step), constant over the first steps.

    Attributes:
        warmup_steps: number of steps over which the factor is constant; 10,000 in T5.
        normalized: whether the factor is 1 there, as T5X's "rsqrt_normalized_decay" has it, and
            not 1 / sqrt(warmup_steps).
    """

    warmup_steps: int = 10_000
    normalized: bool = False

    def __post_init__(self) -> None:
        check_fields(self, warmup_steps=STEP)

    def __call__(self, step: Any) -> Any:
        """Return the factor at a step."""
        first = max(self.warmup_steps, 1)
        scale = math.sqrt(first) if self.normalized else 1.0
        return scale * jax.lax.rsqrt(jnp.maximum(jnp.asarray(step, jnp.float32), first))


@dataclasses.dataclass(frozen=True)
class StepDecay:
    """T5X's "decay_every": a factor after every so many steps.

    Attributes:
        steps_per_decay: number of steps between falls; 20,000 in T5X.
        factor: factor of each fall; 0.5 in T5X.
        warmup_steps: number of steps of a linear warm-up before; 0 for none.
    """

    steps_per_decay: int = 20_000
    factor: float = 0.5
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_fields(self, steps_per_decay=COUNT, factor=Range(0, 1, "low"), warmup_steps=STEP)

    def __call__(self, step: Any) -> Any:
        """Return the factor at a step."""
        warm = jnp.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        falls = jnp.asarray(step // self.steps_per_decay, jnp.float32)
        return warm * jnp.power(jnp.float32(self.factor), falls)


class Optimizer(Protocol):
    """Settings of an optax transformation, with the learning rate left open."""

    @property
    def learning_rate(self) -> float | Sequence[float]:
        """Learning rate of all prompts, or one for each."""
        ...

    def transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        """Return the transformation at this learning rate, which may be a traced scalar."""
        ...


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor (Shazeer & Stern 2018) with T5X's semantics; the defaults are Prompt Tuning's.

    The step is `p <- (1 - weight_decay) p - lr * u`: weight decay is not scaled by the learning
    rate, and u = g / sqrt(v) is divided by max(1, RMS(u) / clipping_threshold).

    Attributes:
        learning_rate: constant 0.3 in the paper; one number, or one a prompt.
        schedule: factor on it by step.
        weight_decay: share that is taken off at each step; 1e-5 in the paper.
        decay_rate: exponent of the second moment, whose beta2 at step t is
            1 - (t + 1) ** -decay_rate.
        clipping_threshold: limit of the update's root mean square; None for none.
        factored: whether to keep row and column means of the second moment for matrices of 128 and
            more on both sides, as T5X does when it tunes the whole model.
        parameter_scale: multiply the update by the parameter's root mean square.
        first_step: t of the first update. 0 begins the second moment anew. T5X's released prompt
            tuning restores step 1,100,000 from the backbone and counts on from there, so that its
            beta2 is nearly 1 from the first update and all are clipped; the paper does not say
            which was meant. Give 1_100_000 for that behaviour.
    """

    learning_rate: float | Sequence[float] = 0.3
    schedule: Schedule = Constant()
    weight_decay: float = 1e-5
    decay_rate: float = 0.8
    clipping_threshold: float | None = 1.0
    factored: bool = False
    parameter_scale: bool = False
    first_step: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            learning_rate=RATE,
            weight_decay=SHARE,
            decay_rate=SHARE,
            clipping_threshold=POSITIVE,
            first_step=STEP,
        )

    def transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        """See the class."""
        parts = [
            by_layer(
                optax.scale_by_factored_rms(
                    factored=self.factored,
                    decay_rate=self.decay_rate,
                    step_offset=-self.first_step,
                    min_dim_size_to_factor=128,
                    epsilon=1e-30,
                )
            )
        ]
        if self.clipping_threshold is not None:
            parts.append(by_layer(optax.clip_by_block_rms(self.clipping_threshold)))
        if self.parameter_scale:
            parts.append(by_layer(optax.scale_by_param_block_rms(1e-3)))
        parts.append(optax.scale_by_schedule(lambda step: learning_rate * self.schedule(step)))
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay))
        parts.append(optax.scale(-1.0))
        return optax.chain(*parts)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019), with a clip of the gradient's norm before it.

    Attributes:
        learning_rate: one number, or one a prompt.
        schedule: a factor on it by step.
        b1: decay of the first moment.
        b2: decay of the second moment.
        weight_decay: share that is taken off, times the learning rate; matrices only, and none of
            a prompt encoder's, as in P-Tuning's code.
        parameter_scale: multiply the update by the parameter's root mean square, as Adafactor
            does: T5's embeddings begin at 1 and its matrices near 0.1, one rate fits both so.
        max_norm: limit of the norm of the gradient of everything trainable; None for no clip.
    """

    learning_rate: float | Sequence[float] = 1e-3
    schedule: Schedule = Constant()
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.01
    parameter_scale: bool = False
    max_norm: float | None = 1.0

    def __post_init__(self) -> None:
        check_fields(self, learning_rate=RATE, weight_decay=DECAY, max_norm=POSITIVE)
        check_fields(self, b1=Range(0, 1, "high"), b2=Range(0, 1, "high"))

    def transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        """See the class."""

        def matrices(params: Any) -> Any:
            return jax.tree.map_with_path(
                lambda path, rank: rank > 1 and UNDECAYED not in names_of(path), ranks(params)
            )

        parts = [optax.scale_by_adam(self.b1, self.b2)]
        if self.max_norm is not None:
            parts.insert(0, optax.clip_by_global_norm(self.max_norm))
        if self.parameter_scale:
            parts.append(by_layer(optax.scale_by_param_block_rms(1e-3)))
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay, matrices))
        parts.append(optax.scale_by_schedule(lambda step: -learning_rate * self.schedule(step)))
        return optax.chain(*parts)


def build(
    optimizer: Optimizer, num_prompts: int, shared: bool = False
) -> optax.GradientTransformation:
    """Return the optimizer of a run.

    With one learning rate and one prompt it is `optimizer.transformation` itself. For N prompts
    it is mapped over the leading axis of every leaf, each prompt with its learning rate.

    Args:
        optimizer: settings.
        num_prompts: number of parts of the trainable tree that are optimised by themselves, N.
        shared: whether that is one tree without an axis of N.

    Raises:
        SpotError: as many learning rates as prompts, or one, are expected.
    """
    rates = optimizer.learning_rate
    if not isinstance(rates, Sequence):
        rates = [rates] * num_prompts
    if len(rates) != num_prompts:
        raise SpotError(
            f"{len(rates)} learning rates were given for {num_prompts} prompts; give one a prompt, "
            "or a single number for all"
        )
    mapped = _mapped(optimizer, jnp.asarray(rates, jnp.float32))
    if num_prompts > 1:
        return mapped
    alone = optimizer.transformation(rates[0])
    if shared:
        return alone

    def chosen(tree: Any) -> optax.GradientTransformation:
        # An axis of 1 before that of the layers is taken off; others never minded it.
        return mapped if is_stacked(tree) else alone

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        return chosen(grads).update(grads, state, params)

    return optax.GradientTransformation(lambda params: chosen(params).init(params), update)


def _mapped(optimizer: Optimizer, rates: Float[Array, " n"]) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return jax.vmap(lambda rate, p: optimizer.transformation(rate).init(p))(rates, params)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        def update_prompt(rate: Any, g: Any, s: Any, p: Any) -> Any:
            return optimizer.transformation(rate).update(g, s, p)

        return jax.vmap(update_prompt)(rates, grads, state, params)

    return optax.GradientTransformation(init, update)
