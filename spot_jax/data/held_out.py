"""Keep the texts that tasks are evaluated on out of the text a backbone is pre-trained on."""

import re
from collections.abc import Iterable, Iterator

WORD = re.compile(r"\w+")


class HeldOut:
    """The word n-grams of texts that must not be seen; a line that holds one of them overlaps.

    A text of fewer than `n` words counts as one whole when it has at least `shortest` words; a
    shorter one says too little to be looked for.
    """

    def __init__(self, texts: Iterable[str], *, n: int = 8, shortest: int = 5):
        self.n, self.shortest = n, shortest
        self._grams: set[str] = set()
        for text in texts:
            words = WORD.findall(text.lower())
            if len(words) >= shortest:
                self._grams.update(_windows(words, min(n, len(words))))

    def overlaps(self, line: str) -> bool:
        """Return whether `line` holds an n-gram, or a whole short text, that is held out."""
        words = WORD.findall(line.lower())
        if any(gram in self._grams for gram in _windows(words, self.n)):
            return True
        # Short texts are looked for as whole lines only.
        return self.shortest <= len(words) < self.n and " ".join(words) in self._grams


def _windows(words: list[str], n: int) -> Iterator[str]:
    for start in range(len(words) - n + 1):
        yield " ".join(words[start : start + n])
