"""The teacher: a BERT sentence encoder in JAX, as all-MiniLM-L6-v2 stores it.

A text's vector is the mean of the last layer's outputs over its word pieces, of length 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Tensors = Mapping[str, Array]
LAYERS, HEADS = 6, 12
LENGTHS = (16, 32, 64)
EPSILON = 1e-12


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the float32 tensors of what `tools.mini.prepare` wrote."""
    stored = np.load(path)
    tensors = {}
    for name in stored.files:
        if name.endswith(".scale"):
            continue
        tensor = stored[name].astype(np.float32)
        if f"{name}.scale" in stored.files:
            tensor = tensor * stored[f"{name}.scale"]
        tensors[name] = tensor
    return tensors


def _norm(t: Tensors, name: str, x: Array) -> Array:
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * t[f"{name}.weight"] + t[f"{name}.bias"]


def _dense(t: Tensors, name: str, x: Array) -> Array:
    # A CPU has no fast bfloat16.
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    weight = t[f"{name}.weight"].astype(dtype)
    return jnp.matmul(x.astype(dtype), weight.T).astype(jnp.float32) + t[f"{name}.bias"]


def encode(t: Tensors, ids: Int[Array, "b t"]) -> Float[Array, "b w"]:
    """Return the vectors of texts as word-piece ids, 0 for padding."""
    mask = ids > 0
    x = t["embeddings.word_embeddings.weight"][ids]
    x += t["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x += t["embeddings.token_type_embeddings.weight"][0]
    x = _norm(t, "embeddings.LayerNorm", x)
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        heads = [
            _dense(t, f"{at}.attention.self.{name}", x).reshape(*x.shape[:2], HEADS, -1)
            for name in ("query", "key", "value")
        ]
        y = jax.nn.dot_product_attention(*heads, mask=mask[:, None, None, :])
        y = _dense(t, f"{at}.attention.output.dense", y.reshape(x.shape))
        x = _norm(t, f"{at}.attention.output.LayerNorm", x + y)
        y = jax.nn.gelu(_dense(t, f"{at}.intermediate.dense", x), approximate=False)
        x = _norm(t, f"{at}.output.LayerNorm", x + _dense(t, f"{at}.output.dense", y))
    weights = mask[..., None].astype(jnp.float32)
    mean = jnp.sum(x * weights, 1) / jnp.maximum(jnp.sum(weights, 1), 1.0)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-9)


def tokenise(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return each text's word-piece ids, at most the last of `LENGTHS`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[-1])
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]


def vectors(t: Tensors, ids: Sequence[Sequence[int]]) -> Float[np.ndarray, "n w"]:
    """Return the vectors of many texts, float16, in their order; short ones are padded little."""
    step = jax.jit(encode)
    rows = 64 if jax.default_backend() == "cpu" else 4096
    t = {name: jnp.asarray(tensor) for name, tensor in t.items()}
    sizes = np.array([len(each) for each in ids])
    result = np.zeros((len(ids), t["embeddings.word_embeddings.weight"].shape[1]), np.float16)
    waiting: list[tuple[np.ndarray, Array]] = []
    least = 0
    for length in LENGTHS:
        chosen = np.flatnonzero((sizes > least) & (sizes <= length))
        least = length
        for start in range(0, len(chosen), rows):
            part = chosen[start : start + rows]
            batch = np.zeros((rows, length), np.int32)
            for row, i in enumerate(part):
                batch[row, : len(ids[i])] = ids[i]
            waiting.append((part, step(t, batch)))
    for part, vector in waiting:
        result[part] = np.asarray(vector[: len(part)], np.float16)
    return result
