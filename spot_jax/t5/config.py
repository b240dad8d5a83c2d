"""The shape of a T5: one dataclass for T5 1.0, 1.1, LM-adapted, Flan, mT5, umT5 and UL2."""

import dataclasses
from typing import Any

from spot_jax.errors import SpotError

LIGHT = "light"


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The parameters and arithmetic of a T5; field names are those of T5X's `T5Config`.

    The defaults are those of T5 1.1: gated GELU and a separate output head. T5 1.0 is
    `mlp_activations=("relu",), logits_via_embedding=True`, UL2 `("silu", "linear")`, umT5
    `relative_bias_per_layer=True`.

    Attributes:
        vocab_size: number of rows of the embedding table (32,128 in the released models: the
            32,000 pieces and 100 sentinels, rounded up). Ids from here on are virtual tokens.
        emb_dim: width of the residual stream, d.
        num_heads: number of attention heads.
        head_dim: width of one head; `num_heads * head_dim` need not be `emb_dim`.
        mlp_dim: hidden width of the feed-forward layers.
        num_encoder_layers: number of encoder layers.
        num_decoder_layers: number of decoder layers.
        mlp_activations: names of the activations, one, or two for a gated layer.
        logits_via_embedding: whether the output head is the embedding table (scaled by d ** -0.5).
        dropout_rate: probability of dropping, applied as in T5X: after the embedding, in and after
            each sublayer, on attention.
        dtype: dtype of activations, "float32" or "bfloat16"; softmax, the norms' variance, logits
            and the loss are always float32.
        relative_attention_num_buckets: number of buckets of the relative position bias.
        relative_attention_max_distance: distance in tokens from which on all share the last bucket.
        relative_bias_per_layer: whether each layer has a relative position bias of its own, as
            in umT5; otherwise the layers of a stack share one.
        layer_norm_epsilon: epsilon of the root-mean-square norms.
        scan_layers: whether the layers run as one `jax.lax.scan` over stacked weights (compile
            time then does not grow with depth).
        remat: share of a layer that the backward pass recomputes instead of holding: False for
            nothing, True for the whole layer, "light" for what takes much memory and few products
            (`spot_jax.t5.layers.HELD` is held).
        attention: form of attention, "auto" for the platform's best (`spot_jax.t5.attention`).
    """

    vocab_size: int = 32128
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1024
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    dropout_rate: float = 0.1
    dtype: str = "float32"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    relative_bias_per_layer: bool = False
    layer_norm_epsilon: float = 1e-6
    scan_layers: bool = False
    remat: bool | str = False
    attention: str = "auto"

    def shape_fields(self) -> dict[str, Any]:
        """Return the fields that parameters depend on, for fingerprints and stored backbones.

        What only steers a run (dropout, dtype, scan, remat, attention) is left out.
        """
        fields = dataclasses.asdict(self)
        for name in ("dropout_rate", "dtype", "scan_layers", "remat", "attention"):
            del fields[name]
        if not self.relative_bias_per_layer:
            # Left out, so that stored backbones and fingerprints from before it are the same.
            del fields["relative_bias_per_layer"]
        fields["mlp_activations"] = list(self.mlp_activations)
        return fields


# More than any T5 has: a configuration beyond is a mistake, found before anything is sized by it.
_GREATEST = {
    "vocab_size": 10**7,
    "emb_dim": 10**5,
    "num_heads": 10**4,
    "head_dim": 10**4,
    "mlp_dim": 10**6,
    "num_encoder_layers": 1000,
    "num_decoder_layers": 1000,
    "relative_attention_num_buckets": 10**4,
    "relative_attention_max_distance": 10**7,
}


def check_shape(config: T5Config) -> None:
    """Raise `SpotError` for a configuration that no T5 can have, with the number."""
    for name, greatest in _GREATEST.items():
        value = getattr(config, name)
        if not 1 <= value <= greatest:
            raise SpotError(f"{name} is {value}; a T5 has 1 to {greatest:,}")
    if not 0 < config.layer_norm_epsilon < 1:
        raise SpotError(f"layer_norm_epsilon is {config.layer_norm_epsilon}; give one above 0")
    if not 1 <= len(config.mlp_activations) <= 2:
        raise SpotError(f"mlp_activations are one or two, found {config.mlp_activations}")


def parameter_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Map T5X's path of every parameter, joined by "/", to its shape; layers are not stacked."""
    d, joined, ff = config.emb_dim, config.num_heads * config.head_dim, config.mlp_dim
    gates = len(config.mlp_activations)
    wi = ["wi"] if gates == 1 else [f"wi_{i}" for i in range(gates)]
    shapes: dict[str, tuple[int, ...]] = {"token_embedder/embedding": (config.vocab_size, d)}

    def attention(path: str) -> None:
        for name in ("query", "key", "value"):
            shapes[f"{path}/{name}/kernel"] = (d, joined)
        shapes[f"{path}/out/kernel"] = (joined, d)

    def stack(side: str, layers: int, attentions: dict[str, str]) -> None:
        biases = (config.num_heads, config.relative_attention_num_buckets)
        if not config.relative_bias_per_layer:
            shapes[f"{side}/relpos_bias/rel_embedding"] = biases
        for i in range(layers):
            layer = f"{side}/layers_{i}"
            if config.relative_bias_per_layer:
                shapes[f"{layer}/relpos_bias/rel_embedding"] = biases
            for norm, name in attentions.items():
                shapes[f"{layer}/{norm}/scale"] = (d,)
                attention(f"{layer}/{name}")
            shapes[f"{layer}/pre_mlp_layer_norm/scale"] = (d,)
            for name in wi:
                shapes[f"{layer}/mlp/{name}/kernel"] = (d, ff)
            shapes[f"{layer}/mlp/wo/kernel"] = (ff, d)
        shapes[f"{side}/{side}_norm/scale"] = (d,)

    stack("encoder", config.num_encoder_layers, {"pre_attention_layer_norm": "attention"})
    stack(
        "decoder",
        config.num_decoder_layers,
        {
            "pre_self_attention_layer_norm": "self_attention",
            "pre_cross_attention_layer_norm": "encoder_decoder_attention",
        },
    )
    if not config.logits_via_embedding:
        shapes["decoder/logits_dense/kernel"] = (d, config.vocab_size)
    return shapes
