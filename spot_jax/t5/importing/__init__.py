"""Import of backbones that others wrote, tensor by tensor, into our stored form, and the way back.

report = convert("gs://.../checkpoint_1100000", "backbones/t5_base_lm")
print(report.table())
convert("runs/tuned", "tuned_hf", form="hf")  # what model tuning tuned, for transformers
"""

import functools
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from etils import epath

from spot_jax.errors import SpotError
from spot_jax.files import as_path, input_path, reading
from spot_jax.t5.backbone import Fingerprint
from spot_jax.t5.config import T5Config, check_shape
from spot_jax.t5.importing import hf, orbax, t5x
from spot_jax.t5.importing.matching import (
    MismatchError,
    Report,
    Source,
    SourceTensor,
    infer_config,
    match,
    require_fit,
)
from spot_jax.t5.int8 import INT8, kernel_name, quantiser, scale_name, scale_shapes
from spot_jax.t5.stored import (
    DESCRIPTION,
    BackboneWriter,
    StoredWriter,
    check_destination,
    read_description,
)

__all__ = ["MismatchError", "Report", "convert", "open_source"]

FORMS: dict[str, type[BackboneWriter]] = {
    "spot": StoredWriter,
    "hf": hf.HuggingFaceWriter,
    "t5x": t5x.T5XWriter,
}
_STORED = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_FORMS = (
    "a T5X checkpoint_STEP directory (native or orbax) or its parent, a Hugging Face T5 directory "
    "(config.json and safetensors), a stored backbone (backbone.json), or a run that tuned one"
)


def convert(
    source: epath.PathLike,
    dest: epath.PathLike,
    *,
    dtype: str | None = None,
    vocabulary: epath.PathLike | None = None,
    config: T5Config | None = None,
    form: str = "spot",
) -> Report:
    """Bring a checkpoint into another form; memory holds about one tensor at a time.

    Args:
        source: path of a checkpoint in any form that `open_source` understands.
        dest: directory to write; it must not exist yet, or be empty.
        dtype: dtype to store, "float32" or "bfloat16"; None keeps bfloat16 if all tensors have
            it, else takes float32. "int8" is for the kernels (`spot_jax.t5.int8`), in our form
            alone; the rest is stored as with None.
        vocabulary: path of a SentencePiece model to store too; None takes the checkpoint's, if any.
        config: shape of the T5 to expect; None takes what the checkpoint says or implies.
        form: form to write: "spot" is ours, "hf" a directory for transformers, "t5x" a native T5X
            checkpoint of step 0, which has no vocabulary.

    Returns:
        The report: what matched, was ignored and decided, the fingerprint and the size.

    Raises:
        MismatchError: a tensor is missing, left over or of another shape (it has the report).
        SpotError: not a checkpoint, a broken file, a destination in use, a vocabulary that has
            more pieces than the embedding table has rows, a T5 that the form has no place for, or
            a disk that refuses.
    """
    if form not in FORMS:
        raise SpotError(f"form {form!r}: expected one of {', '.join(FORMS)}")
    if dtype not in (None, INT8, *_STORED):
        raise SpotError(f"dtype {dtype!r}: expected one of {', '.join((*_STORED, INT8))}")
    if dtype == INT8 and form != "spot":
        raise SpotError(f"int8 weights are stored in our form alone; leave --to {form} or int8 out")
    check_destination(as_path(dest))
    opened = open_source(source)
    wanted = config or opened.config or infer_config(opened)
    with reading(opened.path, "give a checkpoint of a T5"):
        check_shape(wanted)
    report = match(opened, wanted)
    require_fit(report)
    _require_floats(opened)
    target = _STORED[dtype] if dtype in _STORED else _common_dtype(opened)
    pieces = as_path(vocabulary) if vocabulary is not None else opened.vocabulary
    if pieces is not None:
        _check_vocabulary(pieces, wanted)
    else:
        report.notes.append(
            "It has no vocabulary, which reading tasks needs: convert it with --vocabulary FILE."
        )
    names = {name: shape for name, shape, _ in report.matched}
    dtypes = dict.fromkeys(names, target)
    scales = scale_shapes(names) if dtype == INT8 else {}
    dtypes |= {kernel_name(name) or "": np.dtype(np.int8) for name in scales}
    dtypes |= dict.fromkeys(scales, np.dtype(np.float32))
    writer = FORMS[form](
        dest,
        wanted,
        shapes=names | scales,
        dtypes=dtypes,
        vocabulary=pieces,
        source=f"{opened.kind} {opened.path}",
    )
    mark = Fingerprint(wanted)
    with writer:
        for name in (name for name in writer.names if name not in scales):
            array = opened.tensors[name].read().astype(target, copy=False)
            if not np.isfinite(array).all():
                raise SpotError(
                    f"{opened.path}: {opened.tensors[name].origin} holds NaN or infinity"
                    f"{_overflow(opened.tensors[name], target)}; take an earlier checkpoint, or "
                    "fetch it again"
                )
            # Of the weights before they were narrowed: prompts are for the same T5.
            mark.add(name, array)
            parts = {name: array}
            if (scale := scale_name(name)) in scales:
                parts = dict(
                    zip(
                        (name, scale), map(np.asarray, quantiser()(jnp.asarray(array))), strict=True
                    )
                )
            for part, values in parts.items():
                writer.write(part, values)
                report.stored_bytes += values.nbytes
        report.fingerprint = mark.hexdigest()
        writer.finish(report.fingerprint)
    report.destination, report.dtype = str(writer.directory), dtype or str(target)
    return report


def open_source(source: epath.PathLike) -> Source:
    """Recognise the form of a checkpoint and list its tensors; none is read yet.

    Understood: T5X's native and orbax checkpoints (or the directory above them, of which the
    newest is taken), Hugging Face T5 directories, and our stored form. Anything else raises
    `SpotError` saying so.
    """
    path = input_path(source, _FORMS)
    if path.suffix == ".bin":
        path = path.parent
    if not path.is_dir():
        raise SpotError(f"{path}: is a file; expected {_FORMS}")
    if (path / DESCRIPTION).exists():
        return _open_stored(path)
    if (path / "backbone" / DESCRIPTION).exists():
        return _open_stored(path / "backbone")
    if (path / hf.CONFIG).exists():
        if (path / hf.WEIGHTS).exists() or (path / hf.INDEX).exists():
            return hf.open_hf(path)
        code = f"M.from_pretrained('{path}').save_pretrained('{path}_safetensors')"
        raise SpotError(
            f"{path}: has config.json but no {hf.WEIGHTS} or {hf.INDEX}; a pytorch_model.bin is "
            'code that would run, so save it as safetensors: python -c "from transformers import '
            f'AutoModelForSeq2SeqLM as M; {code}"'
        )
    if (path / t5x.INDEX).exists():
        return t5x.open_t5x(path)
    item = orbax.find_item(path)
    if item is not None:
        return orbax.open_orbax(path, item)
    steps = [int(m[1]) for p in path.iterdir() if (m := re.fullmatch(r"checkpoint_(\d+)", p.name))]
    if not steps:
        raise SpotError(f"{path}: not a checkpoint; expected {_FORMS}")
    newest = open_source(path / f"checkpoint_{max(steps)}")
    newest.notes.append(f"Took the newest of {len(steps)} in {path}: checkpoint_{max(steps)}.")
    return newest


def _open_stored(path: epath.Path) -> Source:
    description = read_description(path)
    if description.dtype == INT8:
        raise SpotError(
            f"{path}: holds int8 weights, which are rounded; convert the backbone that they were "
            f"made from ({description.source or 'unknown'})"
        )
    source = Source("stored backbone", path, {}, config=description.config)
    source.vocabulary = description.vocabulary_path
    description.verify()
    for file, _ in description.open_files():
        for name, shape in file.shapes.items():
            read = functools.partial(file.read, name)
            source.tensors[name] = SourceTensor(name, shape, file.dtypes[name], read)
    return source


def _overflow(tensor: SourceTensor, target: np.dtype) -> str:
    wider = np.dtype(tensor.dtype).itemsize > target.itemsize
    return f" in {target} (it is stored in {tensor.dtype})" if wider else ""


def _require_floats(source: Source) -> None:
    for name, tensor in source.tensors.items():
        if str(tensor.dtype) not in _FLOATS:
            raise SpotError(
                f"{source.path}: {name} has dtype {tensor.dtype}, expected one of "
                f"{', '.join(_FLOATS)}; give the checkpoint as it was before quantisation"
            )


def _common_dtype(source: Source) -> np.dtype:
    bfloat16 = _STORED["bfloat16"]
    all_bfloat16 = all(tensor.dtype == bfloat16 for tensor in source.tensors.values())
    return bfloat16 if all_bfloat16 else _STORED["float32"]


def _check_vocabulary(path: epath.Path, config: T5Config) -> None:
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_proto=path.read_bytes()).get_piece_size()
    except OSError as error:
        raise SpotError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        raise SpotError(f"{path}: not a SentencePiece model, or cut short") from error
    if not pieces:
        raise SpotError(f"{path}: a SentencePiece model without pieces; give T5's")
    if pieces > config.vocab_size:
        raise SpotError(
            f"{path}: has {pieces} pieces but the checkpoint's embedding table only "
            f"{config.vocab_size} rows; give the vocabulary that the checkpoint was trained with"
        )
