"""Hugging Face's T5 directories: `config.json` and safetensors, one file or several.

Their Linear layers hold [out, in] where T5X holds [in, out], and their relative biases [buckets,
heads]; everything else is a matter of names.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from spot_jax.errors import SpotError, short
from spot_jax.files import parse_object, reading
from spot_jax.files.records import from_plain, read_value
from spot_jax.t5.config import T5Config
from spot_jax.t5.importing.matching import Source, SourceTensor
from spot_jax.t5.tensor_files import TensorFile

CONFIG = "config.json"
UMT5 = "umt5"
TYPES = ("t5", "mt5", UMT5)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_VOCABULARY = "spiece.model"
# T5X's names of the activations: their "gelu" is the tanh approximation, as in "gated-gelu".
_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
}
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEAD = "lm_head.weight"
# Written by early versions of transformers; no T5 ever used it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "out"}
_COMPARED_ROWS = 4096

_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(.+)\.weight")


def open_hf(directory: epath.Path) -> Source:
    """List the tensors of a T5 saved by transformers.

    Raises `SpotError` for another architecture, an activation we don't have, or a broken file.
    """
    data = _read_json(directory / CONFIG)
    files = _open_files(directory)
    origins = {name: file for file in files for name in file.shapes}
    source = Source("Hugging Face T5", directory, {})
    for name, file in origins.items():
        if name in (*_EMBEDDINGS, _HEAD):
            continue
        if name == _UNUSED:
            source.ignored.append(name)
            continue
        ours, transposed = _rename(name, data.get("model_type") == UMT5)
        source.tensors[ours] = _tensor(file, name, transposed)
    tied = _add_embeddings(source, origins, data)
    source.config = _config(directory, data, tied)
    vocabulary = directory / _VOCABULARY
    source.vocabulary = vocabulary if vocabulary.exists() else None
    return source


def _read_json(path: epath.Path) -> dict[str, Any]:
    with reading(path, "fetch it again", "truncated, or not JSON"):
        return parse_object(path.read_bytes())


def _open_files(directory: epath.Path) -> list[TensorFile]:
    if (directory / WEIGHTS).exists():
        return [TensorFile(directory / WEIGHTS)]
    index = directory / INDEX
    places = _read_json(index).get("weight_map")
    with reading(index, "fetch it again", "broken index"):
        places = read_value(Mapping[str, str], places, "weight_map")
        odd = [name for name in places.values() if "/" in name or "\\" in name or name[:1] == "."]
        if odd:
            raise ValueError(f"{odd[0]!r} is no name of a file beside it")
    files = []
    for file_name in sorted(set(places.values())):
        path = directory / file_name
        if not path.exists():
            raise SpotError(f"{path}: missing, but named by {INDEX}; fetch it again")
        files.append(TensorFile(path))
    stored = {name for file in files for name in file.shapes}
    for name in sorted(places.keys() - stored):
        raise SpotError(f"{directory / places[name]}: lacks {name}, which {INDEX} places there")
    return files


def _config(directory: epath.Path, data: dict[str, Any], tied: bool) -> T5Config:
    path = directory / CONFIG
    if data.get("model_type") not in TYPES:
        kinds = f"{', '.join(TYPES[:-1])} or {TYPES[-1]}"
        raise SpotError(f"{path}: model_type is {data.get('model_type')!r}, expected {kinds}")
    default = "relu" if data["model_type"] == "t5" else "gated-gelu"
    activation = data.get("feed_forward_proj", default)
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        names = ", ".join(_ACTIVATIONS)
        raise SpotError(f"{path}: feed_forward_proj is {activation!r}, expected one of {names}")
    needed = ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers")
    for name in needed:
        if name not in data:
            raise SpotError(f"{path}: lacks {name}; fetch it again")
    with reading(path, "fetch it again", "broken configuration"):
        decoder_layers = data.get("num_decoder_layers")
        fields = {
            "vocab_size": data["vocab_size"],
            "emb_dim": data["d_model"],
            "num_heads": data["num_heads"],
            "head_dim": data["d_kv"],
            "mlp_dim": data["d_ff"],
            "num_encoder_layers": data["num_layers"],
            "num_decoder_layers": data["num_layers"] if decoder_layers is None else decoder_layers,
            "mlp_activations": list(_ACTIVATIONS[activation]),
            "logits_via_embedding": tied,
            "dropout_rate": data.get("dropout_rate", 0.1),
            "relative_attention_num_buckets": data.get("relative_attention_num_buckets", 32),
            "relative_attention_max_distance": data.get("relative_attention_max_distance", 128),
            "relative_bias_per_layer": data["model_type"] == UMT5,
            "layer_norm_epsilon": data.get("layer_norm_epsilon", 1e-6),
        }
        return from_plain(T5Config, fields, "the configuration")


def _rename(name: str, bias_per_layer: bool = False) -> tuple[str, bool]:
    """Return our name of a tensor, or its own if no T5 has it, and whether it is transposed."""
    norm = re.fullmatch(r"(encoder|decoder)\.final_layer_norm\.weight", name)
    if norm:
        return f"{norm[1]}/{norm[1]}_norm/scale", False
    block = _BLOCK.fullmatch(name)
    if not block:
        return name, False
    side, number, part, what = block[1], int(block[2]), int(block[3]), block[4]
    kinds = ["self_attention", "encoder_decoder_attention", "mlp"]
    norms = ["pre_self_attention", "pre_cross_attention", "pre_mlp"]
    if side == "encoder":
        kinds, norms = ["attention", "mlp"], ["pre_attention", "pre_mlp"]
    if part >= len(kinds):
        return name, False
    layer, kind = f"{side}/layers_{number}", kinds[part]
    if what == "layer_norm":
        return f"{layer}/{norms[part]}_layer_norm/scale", False
    module, _, leaf = what.partition(".")
    cross = kind == "encoder_decoder_attention"
    if kind == "mlp" and module == "DenseReluDense" and leaf in ("wi", "wi_0", "wi_1", "wo"):
        return f"{layer}/mlp/{leaf}/kernel", True
    if kind != "mlp" and module == ("EncDecAttention" if cross else "SelfAttention"):
        if leaf in _PROJECTIONS:
            return f"{layer}/{kind}/{_PROJECTIONS[leaf]}/kernel", True
        if leaf == "relative_attention_bias" and bias_per_layer and not cross:
            return f"{layer}/relpos_bias/rel_embedding", True
        if leaf == "relative_attention_bias" and number == 0 and not cross:
            return f"{side}/relpos_bias/rel_embedding", True
    return name, False


def _tensor(
    file: TensorFile,
    name: str,
    transposed: bool,
    change: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> SourceTensor:
    shape = file.shapes[name]

    def read() -> np.ndarray:
        array = file.read(name)
        return change(array.T if transposed else array)

    return SourceTensor(name, shape[::-1] if transposed else shape, file.dtypes[name], read)


def _add_embeddings(source: Source, origins: dict[str, TensorFile], data: dict[str, Any]) -> bool:
    """Add the embedding table and the output head; return whether the head is the table.

    A checkpoint may hold the table under several names, and the head even where it is tied. Only
    T5 1.0 scales the hidden states before the head by d ** -0.5, which T5X does whenever the head
    is tied and never otherwise; where the two disagree the head is stored as separate weights.
    """
    present = [name for name in _EMBEDDINGS if name in origins]
    if not present:
        if _HEAD in origins:
            source.tensors["decoder/logits_dense/kernel"] = _tensor(origins[_HEAD], _HEAD, True)
        return _HEAD not in origins
    table = present[0]
    source.tensors["token_embedder/embedding"] = _tensor(origins[table], table, False)
    for name in present[1:]:
        if not _same(origins, table, name):
            raise SpotError(
                f"{source.path}: {name} differs from {table}; "
                f"a T5 has one embedding table for both sides"
            )
        source.ignored.append(name)
    scaled = _scales_outputs(data)
    head = _HEAD if _HEAD in origins and not _same(origins, table, _HEAD) else table
    if head == table and scaled:
        source.ignored += [name for name in (_HEAD,) if name in origins]
        source.notes.append("The output head is the embedding table.")
        return True
    factor = np.float32(origins[head].shapes[head][-1] ** -0.5)

    def scale(array: np.ndarray) -> np.ndarray:
        return (array.astype(np.float32) * factor).astype(array.dtype)

    if scaled:
        source.notes.append(f"{head} is stored times d ** -0.5, which its model applies before it.")
    elif head == table:
        source.notes.append("The output head is the embedding table unscaled: stored on its own.")
    tensor = _tensor(origins[head], head, True, scale if scaled else lambda array: array)
    source.tensors["decoder/logits_dense/kernel"] = tensor
    return False


def _scales_outputs(data: dict[str, Any]) -> bool:
    """Return whether transformers scales this model's hidden states before the head."""
    if data.get("model_type") not in ("t5", UMT5):
        return False
    # Newer versions say it outright; before, T5 1.1 was recognised by its untied head.
    tied = data.get("tie_word_embeddings", True)
    scaled = data.get("scale_decoder_outputs", tied is not False)
    for name, value in (("tie_word_embeddings", tied), ("scale_decoder_outputs", scaled)):
        if not isinstance(value, bool | None):
            raise SpotError(f"{CONFIG}: {name} is {short(value)}; expected true or false")
    return bool(scaled)


def _same(origins: dict[str, TensorFile], first: str, second: str) -> bool:
    """Return whether two tensors are equal, compared in blocks of rows."""
    a, b = origins[first], origins[second]
    if a.shapes[first] != b.shapes[second] or a.dtypes[first] != b.dtypes[second]:
        return False
    for row in range(0, a.shapes[first][0], _COMPARED_ROWS):
        block = (slice(row, row + _COMPARED_ROWS),)
        if not np.array_equal(a.read(first, block), b.read(second, block)):
            return False
    return True
