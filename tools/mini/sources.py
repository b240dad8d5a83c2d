"""Texts for `mini` by source, cut into segments, with the labels that each source has for them."""

import json
import lzma
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from spot_jax.data.held_out import HeldOut
from spot_jax.errors import SpotError
from tasks.bundled.reading import find, rows
from tasks.bundled.sets import SETS

SHORT, LONG = 26, 72
"""Most words of a segment; one paragraph in four is cut into long ones."""
LEAST_WORDS = 4
SOURCES = {
    "anarchism_faq": 20_000,
    "austen": 15_000,
    "bible_asv": 6_000,
    "bible_bbe": 6_000,
    "brown": 40_000,
    "debian_descriptions": 30_000,
    "foldoc": 20_000,
    "fortunes": 15_000,
    "gcide": 60_000,
    "linux_doc": 12_000,
    "python_doc": 12_000,
    "shakespeare": 12_000,
    "sotu": 16_000,
    "wordnet_glosses": 70_000,
    "newsgroups20_raw": 40_000,
    "yahoo_answers": 30_000,
    "stackoverflow": 20_000,
    "trec": 6_000,
    "sarcasm_headlines": 28_500,
    "rotten_tomatoes": 4_000,
    "bundled": 70_000,
}
"""Most segments of each source (the paragraph that reaches it is read to its end)."""
PLAIN = (
    "anarchism_faq", "austen", "bible_asv", "bible_bbe", "brown", "debian_descriptions", "foldoc",
    "fortunes", "gcide", "linux_doc", "python_doc", "shakespeare", "sotu", "wordnet_glosses",
)  # fmt: skip
"""Sources that are plain files, NAME.txt, a paragraph a line."""
LABELLED = (
    "newsgroups20_raw", "yahoo_answers", "stackoverflow", "trec", "sarcasm_headlines",
    "rotten_tomatoes",
)  # fmt: skip
"""Sources that are labelled sets, NAME.jsonl.xz."""
NOT_READ = ("sotu_party", "bible_paraphrase", "wordnet_hypernym", "wordnet_supersense")
"""Bundled sets whose texts are in the plain files, or are no sentences."""
DOMAINS = {
    "Zool": "animals", "Bot": "plants", "Med": "medicine", "Law": "law", "Mus": "music",
    "Chem": "chemistry", "Arch": "building", "Mil": "war", "Naut": "ships", "Math": "mathematics",
    "Min": "minerals", "Her": "heraldry", "Eccl": "church", "Anat": "anatomy", "Mach": "machines",
    "Logic": "logic", "Gram": "grammar", "Physics": "physics", "Geol": "geology",
    "Print": "printing", "Astron": "stars", "Com": "trade", "Mech": "mechanics",
    "Physiol": "physiology", "Surg": "surgery", "Elec": "electricity", "Bib": "bible",
    "Paint": "painting", "Geom": "geometry", "Rhet": "rhetoric",
}  # fmt: skip
GROUPS = {
    "soc.religion.christian": "christianity", "sci.electronics": "electronics",
    "rec.sport.hockey": "hockey", "rec.autos": "cars", "sci.crypt": "encryption",
    "rec.sport.baseball": "baseball", "rec.motorcycles": "motorcycles", "sci.med": "medicine",
    "sci.space": "space", "comp.os.ms-windows.misc": "windows", "comp.graphics": "graphics",
    "comp.windows.x": "x window system", "comp.sys.ibm.pc.hardware": "pc hardware",
    "comp.sys.mac.hardware": "mac hardware", "misc.forsale": "for sale",
    "talk.politics.mideast": "middle east", "talk.politics.guns": "guns",
    "alt.atheism": "atheism", "talk.politics.misc": "politics", "talk.religion.misc": "religion",
}  # fmt: skip
FINE = {
    "ind": "individual", "other": "other", "def": "definition", "count": "count",
    "manner": "manner", "desc": "description", "date": "date", "cremat": "creative work",
    "reason": "reason", "gr": "group", "country": "country", "city": "city", "animal": "animal",
    "food": "food", "dismed": "disease", "termeq": "equivalent term", "period": "period",
    "exp": "expansion", "money": "money", "state": "state", "sport": "sport", "event": "event",
    "substance": "substance", "product": "product", "color": "color", "techmeth": "technique",
    "dist": "distance", "veh": "vehicle", "word": "word", "title": "title", "perc": "percent",
    "mount": "mountain", "body": "body", "abb": "abbreviation", "lang": "language",
    "volsize": "size", "plant": "plant", "weight": "weight", "symbol": "symbol",
    "letter": "letter", "instru": "instrument", "temp": "temperature", "speed": "speed",
    "code": "code", "currency": "currency", "religion": "religion", "ord": "order",
}  # fmt: skip
SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=[\"'A-Z(0-9])")
GCIDE = re.compile(
    r"^(?P<word>[A-Z][A-Za-z-]+)(?:,? [^,]*)?, (?P<pos>n|a|v\. t|v\. i|adv)\. (?:\[[^\]]*\] )?"
    r"(?:\((?P<domain>[A-Z][a-z]+)\.\) )?(?P<rest>[A-Z].*)$"
)
FOLDOC = re.compile(r"^<(?P<tag>[^>]+)> (?P<rest>.*)$")
GENUS = re.compile(
    r"^(?:an?|the|any|one of the) (?P<noun>[a-z' -]+?)(?: (?:of|made|which|that|used|with|for|in|"
    r"to|from|having|who|or|and|by|on|at|consisting|containing|found|as|resembling|being|so|is)\b"
    r"|[,;.:(]|$)"
)
POS = {"n": "noun", "a": "adjective", "v. t": "verb", "v. i": "verb", "adv": "adverb"}


class Text(NamedTuple):
    """A segment.

    Attributes:
        source: Name in `SOURCES`.
        paragraph: Number of the paragraph that it was cut from, within its source.
        text: Words, without tabs and line ends.
        labels: Labels that it came with, by attribute.
    """

    source: str
    paragraph: int
    text: str
    labels: dict[str, str]


def segments(paragraph: str, most: int) -> Iterator[str]:
    """Yield sentences joined as long as they fit into `most` words; a longer sentence is cut."""
    words: list[str] = []
    for sentence in SENTENCE.split(paragraph):
        more = sentence.split()
        if words and len(words) + len(more) > most:
            yield " ".join(words)
            words = []
        words += more[: most - len(words)]
    if words:
        yield " ".join(words)


def genus(definition: str) -> str | None:
    """Return the noun that a definition begins with: 'a fermented liquor made of' -> 'liquor'."""
    match = GENUS.match(definition.lower())
    if match is None:
        return None
    words = match["noun"].split()
    if not 1 <= len(words) <= 4 or len(words[-1]) < 3:
        return None
    return words[-1]


def read_gcide(line: str) -> tuple[str, dict[str, str]]:
    """Return an entry of GCIDE as `word: definition`, and what it says of the word."""
    match = GCIDE.match(line)
    if match is None:
        return line, {}
    definition = re.sub(r"\s*\[[^\]]*\]", "", match["rest"])
    labels = {"part of speech": POS[match["pos"]]}
    if match["domain"] in DOMAINS:
        labels["domain"] = DOMAINS[match["domain"]]
    if match["pos"] == "n" and (noun := genus(definition)):
        labels["genus"] = noun
    return f"{match['word'].lower()}: {definition[:1].lower()}{definition[1:]}", labels


def read_foldoc(line: str) -> tuple[str, dict[str, str]]:
    """Return an entry of FOLDOC without its tag, and the field that the tag names."""
    match = FOLDOC.match(line)
    if match is None:
        return line, {}
    return match["rest"], {"field": match["tag"].split(",")[0]}


def read_wordnet(line: str, held: set[str]) -> tuple[str, dict[str, str]]:
    """Return an entry of WordNet and what it says of the word; no genus of words in `held`."""
    word, _, gloss = line.partition(": ")
    labels = {"part of speech": "verb"} if gloss.startswith("to ") else {}
    if word.lower() not in held and (noun := genus(gloss)):
        labels["genus"] = noun
    return line, labels


class Exclusions:
    """What must not be read: texts, and genera of words, that bundled sets are evaluated on."""

    def __init__(self) -> None:
        splits = ("validation", "test")
        self.texts = HeldOut([text for split in splits for text in bundled_texts(split)])
        self.words = {
            re.sub(r"^this is about (a kind of )?|\.$", "", row["text1"].lower())
            for split in splits
            for row in rows("wordnet_hypernym", split)
        }
        self.movies = Movies(
            row["text"] for split in ("train", *splits) for row in rows("vader_movie", split)
        )


class Movies:
    """The texts of vader_movie, any split: rotten_tomatoes holds nearly all of them again."""

    def __init__(self, texts: Iterable[str]):
        texts = list(texts)
        self.texts = {letters(text) for text in texts}
        self.fours = {four for text in texts for four in four_words(text)}

    def overlaps(self, text: str) -> bool:
        """Return whether `text` is one of them, or shares more than a tenth of its four words."""
        windows = four_words(text)
        shared = sum(four in self.fours for four in windows)
        return letters(text) in self.texts or shared > 0.1 * len(windows)


def four_words(text: str) -> list[str]:
    """Return each four words in a row; a shorter text as it is."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [" ".join(words[i : i + 4]) for i in range(max(len(words) - 3, 1))]


def letters(text: str) -> str:
    """Return the letters and digits of `text`, lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def plain(directory: Path, name: str, excluded: Exclusions, generator: random.Random) -> list[Text]:
    """Return segments of a plain file, paragraphs in a random order."""
    texts: list[Text] = []
    lines = (directory / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    numbered = list(enumerate(lines))
    generator.shuffle(numbered)
    for number, line in numbered:
        labels: dict[str, str] = {}
        if name == "gcide":
            line, labels = read_gcide(line)
        elif name == "foldoc":
            line, labels = read_foldoc(line)
        elif name == "wordnet_glosses":
            line, labels = read_wordnet(line, excluded.words)
        if excluded.texts.overlaps(line):
            continue
        whole = name in ("gcide", "wordnet_glosses")
        most = LONG if generator.random() < 0.25 and not whole else SHORT
        for i, segment in enumerate(segments(line, most)):
            if len(segment.split()) >= LEAST_WORDS:
                texts.append(Text(name, number, segment, labels if i == 0 else {}))
            if whole or i == 5:
                break
        if len(texts) >= SOURCES[name]:
            break
    return texts


def clean_newsgroup(text: str) -> str:
    """Return a message without addresses, its heading and marks of quotation."""
    text = re.sub(r"\S+@\S+", " ", text)
    text = re.sub(r"^From:.*?Subject:( Re:)*", " ", text)
    text = re.sub(r"In article <[^>]*>.*?writes?:", " ", text)
    return " ".join(re.sub(r"[>|\-_=*#]{1,}", " ", text).split())


LABELS: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {
    "newsgroups20_raw": lambda row: {
        "newsgroup": GROUPS[row["label"]], "newsgroup family": row["label"].split(".")[0]},
    "yahoo_answers": lambda row: {"answers topic": row["label"].lower().replace("&", "and")},
    "stackoverflow": lambda row: {"tool": row["label"].replace("-", " ")},
    "trec": lambda row: {
        "asks for": row["label"], "asks exactly for": FINE[row["fine"].split(":")[1]]},
    "sarcasm_headlines": lambda row: {"seriousness": row["label"]},
    "rotten_tomatoes": lambda row: {"verdict": row["label"]},
}  # fmt: skip
"""Labels by attribute of a row of each labelled set."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a labelled set.

    Raises `SpotError` for a line that is no row with text and label, and where all labels are one.
    """
    data = []
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row.get("text"), str) or not isinstance(row.get("label"), str):
                    raise SpotError(
                        f"expected text and label in line {number} of {path}, found "
                        f"{line.strip()[:60]}; correct the line"
                    )
                data.append(row)
    except (lzma.LZMAError, EOFError, ValueError, AttributeError) as error:
        raise SpotError(
            f"expected JSON lines in {path}, found a damaged file after {len(data)} lines; "
            "replace it"
        ) from error
    labels = {row["label"] for row in data}
    if len(labels) < 2:
        raise SpotError(
            f"expected two or more labels in {path}, found {sorted(labels)}; "
            "rows of one label teach nothing"
        )
    return data


def labelled(
    directory: Path, name: str, excluded: Exclusions, generator: random.Random
) -> list[Text]:
    """Return segments of a labelled set's texts, each with its text's labels."""
    path = directory / f"{name}.jsonl.xz"
    data = read_rows(path)
    generator.shuffle(data)
    texts: list[Text] = []
    for number, row in enumerate(data):
        text = " ".join(row["text"].split())
        if name == "rotten_tomatoes" and excluded.movies.overlaps(text):
            continue
        if excluded.texts.overlaps(text):
            continue
        try:
            labels = LABELS[name](row)
        except (KeyError, IndexError) as error:
            raise SpotError(
                f"expected the labels of {name} as published in {path}, found one of another "
                f"set: {error}; replace the file"
            ) from error
        if name == "newsgroups20_raw":
            text = clean_newsgroup(text)
        text = text.replace(" . . ", " ")
        most = LONG if generator.random() < 0.25 else SHORT
        for i, segment in enumerate(segments(text, most)):
            if len(segment.split()) >= LEAST_WORDS:
                texts.append(Text(name, number, segment, labels))
            if i == 4:
                break
        if len(texts) >= SOURCES[name]:
            break
    return texts


def bundled_texts(split: str) -> list[str]:
    """Return the texts of a split of all bundled sets."""
    return [
        " ".join(row[field].split())
        for name in SETS
        for row in rows(name, split)
        for field in find(name).fields
    ]


def bundled(generator: random.Random) -> list[Text]:
    """Return the first segments of training splits' texts, without labels."""
    texts: list[Text] = []
    for name in SETS:
        if name in NOT_READ:
            continue
        for row in rows(name, "train"):
            first = next(segments(" ".join(row[find(name).fields[0]].split()), SHORT), "")
            if len(first.split()) >= LEAST_WORDS:
                texts.append(Text("bundled", len(texts), first, {}))
    generator.shuffle(texts)
    return texts[: SOURCES["bundled"]]
