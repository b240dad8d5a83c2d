"""Shapes of T5 1.1, the arrays of a step, and the operations that a step needs."""

import dataclasses

import numpy as np

from spot_jax.t5.config import T5Config

PROMPT = 100
_T5 = T5Config(dropout_rate=0.0)
SHAPES = {
    "tiny": T5Config(
        vocab_size=256, emb_dim=32, num_heads=2, head_dim=16, mlp_dim=64,
        num_encoder_layers=2, num_decoder_layers=2, dropout_rate=0.0,
    ),
    "small": _T5,
    "base": dataclasses.replace(
        _T5, emb_dim=768, num_heads=12, mlp_dim=2048, num_encoder_layers=12, num_decoder_layers=12
    ),
    "large": dataclasses.replace(
        _T5, emb_dim=1024, num_heads=16, mlp_dim=2816, num_encoder_layers=24, num_decoder_layers=24
    ),
    "xl": dataclasses.replace(
        _T5, emb_dim=2048, num_heads=32, mlp_dim=5120, num_encoder_layers=24, num_decoder_layers=24
    ),
}  # fmt: skip


def arrays(config: T5Config, rows: int, inputs: int, targets: int, seed: int = 0) -> dict:
    """Draw a batch without padding: text [rows, inputs] and targets [rows, targets], int32."""
    generator = np.random.default_rng(seed)
    return {
        "text": generator.integers(2, config.vocab_size, (rows, inputs)).astype(np.int32),
        "targets": generator.integers(2, config.vocab_size, (rows, targets)).astype(np.int32),
    }


def step_operations(config: T5Config, rows: int, inputs: int, targets: int) -> dict[str, float]:
    """Count the floating-point operations of a prompt-tuning step as T5's formulas have them.

    Ours makes fewer where targets are few: the keys and values of the encoder's output are not
    made (spot_jax/t5/attention/absorbed.py).

    4 N T: every matrix is multiplied by the positions it sees once forward and once backward (to
    the activations; frozen matrices need no gradient of their own), two operations a number.
    "attention" are the products of queries with keys and of weights with values: twice forward,
    four times backward.
    """
    d, joined, ff = config.emb_dim, config.num_heads * config.head_dim, config.mlp_dim
    gates = len(config.mlp_activations)
    attention, feed_forward = 4 * d * joined, (gates + 1) * d * ff
    encoder = config.num_encoder_layers * (attention + feed_forward)
    # The decoder's cross-attention reads the encoder's positions with its key and value matrices.
    encoder += config.num_decoder_layers * 2 * d * joined
    decoder = config.num_decoder_layers * (attention + 2 * d * joined + feed_forward)
    decoder += d * config.vocab_size
    source = PROMPT + inputs
    pairs = config.num_encoder_layers * source**2
    pairs += config.num_decoder_layers * targets * (targets + source)
    return {
        "matrices": 4.0 * rows * (encoder * source + decoder * targets),
        "attention": 12.0 * rows * joined * pairs,
    }
