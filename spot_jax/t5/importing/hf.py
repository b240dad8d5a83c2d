"""Hugging Face's T5 directories, read and written: `config.json` and safetensors.

Their Linear layers hold [out, in] where T5X holds [in, out], and their relative biases [buckets,
heads]; everything else is a matter of names.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from spot_jax.errors import SpotError, short
from spot_jax.files import parse_object, reading, write_json
from spot_jax.files.records import from_plain, read_value
from spot_jax.t5.config import T5Config
from spot_jax.t5.importing.matching import Source, SourceTensor
from spot_jax.t5.stored import BackboneWriter
from spot_jax.t5.tensor_files import TensorFile, TensorWriter
from spot_jax.t5.vocabulary import Vocabulary

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
_OUR_TABLE, _OUR_HEAD = "token_embedder/embedding", "decoder/logits_dense/kernel"
# Written by early versions of transformers; no T5 ever used it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_COMPARED_ROWS = 4096

# What the parts of a layer are called here and there; {} is the layer's number.
MODULES = {
    "encoder/layers_{}/attention": "encoder.block.{}.layer.0.SelfAttention",
    "encoder/layers_{}/mlp": "encoder.block.{}.layer.1.DenseReluDense",
    "decoder/layers_{}/self_attention": "decoder.block.{}.layer.0.SelfAttention",
    "decoder/layers_{}/encoder_decoder_attention": "decoder.block.{}.layer.1.EncDecAttention",
    "decoder/layers_{}/mlp": "decoder.block.{}.layer.2.DenseReluDense",
}
ATTENTION_KERNELS = {"query": "q", "key": "k", "value": "v", "out": "o"}
MLP_KERNELS = {name: name for name in ("wi", "wi_0", "wi_1", "wo")}
_NORMS = {
    "encoder/layers_{}/pre_attention_layer_norm": "encoder.block.{}.layer.0.layer_norm",
    "encoder/layers_{}/pre_mlp_layer_norm": "encoder.block.{}.layer.1.layer_norm",
    "encoder/encoder_norm": "encoder.final_layer_norm",
    "decoder/layers_{}/pre_self_attention_layer_norm": "decoder.block.{}.layer.0.layer_norm",
    "decoder/layers_{}/pre_cross_attention_layer_norm": "decoder.block.{}.layer.1.layer_norm",
    "decoder/layers_{}/pre_mlp_layer_norm": "decoder.block.{}.layer.2.layer_norm",
    "decoder/decoder_norm": "decoder.final_layer_norm",
}
_FIELDS = {
    "vocab_size": "vocab_size",
    "emb_dim": "d_model",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "dropout_rate": "dropout_rate",
    "relative_attention_num_buckets": "relative_attention_num_buckets",
    "relative_attention_max_distance": "relative_attention_max_distance",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
_NEEDED = ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers")


def _names() -> dict[str, str]:
    """Return our name of each tensor -> theirs, apart from the embedding and the head."""
    names = {f"{ours}/scale": f"{theirs}.weight" for ours, theirs in _NORMS.items()}
    for ours, theirs in MODULES.items():
        for kernel, other in (MLP_KERNELS if ours.endswith("mlp") else ATTENTION_KERNELS).items():
            names[f"{ours}/{kernel}/kernel"] = f"{theirs}.{other}.weight"
    for side in ("encoder", "decoder"):
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names[f"{side}/relpos_bias/rel_embedding"] = bias
    return names


_THEIRS = _names()
_OURS = {theirs: ours for ours, theirs in _THEIRS.items()}
# umT5's, one a layer.
_BIASES = {
    f"{side}/layers_{{}}/relpos_bias/rel_embedding": (
        f"{side}.block.{{}}.layer.0.SelfAttention.relative_attention_bias.weight"
    )
    for side in ("encoder", "decoder")
}
_OUR_BIASES = {theirs: ours for ours, theirs in _BIASES.items()}


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
    for name in _NEEDED:
        if name not in data:
            raise SpotError(f"{path}: lacks {name}; fetch it again")
    with reading(path, "fetch it again", "broken configuration"):
        # What is not said is as everywhere: the defaults are the same.
        fields = {ours: data[theirs] for ours, theirs in _FIELDS.items() if theirs in data}
        if fields.get("num_decoder_layers") is None:
            fields["num_decoder_layers"] = data["num_layers"]
        fields["mlp_activations"] = list(_ACTIVATIONS[activation])
        fields["logits_via_embedding"] = tied
        fields["relative_bias_per_layer"] = data["model_type"] == UMT5
        return from_plain(T5Config, fields, "the configuration")


def _rename(name: str, bias_per_layer: bool = False) -> tuple[str, bool]:
    """Return our name of a tensor, or its own if no T5 has it, and whether it is transposed."""
    template, number = _template(r"\.block\.", name)
    ours = None if bias_per_layer else _OURS.get(name)
    if ours is None and "{}" not in name:
        ours = (_OURS | (_OUR_BIASES if bias_per_layer else {})).get(template)
    if ours is None:
        return name, False
    return ours.replace("{}", number), _is_transposed(ours)


def _is_transposed(ours: str) -> bool:
    return ours.endswith(("kernel", "rel_embedding"))


def _template(before: str, name: str) -> tuple[str, str]:
    """Return a tensor's name with {} for its layer's number, and the number."""
    number = re.search(rf"(?<={before})(0|[1-9]\d*)(?=\D)", name)
    if number is None:
        return name, ""
    return f"{name[: number.start()]}{{}}{name[number.end() :]}", number[0]


def _their_name(name: str) -> str:
    """Return the name that transformers has for a tensor of ours."""
    if name == _OUR_TABLE:
        return _EMBEDDINGS[0]
    if name == _OUR_HEAD:
        return _HEAD
    template, number = _template("layers_", name)
    return (_THEIRS | _BIASES)[template].replace("{}", number)


class HuggingFaceWriter(BackboneWriter):
    """Writes a directory that transformers' `T5ForConditionalGeneration` loads.

    Raises `SpotError` for activations that transformers has no name for.
    """

    def __init__(self, directory: epath.PathLike, config: T5Config, **options: Any):
        super().__init__(directory, config, **options)
        names = {activations: name for name, activations in _ACTIVATIONS.items()}
        # Another name of the same function.
        used = tuple("silu" if a == "swish" else a for a in config.mlp_activations)
        if used not in names:
            raise SpotError(
                f"transformers has no T5 with the activations {', '.join(used)}; export it as t5x"
            )
        self._activation = names[used]
        if config.relative_bias_per_layer and config.logits_via_embedding:
            raise SpotError(
                "transformers has no umT5 whose output head is its scaled embedding table; export "
                "it as t5x"
            )

    def write(self, name: str, array: np.ndarray) -> None:
        """Append one tensor, as theirs lies in memory."""
        if self._writer is None:
            shapes = {
                _their_name(n): self._shapes[n][:: -1 if _is_transposed(n) else 1]
                for n in self.names
            }
            dtypes = {_their_name(n): self._dtypes[n] for n in self.names}
            path = self._temporary / WEIGHTS
            self._writer = TensorWriter(path, shapes, dtypes, {"format": "pt"})
        self._writer.write(_their_name(name), array.T if _is_transposed(name) else array)

    def describe(self, fingerprint: str) -> None:
        """Write the vocabulary, and `config.json`."""
        if self._writer is None:
            raise ValueError("finish before the first tensor was written")
        self._writer.close()
        config, tied = self._config, self._config.logits_via_embedding
        fields = {theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()}
        if self._vocabulary is not None:
            self._vocabulary.copy(self._temporary / _VOCABULARY)
            tokenizer = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"}
            tokenizer |= {"pad_token": "<pad>", "unk_token": "<unk>"}
            extra = {"extra_ids": Vocabulary(self._vocabulary).extra_ids}
            write_json(self._temporary / "tokenizer_config.json", tokenizer | extra)
        kind = "umt5" if config.relative_bias_per_layer else "t5"
        fixed = {"architectures": [f"{kind.upper()}ForConditionalGeneration"], "model_type": kind}
        ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
        head = {"tie_word_embeddings": tied, "scale_decoder_outputs": tied}
        others = {"is_encoder_decoder": True, "feed_forward_proj": self._activation}
        others["dtype"] = str(self._dtypes[_OUR_TABLE])
        write_json(self._temporary / CONFIG, fixed | fields | ids | head | others)


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
            source.tensors[_OUR_HEAD] = _tensor(origins[_HEAD], _HEAD, True)
        return _HEAD not in origins
    table = present[0]
    source.tensors[_OUR_TABLE] = _tensor(origins[table], table, False)
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
    source.tensors[_OUR_HEAD] = tensor
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
