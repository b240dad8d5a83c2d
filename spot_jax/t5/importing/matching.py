"""A checkpoint's tensors: the configuration they imply, and which parameters they fit."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import aligned
from spot_jax.t5.config import T5Config, parameter_shapes

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint, not read yet, under our name.

    Attributes:
        origin: name in the checkpoint.
        shape: shape in our tree (after a transpose, if there is one).
        dtype: dtype in the checkpoint.
        read: function that reads the whole tensor, as an array of `shape` and `dtype`.
    """

    origin: str
    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]


@dataclasses.dataclass
class Source:
    """A checkpoint that was opened and whose tensors were listed.

    Attributes:
        kind: form of the checkpoint, for people to read.
        path: path of the checkpoint.
        tensors: tensors by our name; one that no T5 has keeps the checkpoint's name.
        ignored: names that belong to no backbone (optimizer state, prompts).
        prompts: those of them that are a prompt's, as tensors by the checkpoint's names.
        config: configuration that the checkpoint states; None if it does not.
        vocabulary: path of its SentencePiece model; None if it has none.
        notes: decisions made on the way, for the report.
    """

    kind: str
    path: epath.Path
    tensors: dict[str, SourceTensor]
    ignored: list[str] = dataclasses.field(default_factory=list)
    prompts: dict[str, SourceTensor] = dataclasses.field(default_factory=dict)
    config: T5Config | None = None
    vocabulary: epath.Path | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def set_prompts_apart(self, names: re.Pattern[str]) -> None:
        """Take the tensors that a backbone has not, a prompt's, out of `tensors`."""
        self.prompts = {name: x for name, x in self.tensors.items() if names.match(name)}
        self.tensors = {n: x for n, x in self.tensors.items() if n not in self.prompts}
        self.ignored = [*self.prompts, *self.ignored]


@dataclasses.dataclass
class Report:
    """The match of a checkpoint's tensors with a T5's parameters, and the stored result.

    Attributes:
        kind: form of the checkpoint.
        source: path of the checkpoint.
        config: shape of the T5 it was matched with.
        matched: (name, shape, dtype in the checkpoint) of each tensor that fits.
        missing: (name, shape) of each parameter that the checkpoint lacks.
        left_over: (name, shape) of each tensor that belongs to no parameter.
        wrong_shape: (name, expected shape, shape in the checkpoint) of each that differs.
        ignored: names of the optimizer's state, of prompts and of copies.
        notes: decisions made on the way.
        destination, fingerprint, dtype, stored_bytes: facts of the stored form, once it is written.
    """

    kind: str
    source: str
    config: T5Config
    matched: list[tuple[str, Shape, str]] = dataclasses.field(default_factory=list)
    missing: list[tuple[str, Shape]] = dataclasses.field(default_factory=list)
    left_over: list[tuple[str, Shape]] = dataclasses.field(default_factory=list)
    wrong_shape: list[tuple[str, Shape, Shape]] = dataclasses.field(default_factory=list)
    ignored: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    destination: str = ""
    fingerprint: str = ""
    dtype: str = ""
    stored_bytes: int = 0

    @property
    def fits(self) -> bool:
        """Whether every parameter has its tensor and every tensor its parameter."""
        return not (self.missing or self.left_over or self.wrong_shape)

    def summary(self) -> str:
        """Return the counts in one line."""
        return (
            f"{len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.left_over)} left over, {len(self.wrong_shape)} of another shape, "
            f"{len(self.ignored)} ignored"
        )

    def table(self) -> str:
        """Return a text table with one tensor per line, what does not fit first."""
        rows = [("missing", n, _text(s), "") for n, s in self.missing]
        rows += [("left over", n, _text(s), "") for n, s in self.left_over]
        rows += [
            ("wrong shape", n, _text(actual), f"expected {_text(expected)}")
            for n, expected, actual in self.wrong_shape
        ]
        rows += [("matched", n, _text(s), dtype) for n, s, dtype in self.matched]
        rows += [("ignored", n, "", "") for n in self.ignored]
        lines = [f"{self.kind} {self.source}: {self.summary()}", *self.notes]
        return "\n".join([*lines, *aligned(rows, left=range(4))])


class MismatchError(SpotError):
    """A checkpoint that does not fit; `report.table()` lists every tensor."""

    def __init__(self, message: str, report: Report):
        super().__init__(message)
        self.report = report


def match(source: Source, config: T5Config) -> Report:
    """Compare a checkpoint's tensors with the parameters of a T5 of this configuration."""
    report = Report(
        kind=source.kind,
        source=str(source.path),
        config=config,
        ignored=sorted(source.ignored),
        notes=list(source.notes),
    )
    expected = parameter_shapes(config)
    for name, shape in sorted(expected.items()):
        tensor = source.tensors.get(name)
        if tensor is None:
            report.missing.append((name, shape))
        elif tensor.shape != shape:
            report.wrong_shape.append((name, shape, tensor.shape))
        else:
            report.matched.append((name, shape, str(tensor.dtype)))
    for name, tensor in sorted(source.tensors.items()):
        if name not in expected:
            report.left_over.append((name, tensor.shape))
    return report


def require_fit(report: Report) -> None:
    """Raise `MismatchError`, one line with the first tensor that does not fit."""
    if report.fits:
        return
    if report.wrong_shape:
        name, expected, actual = report.wrong_shape[0]
        first = f"{name} has shape {_text(actual)}, expected {_text(expected)}"
    elif report.missing:
        first = f"{report.missing[0][0]} is missing"
    else:
        first = f"{report.left_over[0][0]} belongs to no part of a T5"
    counts = (
        f"{len(report.missing)} missing, {len(report.left_over)} left over, "
        f"{len(report.wrong_shape)} of another shape"
    )
    raise MismatchError(
        f"{report.source}: does not fit the T5 expected ({counts}); first: {first}; "
        f"give a checkpoint and a configuration of one size",
        report,
    )


def infer_config(source: Source) -> T5Config:
    """Return the configuration that the tensors' names and shapes imply.

    What shapes do not determine keeps its default: the relative positions' largest distance (128)
    and the norms' epsilon. A gated layer is taken as GELU's
    (T5 1.1), a plain one as ReLU's (T5 1.0).
    Raises `SpotError` if a tensor that is needed for this is missing.
    """
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    if any(name.startswith(("encoder/layers/", "encoder/encoder/")) for name in shapes):
        raise SpotError(
            f"{source.path}: its layers are stacked (written with scanned layers); "
            f"expected one tensor per layer: save it again with scanning off"
        )
    gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
    wi = "encoder/layers_0/mlp/wi_0/kernel" if gated else "encoder/layers_0/mlp/wi/kernel"
    vocab, emb_dim = _matrix(source, shapes, "token_embedder/embedding")
    per_layer = "encoder/layers_0/relpos_bias/rel_embedding" in shapes
    bias = f"encoder{'/layers_0' if per_layer else ''}/relpos_bias/rel_embedding"
    heads, buckets = _matrix(source, shapes, bias)
    _, joined = _matrix(source, shapes, "encoder/layers_0/attention/query/kernel")
    _, mlp_dim = _matrix(source, shapes, wi)
    if joined % heads:
        raise SpotError(
            f"{source.path}: encoder/layers_0/attention/query/kernel is {joined} wide, which its "
            f"{heads} heads do not divide"
        )
    return T5Config(
        vocab_size=vocab,
        emb_dim=emb_dim,
        num_heads=heads,
        head_dim=joined // heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=_layers(shapes, "encoder"),
        num_decoder_layers=_layers(shapes, "decoder"),
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
        relative_attention_num_buckets=buckets,
        relative_bias_per_layer=per_layer,
    )


def _matrix(source: Source, shapes: Mapping[str, Shape], name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2:
        fault = "is missing" if shape is None else f"has shape {_text(shape)}, not a matrix's"
        raise SpotError(
            f"{source.path}: {name} {fault}, so this is no T5's checkpoint, or not the whole of one"
        )
    return shape[0], shape[1]


def _layers(shapes: Mapping[str, Shape], side: str) -> int:
    matches = (re.match(rf"{side}/layers_(\d+)/", name) for name in shapes)
    return 1 + max((int(m[1]) for m in matches if m), default=-1)


def _text(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
