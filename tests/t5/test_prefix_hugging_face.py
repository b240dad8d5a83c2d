"""A prefix against transformers' T5, whose decoder takes past keys and values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from test_prefix import (
    CONFIG,
    INPUTS,
    TARGETS,
    TOKENS,
    WEIGHTS,
    P,
    drawn,
    logits_and_gradient,
    weights,
)


def hugging_face(params):
    """Return transformers' T5 with these weights: the same model under other names."""
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    config = transformers.T5Config(
        vocab_size=CONFIG.vocab_size,
        d_model=CONFIG.emb_dim,
        d_kv=CONFIG.head_dim,
        d_ff=CONFIG.mlp_dim,
        num_heads=CONFIG.num_heads,
        num_layers=CONFIG.num_encoder_layers,
        num_decoder_layers=CONFIG.num_decoder_layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
    )
    names = {"query": "q", "key": "k", "value": "v", "out": "o"}
    renamed = {}
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")
    for path, array in flat.items():
        side, *rest = path.split("/")
        if side == "token_embedder":
            renamed["shared.weight"] = array
        elif rest[0] == "logits_dense":
            renamed["lm_head.weight"] = array.T
        elif rest[0] == "relpos_bias":
            name = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            renamed[name] = array.T
        elif rest[0].endswith("_norm"):
            renamed[f"{side}.final_layer_norm.weight"] = array
        else:
            block = f"{side}.block.{rest[0].removeprefix('layers_')}.layer"
            feed = 1 if side == "encoder" else 2
            number, part = {
                "attention": (0, "SelfAttention"),
                "self_attention": (0, "SelfAttention"),
                "encoder_decoder_attention": (1, "EncDecAttention"),
                "mlp": (feed, "DenseReluDense"),
                "pre_attention_layer_norm": (0, "layer_norm"),
                "pre_self_attention_layer_norm": (0, "layer_norm"),
                "pre_cross_attention_layer_norm": (1, "layer_norm"),
                "pre_mlp_layer_norm": (feed, "layer_norm"),
            }[rest[1]]
            inner = "" if rest[2] == "scale" else f".{names.get(rest[2], rest[2])}"
            renamed[f"{block}.{number}.{part}{inner}.weight"] = array.T
    model = transformers.T5ForConditionalGeneration(config).eval()
    tensors = {name: torch.tensor(np.ascontiguousarray(x)) for name, x in renamed.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    # Tied since version 5, whatever the configuration says.
    for layer, name in ((model.lm_head, "lm_head.weight"), (model.shared, "shared.weight")):
        layer.weight = torch.nn.Parameter(tensors[name])
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    return torch, transformers, model


@pytest.mark.slow
def test_a_decoder_prefix_is_what_hugging_face_calls_past_keys_and_values():
    params = weights()
    # There a prefix stands at positions before the text, so that its bias is not 0: without a
    # position bias both are one formula.
    bare = {**params["decoder"]["relpos_bias"]}
    bare = {name: jnp.zeros_like(x) for name, x in bare.items()}
    params = {**params, "decoder": {**params["decoder"], "relpos_bias": bare}}
    torch, transformers, model = hugging_face(params)
    places = ("decoder",)
    prefix = drawn(places)
    ours, gradient = map(np.asarray, logits_and_gradient(params, places, prefix))
    rows = torch.tensor(prefix[0], requires_grad=True)
    past = transformers.DynamicCache()
    for i in range(CONFIG.num_decoder_layers):
        layer = rows[2 * P * i : 2 * P * (i + 1)].reshape(2, P, CONFIG.num_heads, CONFIG.head_dim)
        pair = layer.permute(0, 2, 1, 3)[:, None].expand(2, 2, -1, -1, -1)
        past.update(pair[0], pair[1], i)
    cache = transformers.EncoderDecoderCache(past, transformers.DynamicCache())
    logits = model(
        input_ids=torch.tensor(TOKENS, dtype=torch.long),
        attention_mask=torch.tensor(TOKENS > 0),
        decoder_input_ids=torch.tensor(INPUTS, dtype=torch.long),
        past_key_values=cache,
    ).logits
    real = TARGETS > 0
    np.testing.assert_allclose(ours[real], logits.detach().numpy()[real], atol=1e-4)
    (logits[0] * torch.tensor(WEIGHTS)).sum().backward()
    np.testing.assert_allclose(gradient[0], rows.grad.numpy(), atol=1e-4 * np.abs(gradient).max())
