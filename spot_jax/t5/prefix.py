"""A prefix: keys and values in front of a T5's attention, layer by layer, that belong to no token.

Prefix-tuning (Li & Liang 2021, §4) and P-Tuning v2 (Liu et al. 2021) train them. `with_prefix`
puts them into the tree as leaves `prefix_key` and `prefix_value` of each attention, which reads
them where they are: whatever runs on that tree, training, ranking, decoding, has the prefix.

What a prefix means in a T5 is ours where the papers, which have absolute positions, say nothing:
its keys have no relative position bias (0), every query sees them, and the positions of the text
are those without it. Hugging Face's, which is a cache of past keys and values of the decoder,
stands at the positions before the text; with `positions` so does this one. Heads times their width
need not be the model's width.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float, Int

from spot_jax.errors import SpotError
from spot_jax.split import merge
from spot_jax.t5.config import T5Config
from spot_jax.t5.model import T5, Params, unstack_layers

# Where a prefix can stand: the attention of a layer, by T5X's names.
PLACES: Mapping[str, tuple[str, str]] = {
    "encoder": ("encoder", "attention"),
    "decoder": ("decoder", "self_attention"),
    "cross": ("decoder", "encoder_decoder_attention"),
}


def layers_of(config: T5Config, place: str) -> int:
    """Return the number of attentions in a place of `PLACES`."""
    return config.num_encoder_layers if PLACES[place][0] == "encoder" else config.num_decoder_layers


def check_places(places: Sequence[str]) -> None:
    """Raise `SpotError` unless these are places, each once."""
    if not places or not set(places) <= set(PLACES) or len(set(places)) < len(places):
        raise SpotError(
            f"a prefix stands in some of {', '.join(PLACES)}, each once; found "
            f"{', '.join(map(repr, places)) or 'none'}"
        )


def prefix_shape(config: T5Config, length: int, places: Sequence[str]) -> tuple[int, int]:
    """Return [r, f] for a prefix of `length` keys: r = 2 * length * layers, f = heads * head_dim.

    The rows in order: place by place, layer by layer, the keys of its positions and then their
    values.
    """
    layers = sum(layers_of(config, place) for place in places)
    return 2 * length * layers, config.num_heads * config.head_dim


def with_prefix(
    params: Params,
    config: T5Config,
    prefix: Float[Array, "n r f"],
    places: Sequence[str],
    *,
    positions: bool = False,
) -> dict[str, Any]:
    """Return the tree with a prefix in it.

    Args:
        params: parameter tree of the model, stacked if `config.scan_layers`.
        config: shape of the model.
        prefix: rows as `prefix_shape` has them; n is 1 for a prefix that all rows of a batch
            share, or the rows of the batch, each with its own.
        places: places of the prefix, in the order of the rows.
        positions: whether the keys stand at positions before the text, in the decoder alone.
    """
    leaves: dict[tuple[str, ...], Array] = {}
    shape = (config.num_heads, config.head_dim)
    length = prefix.shape[1] // prefix_shape(config, 1, places)[0]
    if positions:
        leaves["decoder", "relpos_bias", "prefix_positions"] = jnp.zeros(length)
    first = 0
    for place in places:
        count, (side, attention) = layers_of(config, place), PLACES[place]
        rows = prefix[:, first : (first := first + 2 * count * length)]
        rows = rows.reshape(len(prefix), count, 2, length, *shape)
        for part, name in enumerate(("prefix_key", "prefix_value")):
            if config.scan_layers:
                leaves[side, "layers", attention, name] = jnp.moveaxis(rows[:, :, part], 1, 0)
                continue
            for i in range(count):
                leaves[side, f"layers_{i}", attention, name] = rows[:, i, part]
    return merge(traverse_util.unflatten_dict(leaves), params)


def prefix_of_words(
    params: Params, config: T5Config, words: Int[Array, "n p"], places: Sequence[str]
) -> Float[Array, "n r f"]:
    """Return the keys and values that the model computes for words (Li & Liang 2021, §5.3).

    The paper's language model reads the words; here the encoder reads them, and the decoder
    writes the same words from what the encoder made of them, which is our choice.

    Args:
        params: parameter tree of the model, without a prefix.
        config: shape of the model.
        words: piece ids above 0, one per position of the prefix.
        places: places of the keys and values, in the order of the rows.
    """
    if config.scan_layers:
        params = unstack_layers(params, config)
    plain = dataclasses.replace(config, scan_layers=False, remat=False)
    activations = _activations(params, plain, words)
    rows = []
    for place in places:
        side, attention = PLACES[place]
        for i in range(layers_of(config, place)):
            pair = activations[side][f"layers_{i}"][attention]["keys_and_values"][0]
            rows += [x.reshape(*words.shape, -1) for x in pair]
    return jnp.concatenate(rows, axis=1).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=1)
def _activations(params: Params, config: T5Config, words: Int[Array, "n p"]) -> Any:
    def run(t5: T5, words: Int[Array, "n p"]) -> None:
        encoded = t5.encode(words, None, None, None)
        t5.decode(encoded, words, words, words, None, None, None)
        # Decoding few targets at once needs no keys and values of the encoder's output.
        t5.start(encoded, words.shape[1])

    _, captured = T5(config).apply(
        {"params": params},
        words,
        method=run,
        capture_intermediates=lambda module, name: name == "keys_and_values",
        mutable=["intermediates"],
    )
    return captured["intermediates"]
