"""The text that `mini` reads: some plain files, and the training text of bundled sets.

    python -m tasks.pretraining_text TEXT_DIR DEST

writes DEST/*.txt from TEXT_DIR/*.txt and from the unlabelled training splits of short everyday
text, three times over because a small model sees little. Lines that hold text of a validation or
test split are left out.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from spot_jax.data.held_out import HeldOut
from spot_jax.errors import SpotError
from tasks.bundled.reading import find, rows

FILES = ("anarchism_faq", "austen", "brown", "fortunes")
SETS = ("banking77", "clinc150", "sms_spam", "vader_amazon", "vader_movie", "vader_tweets")
COPIES = 3


def _texts(name: str, split: str) -> Iterator[str]:
    fields = find(name).fields
    for row in rows(name, split):
        for field in fields:
            yield " ".join(row[field].split())


def write(source: Path, destination: Path) -> None:
    """Write the directory; `SpotError` if a file of `FILES` is not in `source`."""
    missing = [name for name in FILES if not (source / f"{name}.txt").is_file()]
    if missing:
        raise SpotError(f"{source} lacks {missing[0]}.txt; give the directory that holds it")
    held = HeldOut(
        text for name in SETS for split in ("validation", "test") for text in _texts(name, split)
    )
    destination.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        lines = (source / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.strip() and not held.overlaps(line)]
        (destination / f"{name}.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    for name in SETS:
        text = "".join(line + "\n" for line in _texts(name, "train"))
        (destination / f"bundled_{name}.txt").write_text(text * COPIES, encoding="utf-8")


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
