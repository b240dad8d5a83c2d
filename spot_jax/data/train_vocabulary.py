"""Train a SentencePiece vocabulary as T5's was: unigram, pad 0, eos 1, unknown 2, no bos."""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from spot_jax.errors import SpotError
from spot_jax.files import write_whole


def train_vocabulary(
    files: Iterable[str | os.PathLike[str]],
    dest: str | os.PathLike[str],
    size: int,
    seed: int = 0,
    *,
    sample_bytes: int = 12_000_000,
    character_coverage: float = 0.9999,
) -> Path:
    """Train a vocabulary of `size` pieces on a sample of lines and write it to `dest`.

    A line is taken with the probability that makes the sample about `sample_bytes` long. The same
    files, size and seed give the same vocabulary. Raises `SpotError` when there is no text.
    """
    paths = [Path(file) for file in files]
    total = sum(path.stat().st_size for path in paths)
    if not total:
        raise SpotError(f"expected text to train a vocabulary on, found none in {len(paths)} files")
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=_sample(paths, min(1.0, sample_bytes / total), seed),
        model_writer=model,
        model_type="unigram",
        vocab_size=size,
        character_coverage=character_coverage,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        byte_fallback=False,
        max_sentence_length=16384,
        num_threads=2,  # part of the result: sums are taken per thread
        minloglevel=1,
    )
    dest = Path(dest)
    write_whole(dest, model.getvalue())
    return dest


def _sample(paths: list[Path], share: float, seed: int) -> Iterator[str]:
    rng = np.random.Generator(np.random.Philox(seed))
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.strip() and rng.random() < share:
                    yield line.strip()
