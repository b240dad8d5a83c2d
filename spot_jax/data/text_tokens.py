"""Plain text to one flat array of token ids, once; what pre-training reads without TensorFlow."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt16

from spot_jax.errors import SpotError
from spot_jax.files import fault_text, reading, write_whole
from spot_jax.t5.vocabulary import EOS, Vocabulary

VALIDATION_SHARE = 0.01
LINES_AT_ONCE = 20_000

Tokens = UInt16[np.ndarray, " n"] | Int32[np.ndarray, " n"]


@dataclass(frozen=True)
class TextDirectory:
    """The `.txt` files of a directory, one paragraph a line, read as UTF-8.

    Attributes:
        files: the files that are text, sorted by path.
        skipped: the files that are not UTF-8.
    """

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]

    def lines(self, split: str = "train") -> Iterator[str]:
        """Yield the paragraphs of "train" (99%) or "validation" (1%), told apart by a hash."""
        if split not in ("train", "validation"):
            raise SpotError(f"expected split 'train' or 'validation', found {split!r}; choose one")
        for path in self.files:
            with path.open(encoding="utf-8") as file:
                for line in map(str.strip, file):
                    if line and is_validation(line) == (split == "validation"):
                        yield line


def read_directory(directory: str | os.PathLike[str]) -> TextDirectory:
    """Return the text files below `directory`.

    Raises `SpotError` when it is no directory or holds no `.txt` file in UTF-8.
    """
    root = Path(directory)
    if not root.is_dir():
        raise SpotError(f"expected a directory of .txt files, found none at {root}; create it")
    paths = sorted(root.rglob("*.txt"))
    good = tuple(path for path in paths if _is_utf8(path))
    skipped = tuple(path for path in paths if path not in good)
    if not good:
        raise SpotError(
            f"expected UTF-8 .txt files in {root}, found none ({len(skipped)} in another encoding);"
            " convert them with iconv or give another directory"
        )
    return TextDirectory(good, skipped)


def is_validation(line: str) -> bool:
    """Return whether `line` is one of the 1% held back: a hash of its text, so it never moves."""
    digest = hashlib.blake2b(line.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < VALIDATION_SHARE


def _is_utf8(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return False
    return True


def tokenise(
    lines: Iterable[str],
    vocabulary: Vocabulary,
    *,
    seed: int | None = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Tokens:
    """Return the ids of all lines in one array, eos after each; uint16 where the ids fit.

    `seed` shuffles the lines (None keeps their order), so that a chunk mixes sources; `progress`
    is called with the number of lines done.
    """
    dtype = np.uint16 if vocabulary.size <= 2**16 else np.int32
    lengths: list[int] = []
    parts: list[np.ndarray] = []
    iterator = iter(lines)
    while block := list(itertools.islice(iterator, LINES_AT_ONCE)):
        ids = vocabulary.encode_all(block, threads=os.cpu_count() or 1)
        lengths.extend(len(line) + 1 for line in ids)
        flat = itertools.chain.from_iterable(itertools.chain(line, (EOS,)) for line in ids)
        parts.append(np.fromiter(flat, dtype))
        progress(len(lengths))
    if not parts:
        raise SpotError("expected lines of text to tokenise, found none; give another directory")
    return _reorder(np.concatenate(parts), np.asarray(lengths), seed)


def _reorder(tokens: np.ndarray, lengths: np.ndarray, seed: int | None) -> np.ndarray:
    if seed is None:
        return tokens
    ends = np.cumsum(lengths)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(lengths))
    return np.concatenate([tokens[ends[i] - lengths[i] : ends[i]] for i in order])


def save_tokens(
    path: str | os.PathLike[str], tokens: np.ndarray, vocabulary: Vocabulary | None = None
) -> Path:
    """Write `tokens` [n] to a `.npy` file in one move: a reader never sees half of it.

    A small file beside it, `{path}.vocabulary`, says which vocabulary the ids are of, if given.
    """
    path = Path(path)
    mark = _mark_of(path)
    # Never the mark of other tokens: it goes before they come, and comes after them.
    mark.unlink(missing_ok=True)
    write_whole(path, lambda file: np.save(file, tokens))
    if vocabulary is not None:
        mark.write_text(f"{vocabulary.sha256}  {vocabulary.path.name}\n", encoding="utf-8")
    return path


def _mark_of(path: Path) -> Path:
    return path.with_name(path.name + ".vocabulary")


def _check_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    mark = _mark_of(path)
    with reading(mark, "tokenise the text again"):
        words = mark.read_text(encoding="utf-8").split() if mark.exists() else []
    if words and words[0] != vocabulary.sha256:
        raise SpotError(
            f"expected tokens of the backbone's vocabulary ({vocabulary.sha256[:12]}) in {path}, "
            f"found those of {words[-1]} ({words[0][:12]}); tokenise the text with the backbone's"
        )


def load_tokens(path: str | os.PathLike[str], vocabulary: Vocabulary | None = None) -> Tokens:
    """Return the tokens [n] at `path`, mapped and not read into memory.

    Raises `SpotError` if they are unusable, or known to be of another vocabulary than this one.
    """
    if vocabulary is not None:
        _check_vocabulary(Path(path), vocabulary)
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy's readers raise many kinds
        raise SpotError(
            f"expected a .npy file of token ids at {path}, found {fault_text(error)}; "
            "tokenise the text again"
        ) from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or not len(tokens):
        raise SpotError(
            f"expected a flat array of token ids in {path}, found {tokens.dtype} of shape "
            f"{tokens.shape}; tokenise the text again"
        )
    return tokens
