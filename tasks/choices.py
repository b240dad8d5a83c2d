"""Choices in words: what `mini` learns of tasks before it is frozen (docs/mini.md).

    python -m tasks.choices TEXT_DIR DEST.npz

An example is some words, then a text, and which of the words goes with the text:

    cash withdrawal charge, card arrival text: I was charged a fee at the ATM
    ->  cash withdrawal charge

The words take the place that a soft prompt will have, and a prompt that begins as class labels
(Lester et al. 2021, section 3.2) looks much like them. A fourth of the examples need no labels: a
word and its WordNet gloss, among other words. The rest are the training splits of `SEEN`; a fourth
of those come without their words, so that the text's form alone says what is asked. The other
bundled sets are left for prompts to show what they can do on tasks that the model has not met.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from spot_jax.data import fields
from spot_jax.data.examples import Examples
from spot_jax.errors import SpotError
from spot_jax.t5.vocabulary import EOS, Vocabulary
from tasks.bundled.reading import find, rows
from tasks.pretraining_text import VOCABULARY

SEEN = (
    "banking77",
    "clinc150",
    "sms_spam",
    "sotu_party",
    "vader_movie",
    "vader_tweets",
    "wordnet_hypernym",
    "wordnet_supersense",
)
GLOSSES = "wordnet_glosses.txt"
MOST = 8
WITHOUT = 0.25
PIECES = 48
PER_SET = 12_000

Pair = tuple[str, str, Sequence[str]]


def labelled(name: str, random_: random.Random) -> Iterator[Pair]:
    """(text, label, other labels) of a training split, at most `PER_SET`."""
    item = find(name)
    form = fields.template_from(item.fields)
    found = rows(name, "train")
    for row in random_.sample(found, min(len(found), PER_SET)):
        text = form.format_map({field: row[field] for field in item.fields})
        yield text, row["label"], [label for label in item.labels if label != row["label"]]


def glosses(path: Path, count: int, random_: random.Random) -> Iterator[Pair]:
    """(gloss, word, other words), `count` of them; `SpotError` if there is no such file."""
    if not path.is_file():
        raise SpotError(f"{path} is missing; `python -m tasks.pretraining_text` writes it")
    lines = path.read_text(encoding="utf-8").splitlines()
    parts = [line.partition(": ") for line in lines]
    known = [(word, gloss) for word, _, gloss in parts if len(word.split()) <= 2 and gloss]
    words = [word for word, _ in known]
    for word, gloss in random_.sample(known, min(count, len(known))):
        others = [other for other in random_.sample(words, 2 * MOST) if other != word]
        yield f"text: {gloss.split(';')[0]}", word, others


def tokens(
    pair: Pair, without: float, vocabulary: Vocabulary, random_: random.Random
) -> tuple[list[int], list[int]]:
    """The choice as ids: the words in any order, then the text, cut to `PIECES`; and the answer."""
    text, answer, others = pair
    words: list[str] = []
    if random_.random() >= without:
        most = min(len(others), MOST - 1)
        words = [answer, *random_.sample(list(others), random_.randint(min(1, most), most))]
        random_.shuffle(words)
    ids = [id for word in words for id in vocabulary.encode(word)] + vocabulary.encode(text)
    return [*ids[: PIECES - 1], EOS], [*vocabulary.encode(answer), EOS]


def write(text_directory: Path, destination: Path, seed: int = 0) -> int:
    """Write the examples in a random order and return how many there are."""
    random_ = random.Random(seed)
    vocabulary = Vocabulary(VOCABULARY)
    pairs = [(pair, WITHOUT) for name in SEEN for pair in labelled(name, random_)]
    unlabelled = glosses(text_directory / GLOSSES, len(pairs) // 3, random_)
    pairs += [(pair, 0.0) for pair in unlabelled]
    random_.shuffle(pairs)
    made = [tokens(pair, without, vocabulary, random_) for pair, without in pairs]
    Examples.from_lists(made, task="choices").save(destination)
    return len(made)


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    if len(arguments) != 2:
        raise SystemExit("usage: python -m tasks.choices TEXT_DIR DEST.npz")
    try:
        print(f"{write(Path(arguments[0]), Path(arguments[1])):,} examples")
    except SpotError as error:
        raise SystemExit(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
