"""Text to token ids and back, over the `sentencepiece` package alone."""

import functools
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from spot_jax.errors import SpotError
from spot_jax.files import as_path, check_no_pointer

PAD, EOS, UNK = 0, 1, 2
model_pb2: Any = sentencepiece_model_pb2  # its classes are made at run time


class TextCodec(Protocol):
    """The two directions of a vocabulary, as `Vocabulary` has them."""

    def encode(self, text: str) -> list[int]:
        """Return ids without eos."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first eos."""
        ...


class Vocabulary:
    """A SentencePiece vocabulary with T5's sentinels above its pieces.

    `extra_ids` sentinels `<extra_id_0>`, `<extra_id_1>`, ... are added on top and counted down
    from the last id, as T5 does; a file that holds them already (mT5's) gets none. Raises
    `SpotError` for a file that is missing, that is no SentencePiece model, or whose pad, eos and
    unknown ids are not 0, 1 and 2.

    Attributes:
        path: path of the model file.
        size: number of ids, the sentinels included.
        pieces: number of ids in the file.
        sha256: hex digest of the file's bytes.
    """

    def __init__(self, path: str | os.PathLike[str], *, extra_ids: int = 100):
        self.path = as_path(path)
        raw = _read(self.path)
        self.sha256 = hashlib.sha256(raw).hexdigest()
        proto = _parse(raw, self.path)
        self.pieces = len(proto.pieces)
        for piece in proto.pieces:
            if isinstance(piece.piece, bytes) or not math.isfinite(piece.score):
                raise _not_a_vocabulary(self.path)  # no text, or of no number
            if piece.piece.endswith("<extra_id_0>"):
                extra_ids = 0
        self.extra_ids = extra_ids
        for number in reversed(range(extra_ids)):
            kind = model_pb2.ModelProto.SentencePiece.USER_DEFINED
            # With the space before it in the piece, as seqio has it: text gets T5X's ids.
            proto.pieces.add(piece=f"▁<extra_id_{number}>", score=0.0, type=kind)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(
                model_proto=proto.SerializeToString()
            )
        except Exception as error:  # RuntimeError, of pieces that make no model
            raise _not_a_vocabulary(self.path) from error
        self.size: int = self._processor.GetPieceSize()
        _check_special_ids(self._processor, self.path)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without eos; raise `SpotError` for half a surrogate pair."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str], *, threads: int = 1) -> list[list[int]]:
        """Return the ids of each text, in order."""
        texts = list(texts)
        try:
            if threads == 1:
                # Of a list it makes threads, even if one, which takes longer than a text.
                return [self._processor.Encode(text, out_type=int) for text in texts]
            return self._processor.Encode(texts, out_type=int, num_threads=threads)
        except (RuntimeError, TypeError, UnicodeEncodeError):
            for number, text in enumerate(texts, start=1):
                _check_unicode(text, f"text {number} of {len(texts)}")
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` up to the first eos, without special tokens.

        Padding is dropped; ids beyond the vocabulary (unused rows of an embedding table, virtual
        tokens) become the unknown token, as in seqio.
        """
        piece_ids: list[int] = []
        for token in map(int, ids):
            if token == EOS:
                break
            if token != PAD:
                piece_ids.append(token if 0 < token < self.size else UNK)
        return self._processor.DecodeIds(piece_ids)

    def piece(self, token: int) -> str:
        """Return the piece of one id as the model spells it, `▁` for a space."""
        return self._processor.IdToPiece(int(token)) if token < self.size else f"<{token}>"

    def sentinel(self, number: int) -> int:
        """Return the id of `<extra_id_number>`: the ids run downwards from `size - 1`."""
        return self.size - 1 - number

    def __repr__(self) -> str:
        return f"Vocabulary({str(self.path)!r}, size={self.size})"


@functools.cache
def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Return the vocabulary at `path`; each file is read once in a process."""
    return Vocabulary(path)


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpotError(
            f"{name} holds half a surrogate pair, {text[error.start]!a}, which no text has; "
            "correct it"
        ) from error


def _read(path: epath.Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # reading a device may never end
            raise _not_a_vocabulary(path)
        return path.read_bytes()
    except OSError as error:
        raise SpotError(
            f"expected a SentencePiece vocabulary at {path}, found {error.strerror or error}; "
            "give the path of a spiece.model file"
        ) from error


def _parse(raw: bytes, path: epath.Path) -> Any:
    proto = model_pb2.ModelProto()
    try:
        proto.ParseFromString(raw)
    except Exception as error:  # protobuf's DecodeError, whose module moved between versions
        raise _not_a_vocabulary(path) from error
    if not proto.pieces:
        raise _not_a_vocabulary(path)
    return proto


def _not_a_vocabulary(path: epath.Path) -> SpotError:
    check_no_pointer(path)
    return SpotError(
        f"expected a SentencePiece model in {path}, found something else or a truncated file; "
        "restore the file or give another spiece.model"
    )


def _check_special_ids(processor: sentencepiece.SentencePieceProcessor, path: epath.Path) -> None:
    special = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if special != (PAD, EOS, UNK):
        raise SpotError(
            f"expected pad 0, eos 1 and unk 2 in {path}, found pad {special[0]}, eos {special[1]} "
            f"and unk {special[2]}; give a T5 vocabulary"
        )
