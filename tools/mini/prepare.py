"""Gather what `mini` learns from: texts, phrases, and what rules and other people's labels say of them.

    python -m tools.mini.prepare TEXT_DIR TASK_DIR TEACHER_DIR VADER_DIR DEST

TEXT_DIR holds plain files, one paragraph a line; TASK_DIR labelled sets that do not ship, as JSON
lines; TEACHER_DIR a sentence encoder (all-MiniLM-L6-v2 in Hugging Face's form); VADER_DIR the package
vaderSentiment, whose word list says how a text feels. DEST gets `texts.tsv`, `phrases.txt`,
`attributes.npz` and `teacher.npz`, about 45 MB together, which is all that `tools.mini.train` reads.

Of the sets that ship (tasks/bundled) nothing is read but the texts of their training splits, without
labels; lines that share eight words in a row with a text of validation or test are left out.
"""

import collections
import json
import lzma
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spot_jax.data.held_out import HeldOut
from tasks.bundled.reading import find, rows
from tasks.bundled.sets import SETS

SHORT, LONG = 26, 72
LEAST_WORDS = 4
# Most segments of each source.
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
KINDS = {
    "anarchism_faq": "politics",
    "austen": "novel",
    "bible_asv": "scripture",
    "bible_bbe": "scripture",
    "brown": "press",
    "debian_descriptions": "software",
    "foldoc": "computing dictionary",
    "fortunes": "joke",
    "gcide": "dictionary",
    "linux_doc": "kernel manual",
    "python_doc": "programming manual",
    "shakespeare": "drama",
    "sotu": "speech",
    "wordnet_glosses": "definition",
    "newsgroups20_raw": "discussion",
    "yahoo_answers": "advice",
    "stackoverflow": "coding question",
    "trec": "trivia",
    "sarcasm_headlines": "headline",
    "rotten_tomatoes": "review",
}
TONED = {
    "anarchism_faq", "austen", "brown", "fortunes", "newsgroups20_raw", "yahoo_answers",
    "sarcasm_headlines", "rotten_tomatoes", "shakespeare", "sotu",
}  # fmt: skip
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
STOP = set(
    "a an the of to in on at by for with from and or but if is are was were be been am do does did "
    "have has had i you he she it we they me my your his her its our their this that these those "
    "as not no so than then there here what which who whom when where why how can could will would "
    "shall should may might must about into over under up down out off just very too also more most "
    "some any all each every other such only own same s t don now one two im get got go".split()
)
SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=[\"'A-Z(0-9])")
WORD = re.compile(r"[a-z][a-z'-]+")


class Text(NamedTuple):
    """A segment: where it is from, which paragraph, its words, and labels by attribute name."""

    source: str
    paragraph: int
    text: str
    labels: dict[str, str]


def segments(paragraph: str, most: int) -> Iterator[str]:
    """Sentences joined as long as they fit into `most` words; a longer sentence is cut."""
    words: list[str] = []
    for sentence in SENTENCE.split(paragraph):
        more = sentence.split()
        if words and len(words) + len(more) > most:
            yield " ".join(words)
            words = []
        words += more[: most - len(words)]
    if words:
        yield " ".join(words)


GCIDE = re.compile(
    r"^(?P<word>[A-Z][A-Za-z-]+)(?:,? [^,]*)?, (?P<pos>n|a|v\. t|v\. i|adv)\. (?:\[[^\]]*\] )?"
    r"(?:\((?P<domain>[A-Z][a-z]+)\.\) )?(?P<rest>[A-Z].*)$"
)
FOLDOC = re.compile(r"^<(?P<tag>[^>]+)> (?P<rest>.*)$")
GENUS = re.compile(
    r"^(?:an?|the|any|one of the) (?P<noun>[a-z' -]+?)(?: (?:of|made|which|that|used|with|for|in|to|"
    r"from|having|who|or|and|by|on|at|consisting|containing|found|as|resembling|being|so|is)\b|[,;.:(]|$)"
)
POS = {"n": "noun", "a": "adjective", "v. t": "verb", "v. i": "verb", "adv": "adverb"}


def genus(definition: str) -> str | None:
    """The noun that a definition begins with: 'a fermented liquor made of ...' -> 'liquor'."""
    match = GENUS.match(definition.lower())
    if match is None:
        return None
    words = match["noun"].split()
    if not 1 <= len(words) <= 4 or len(words[-1]) < 3:
        return None
    return words[-1]


def read_gcide(line: str) -> tuple[str, dict[str, str]]:
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
    match = FOLDOC.match(line)
    if match is None:
        return line, {}
    return match["rest"], {"field": match["tag"].split(",")[0]}


def read_wordnet(line: str, held: set[str]) -> tuple[str, dict[str, str]]:
    word, _, gloss = line.partition(": ")
    labels = {"part of speech": "verb"} if gloss.startswith("to ") else {}
    if word.lower() not in held and (noun := genus(gloss)):
        labels["genus"] = noun
    return line, labels


def plain(directory: Path, name: str, held: HeldOut, held_words: set[str], random_) -> list[Text]:
    texts = []
    lines = (directory / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    numbered = list(enumerate(lines))
    random_.shuffle(numbered)
    for number, line in numbered:
        labels: dict[str, str] = {}
        if name == "gcide":
            line, labels = read_gcide(line)
        elif name == "foldoc":
            line, labels = read_foldoc(line)
        elif name == "wordnet_glosses":
            line, labels = read_wordnet(line, held_words)
        if held.overlaps(line):
            continue
        whole = name in ("gcide", "wordnet_glosses")
        most = LONG if random_.random() < 0.25 and not whole else SHORT
        for i, segment in enumerate(segments(line, most)):
            if len(segment.split()) >= LEAST_WORDS:
                texts.append(Text(name, number, segment, labels if i == 0 else {}))
            if whole or i == 5:
                break
        if len(texts) >= SOURCES[name]:
            break
    return texts


def clean_newsgroup(text: str) -> str:
    text = re.sub(r"\S+@\S+", " ", text)
    text = re.sub(r"^From:.*?Subject:( Re:)*", " ", text)
    text = re.sub(r"In article <[^>]*>.*?writes?:", " ", text)
    return " ".join(re.sub(r"[>|\-_=*#]{1,}", " ", text).split())


def letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


class Movie:
    """The texts of vader_movie, any split: rotten_tomatoes holds nearly all of them again."""

    def __init__(self):
        texts = [
            row["text"]
            for split in ("train", "validation", "test")
            for row in rows("vader_movie", split)
        ]
        self.texts = {letters(text) for text in texts}
        self.fours = {four for text in texts for four in self.windows(text)}

    @staticmethod
    def windows(text: str) -> list[str]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return [" ".join(words[i : i + 4]) for i in range(max(len(words) - 3, 1))]

    def overlaps(self, text: str) -> bool:
        windows = self.windows(text)
        shared = sum(four in self.fours for four in windows)
        return letters(text) in self.texts or shared > 0.1 * len(windows)


def labelled(directory: Path, name: str, held: HeldOut, random_, excluded: Movie) -> list[Text]:
    path = directory / f"{name}.jsonl.xz"
    data = [json.loads(x) for x in lzma.open(path, "rt", encoding="utf-8")]
    random_.shuffle(data)
    texts = []
    for number, row in enumerate(data):
        text = " ".join(row["text"].split())
        if name == "rotten_tomatoes" and excluded.overlaps(text) or held.overlaps(text):
            continue
        label = row["label"]
        labels = {
            "newsgroups20_raw": lambda: {
                "newsgroup": GROUPS[label], "newsgroup family": label.split(".")[0]},
            "yahoo_answers": lambda: {"answers topic": label.lower().replace("&", "and")},
            "stackoverflow": lambda: {"tool": label.replace("-", " ")},
            "trec": lambda: {"asks for": label, "asks exactly for": FINE[row["fine"].split(":")[1]]},
            "sarcasm_headlines": lambda: {"seriousness": label},
            "rotten_tomatoes": lambda: {"verdict": label},
        }[name]()  # fmt: skip
        if name == "newsgroups20_raw":
            text = clean_newsgroup(text)
        text = text.replace(" . . ", " ")
        most = LONG if random_.random() < 0.25 else SHORT
        for i, segment in enumerate(segments(text, most)):
            if len(segment.split()) >= LEAST_WORDS:
                texts.append(Text(name, number, segment, labels))
            if i == 4:
                break
        if len(texts) >= SOURCES[name]:
            break
    return texts


def bundled_texts(split: str) -> list[str]:
    return [
        " ".join(row[field].split())
        for name in SETS for row in rows(name, split) for field in find(name).fields
    ]  # fmt: skip


def bundled(random_) -> list[Text]:
    """The texts of the training splits, without labels; speeches are in the plain files."""
    texts = []
    for name in SETS:
        if name in ("sotu_party", "bible_paraphrase", "wordnet_hypernym", "wordnet_supersense"):
            continue
        for row in rows(name, "train"):
            for segment in segments(" ".join(row[find(name).fields[0]].split()), SHORT):
                if len(segment.split()) >= LEAST_WORDS:
                    texts.append(Text("bundled", len(texts), segment, {}))
                break
    random_.shuffle(texts)
    return texts[: SOURCES["bundled"]]


def tones(texts: list[Text], vader: Path) -> np.ndarray:
    """VADER's compound value, -1 to 1, of the texts of `TONED`; NaN elsewhere."""
    sys.path.insert(0, str(vader))
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyse = SentimentIntensityAnalyzer().polarity_scores
    return np.array(
        [analyse(t.text)["compound"] if t.source in TONED else np.nan for t in texts], np.float32
    )


def by_rule(text: Text, tone: float) -> dict[str, str]:
    """What a text's own words say: its attributes by rule, and the labels it came with."""
    labels = dict(text.labels)
    if text.source in KINDS:
        labels["kind"] = KINDS[text.source]
    words = text.text.lower().split()
    plain_words = {word.strip(".,!?;:\"'()") for word in words}
    labels["length"] = "short" if len(words) < 10 else "long" if len(words) > 18 else "medium"
    labels["digits"] = "number" if re.search(r"\d", text.text) else "no number"
    if text.source not in ("gcide", "wordnet_glosses", "foldoc", "bundled"):
        labels["question"] = "question" if "?" in text.text else "statement"
        if plain_words & {"i", "my", "me", "i'm"}:
            labels["person"] = "first person"
        elif plain_words & {"you", "your"}:
            labels["person"] = "second person"
        elif plain_words & {"he", "she", "his", "her", "they", "their", "him"}:
            labels["person"] = "third person"
        if words[0] in ("who", "what", "when", "where", "why", "how", "which"):
            labels["question word"] = words[0]
    if np.isfinite(tone):
        if tone < -0.35:
            labels["tone"] = "negative"
        elif tone > 0.35:
            labels["tone"] = "positive"
        elif abs(tone) < 0.05:
            labels["tone"] = "neutral"
        if abs(tone) > 0.65:
            labels["strength"] = "strong"
        elif 0.1 < abs(tone) < 0.4:
            labels["strength"] = "mild"
    return labels


def phrases(texts: list[Text], banned: set[str]) -> list[str]:
    """Words and short phrases that texts can be about: headwords, and runs of content words."""
    heads: collections.Counter[str] = collections.Counter()
    runs: collections.Counter[str] = collections.Counter()
    words: collections.Counter[str] = collections.Counter()
    for text in texts:
        words.update(WORD.findall(text.text.lower()))
    for text in texts:
        if text.source in ("gcide", "wordnet_glosses"):
            head = text.text.partition(":")[0].lower()
            if 1 <= len(head.split()) <= 3 and re.fullmatch(r"[a-z][a-z -]+", head):
                heads[head] += 1
            continue
        if text.source in (
            "linux_doc",
            "python_doc",
            "debian_descriptions",
            "bible_asv",
            "bible_bbe",
        ):
            continue
        run: list[str] = []
        for word in [*re.findall(r"[a-z'-]+|[^a-z' -]", text.text.lower()), "."]:
            if re.fullmatch(WORD, word) and word not in STOP:
                run.append(word)
                continue
            if 2 <= len(run) <= 5:
                runs[" ".join(run)] += 1
            run = []
        content = [w for w in WORD.findall(text.text.lower()) if w not in STOP]
        if (
            text.source in ("trec", "stackoverflow", "yahoo_answers", "bundled")
            and len(content) > 2
        ):
            start = random.Random(text.text).randrange(max(len(content) - 3, 1))
            size = random.Random(text.text[::-1]).randint(2, 5)
            runs[" ".join(content[start : start + size])] += 0.2
    single = [w for w, n in words.most_common(9000) if n >= 25 and w not in STOP and len(w) > 2]
    heads_list = [h for h, n in heads.items() if all(words[w] >= 4 for w in h.split())]
    heads_list.sort(key=lambda h: -min(words[w] for w in h.split()))
    often = [r for r, n in runs.most_common(40_000) if all(words[w] >= 5 for w in r.split())]
    chosen = dict.fromkeys([*single[:7000], *heads_list[:14_000], *often[:24_000]])
    return [phrase for phrase in chosen if phrase not in banned and len(phrase) < 45]


def attributes(labels: list[dict[str, str]], most: int = 150, least: int = 20):
    """Values of each attribute by number, -1 where a text has none."""
    names = sorted({name for each in labels for name in each})
    values, table = {}, {}
    for name in names:
        counts = collections.Counter(each[name] for each in labels if name in each)
        common = [value for value, count in counts.most_common(most) if count >= least]
        number = {value: i for i, value in enumerate(common)}
        values[name] = common
        table[name] = np.array([number.get(each.get(name, ""), -1) for each in labels], np.int16)
    return values, table


def quantised(directory: Path) -> dict[str, np.ndarray]:
    """The teacher's tensors, matrices as int8 with a scale a row: 23 MB in place of 90."""
    from safetensors.numpy import load_file

    arrays: dict[str, np.ndarray] = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        if not np.issubdtype(tensor.dtype, np.floating):
            continue
        tensor = tensor.astype(np.float32)
        if tensor.ndim == 2 and tensor.size > 100_000:
            scale = np.maximum(np.abs(tensor).max(1, keepdims=True), 1e-8) / 127
            arrays[name] = np.round(tensor / scale).astype(np.int8)
            arrays[name + ".scale"] = scale.astype(np.float32)
        else:
            arrays[name] = tensor.astype(np.float16)
    return arrays


def write_probes(path: Path, train: int = 4000, validation: int = 300) -> None:
    """Train and validation texts of the bundled sets, for the look at a finished model alone."""
    probes = {}
    for name in SETS:
        form = " ".join(f"{field}: {{{field}}}" for field in find(name).fields)
        probes[name] = {
            "labels": list(find(name).labels),
            **{
                split: [[form.format_map(row), row["label"]] for row in rows(name, split)[:count]]
                for split, count in (("train", train), ("validation", validation))
            },
        }
    path.write_text(json.dumps(probes))


def main(arguments: list[str]) -> int:
    text_directory, task_directory, teacher, vader, destination = map(Path, arguments)
    destination.mkdir(parents=True, exist_ok=True)
    random_ = random.Random(0)
    held_texts = [t for split in ("validation", "test") for t in bundled_texts(split)]
    held = HeldOut(held_texts)
    held_words = {
        re.sub(r"^this is about (a kind of )?|\.$", "", row["text1"].lower())
        for split in ("validation", "test") for row in rows("wordnet_hypernym", split)
    }  # fmt: skip
    movie = Movie()
    texts: list[Text] = []
    for name in SOURCES:
        if name == "bundled":
            more = bundled(random_)
        elif (text_directory / f"{name}.txt").is_file():
            more = plain(text_directory, name, held, held_words, random_)
        else:
            more = labelled(task_directory, name, held, random_, movie)
        texts += more
        print(f"{name:22s} {len(more):7,}", flush=True)
    tone = tones(texts, vader)
    labels = [by_rule(text, value) for text, value in zip(texts, tone, strict=True)]
    values, table = attributes(labels)
    for name, names in values.items():
        print(f"{name:18s} {int((table[name] >= 0).sum()):7,} {names[:8]}")
    banned = {label for name in SETS for label in SETS[name].labels if " " in label}
    chosen = phrases(texts, banned)
    print(f"{len(chosen):,} phrases", random_.sample(chosen, 30))
    with (destination / "texts.tsv").open("w", encoding="utf-8") as file:
        for text in texts:
            clean = text.text.replace("\t", " ")
            file.write(f"{text.source}\t{text.paragraph}\t{clean}\n")
    (destination / "phrases.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    np.savez_compressed(destination / "attributes.npz", **table)
    (destination / "values.json").write_text(json.dumps(values, indent=0))
    np.savez_compressed(destination / "teacher.npz", **quantised(teacher))
    (destination / "teacher_tokenizer.json").write_bytes((teacher / "tokenizer.json").read_bytes())
    write_probes(destination / "probes.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
