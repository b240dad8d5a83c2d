"""The encoder's output as features of a text: the last layer's, or every layer's."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from spot_jax.errors import SpotError
from spot_jax.t5.config import T5Config
from spot_jax.t5.layers import EncoderLayer, RMSNorm
from spot_jax.t5.model import T5, Params, unstack_layers

LAYERS = ("last", "mix")


def feature_layers(config: T5Config, layers: str) -> int:
    """Return the number of vectors per token: 1 for "last", embedding and every layer for "mix".

    Raises:
        SpotError: neither of the two.
    """
    if layers not in LAYERS:
        raise SpotError(f"expected features of the layers 'last' or 'mix', found {layers!r}")
    return 1 if layers == "last" else config.num_encoder_layers + 1


def encoder_features(
    params: Params, config: T5Config, tokens: Int[Array, "b t"], layers: str = "last"
) -> Float[Array, "b t l d"]:
    """Return the features of each token, without dropout.

    Args:
        params: parameter tree of the T5, of which only the encoder is used.
        config: shape of the model; `scan_layers` may be set.
        tokens: ids, 0 is padding.
        layers: name of the choice. "last": the encoder's output, after its final norm. "mix": the
            embedded tokens and every layer's output, each through that same norm: unnormed, the
            layers differ in size by orders of magnitude, and large models' overflow float16.

    Returns:
        float32; without meaning at padding.
    """
    if config.scan_layers:
        params = unstack_layers(params, config)
    config = dataclasses.replace(config, scan_layers=False, remat=False)
    count = feature_layers(config, layers)
    variables = {"params": {name: params[name] for name in ("token_embedder", "encoder")}}
    inputs = (tokens, None, None, None)
    if count == 1:
        last = T5(config).apply(variables, *inputs, method=T5.encode)
        return last.astype(jnp.float32)[:, :, None]  # type: ignore[union-attr]
    _, captured = T5(config).apply(
        variables,
        *inputs,
        method=T5.encode,
        capture_intermediates=lambda module, name: isinstance(module, EncoderLayer),
        mutable=["intermediates"],
    )
    outputs = captured["intermediates"]["encoder"]
    embedding = params["token_embedder"]["embedding"][tokens].astype(config.dtype)
    states = [embedding, *(outputs[f"layers_{i}"]["__call__"][0][0] for i in range(count - 1))]
    norm = RMSNorm(config.layer_norm_epsilon, config.dtype)
    scale = {"params": params["encoder"]["encoder_norm"]}
    normed: list[Any] = [norm.apply(scale, x) for x in states]
    return jnp.stack(normed, axis=2).astype(jnp.float32)
