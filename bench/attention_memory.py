"""Temporary memory of a prompt-tuning gradient, with attention recomputed and with it held.

    python bench/attention_memory.py [--output bench/results/attention_memory.json]

Compiles the gradient of the prompt's loss through a T5 1.1 `small` (8 + 8 layers, scanned, 6
heads; 8 rows of 512 tokens, 32 targets) and reads the temporary bytes that XLA plans. Nothing is
run and no weight exists. "held" is the same program without `jax.checkpoint` on `attend`;
"layers_rematerialised" is `remat=True` beside it, and "weights" the size of one float32 [batch,
heads, query, key] tensor per layer.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp

from spot_jax.methods.base import Task
from spot_jax.methods.program import Program
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.t5.attention import plain
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import init_params, stack_layers

ROWS, TOKENS, TARGETS, PROMPT = 8, 512, 32, 100
ROOT = Path(__file__).parents[1]


def temporary_bytes(config: T5Config) -> int:
    program = Program(PromptTuning(PROMPT), config, (Task(),))
    frozen = jax.eval_shape(lambda: stack_layers(init_params(jax.random.key(0), config), config))
    trainable = {"prompt": jax.ShapeDtypeStruct((1, PROMPT, config.emb_dim), jnp.float32)}
    targets = jax.ShapeDtypeStruct((ROWS, TARGETS), jnp.int32)
    batch = {
        "encoder_input_tokens": jax.ShapeDtypeStruct((ROWS, TOKENS), jnp.int32),
        "decoder_input_tokens": targets,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": jax.ShapeDtypeStruct((ROWS, TARGETS), jnp.float32),
    }
    grad = jax.jit(jax.grad(lambda *arguments: program.loss(*arguments, None)[0]))
    executable = grad.lower(trainable, frozen, batch).compile()
    return executable.memory_analysis().temp_size_in_bytes


def weights_bytes(config: T5Config) -> int:
    encoder = config.num_encoder_layers * TOKENS * TOKENS
    decoder = config.num_decoder_layers * TARGETS * (TARGETS + TOKENS)
    return 4 * ROWS * config.num_heads * (encoder + decoder)


def measure(dtype: str) -> dict:
    config = T5Config(dropout_rate=0.0, dtype=dtype, scan_layers=True)
    recomputed = temporary_bytes(config)
    with mock.patch.object(plain, "attend", plain.attend.__wrapped__):
        held = temporary_bytes(config)
    rematerialised = temporary_bytes(dataclasses.replace(config, remat=True))
    weights = weights_bytes(config)
    return {
        "dtype": dtype,
        "recomputed_bytes": recomputed,
        "held_bytes": held,
        "layers_rematerialised_bytes": rematerialised,
        "weights_bytes": weights,
        "held_over_recomputed": round(held / recomputed, 2),
        "saved_over_weights": round((held - recomputed) / weights, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "bench" / "results" / "attention_memory.json"
    )
    output = parser.parse_args().output
    result = {
        "rows": ROWS,
        "tokens": TOKENS,
        "targets": TARGETS,
        "platform": jax.devices()[0].platform,
        "jax": jax.__version__,
        "cases": [measure(dtype) for dtype in ("float32", "bfloat16")],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
