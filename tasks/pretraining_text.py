"""What `mini` reads: text of fourteen files and of the bundled sets, as tokens and word vectors.

    python -m tasks.pretraining_text TEXT_DIR DEST

writes DEST/text/*.txt from TEXT_DIR/*.txt and from the unlabelled training splits of the bundled
sets, DEST/tokens_train.npy and DEST/tokens_validation.npy, which need no TensorFlow to be read,
and DEST/word_vectors.npy. Lines that hold text of a validation or test split are left out.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spot_jax.data.held_out import HeldOut
from spot_jax.data.text_tokens import read_directory, save_tokens, tokenise
from spot_jax.data.word_vectors import word_vectors
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import Vocabulary
from tasks.bundled.reading import find, rows
from tasks.bundled.sets import SETS

FILES = (
    "anarchism_faq",
    "austen",
    "bible_asv",
    "bible_bbe",
    "brown",
    "debian_descriptions",
    "foldoc",
    "fortunes",
    "gcide",
    "linux_doc",
    "python_doc",
    "shakespeare",
    "sotu",
    "wordnet_glosses",
)
# Large and far from everyday English: a third of their lines.
THINNED = ("debian_descriptions", "foldoc", "gcide", "linux_doc", "python_doc")
LEAST_WORDS = 4
VOCABULARY = Path(__file__).parent / "mini_spiece.model"
# Of gin_configs/models/mini.gin: rows of the embedding table, and its width.
SHAPE = (8192, 256)


def _texts(name: str, split: str) -> Iterator[str]:
    fields = find(name).fields
    for row in rows(name, split):
        for field in fields:
            yield " ".join(row[field].split())


def write_text(source: Path, destination: Path) -> None:
    """Write the text files; `SpotError` if one of `FILES` is not in `source`."""
    missing = [name for name in FILES if not (source / f"{name}.txt").is_file()]
    if missing:
        raise SpotError(f"{source} lacks {missing[0]}.txt; give the directory that holds it")
    held = HeldOut(
        text for name in SETS for split in ("validation", "test") for text in _texts(name, split)
    )
    destination.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        thin = random.Random(f"{name}.txt") if name in THINNED else None
        with (
            (source / f"{name}.txt").open(encoding="utf-8") as lines,
            (destination / f"{name}.txt").open("w", encoding="utf-8") as kept,
        ):
            for line in lines:
                if thin is not None and thin.random() > 1 / 3:
                    continue
                if not held.overlaps(line):
                    kept.write(line)
    texts = dict.fromkeys(text for name in SETS for text in _texts(name, "train"))
    long = [text for text in texts if len(text.split()) >= LEAST_WORDS]
    (destination / "bundled_train.txt").write_text("\n".join(long) + "\n", encoding="utf-8")


def write(source: Path, destination: Path) -> None:
    """Write everything that the pre-training reads; see the module."""
    write_text(source, destination / "text")
    vocabulary = Vocabulary(VOCABULARY)
    directory = read_directory(destination / "text")
    for split in ("validation", "train"):
        tokens = tokenise(directory.lines(split), vocabulary)
        save_tokens(destination / f"tokens_{split}.npy", tokens, vocabulary)
    np.save(destination / "word_vectors.npy", word_vectors(tokens, *SHAPE))


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    if len(arguments) != 2:
        raise SystemExit("usage: python -m tasks.pretraining_text TEXT_DIR DEST")
    try:
        write(Path(arguments[0]), Path(arguments[1]))
    except SpotError as error:
        raise SystemExit(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
