"""A small corpus of random arrays, and small fixtures of all that `tools.mini.prepare` reads."""

import json
import lzma
import random
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from tasks.bundled.sets import SETS
from tools.mini import batches, prepare, rows, shape, sources, teacher
from tools.mini.corpus import MOST_VALUES, Corpus, members_by_value
from tools.mini.wordings import VARIANTS

MARKS = rows.Marks(jnp.array([5, 6]), jnp.array([5, 7, 6]), jnp.array([5, 8, 6]))
CONFIG = shape.config()
TEXTS, TOPICS, PIECES = 70, 60, 100
VALUES = (2, 5, 23)


def random_key(seed=0):
    return jax.random.key(seed, impl="rbg")


def keys(count, seed=0):
    return jax.random.split(random_key(seed), count)


def unit(random_, count):
    vectors = random_.normal(size=(count, teacher.WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fake_table():
    """Values of three attributes; every value has texts, and some texts have none."""
    numbers = np.arange(TEXTS)
    return {
        str(j): np.where(numbers % 9 == j, -1, numbers % values) for j, values in enumerate(VALUES)
    }


def fake_corpus() -> Corpus:
    """A corpus in which no two texts share a piece, and no two names a phrase."""
    random_ = np.random.default_rng(0)
    length = random_.integers(10, 104, (TEXTS, 1))
    first = 10 + PIECES * np.arange(TEXTS)[:, None]
    text = first + random_.integers(0, PIECES, (TEXTS, 104))
    text[np.arange(104)[None] >= length] = 0
    values = {str(j): [str(v) for v in range(size)] for j, size in enumerate(VALUES)}
    members, start, count = members_by_value(values, fake_table())
    names = np.zeros((len(VALUES), VARIANTS, MOST_VALUES), np.int32)
    total = TOPICS
    for j, size in enumerate(VALUES):
        for variant in range(VARIANTS):
            names[j, variant, :size] = total + np.arange(size)
            total += size
    pair_names = total + np.arange(30).reshape(5, 3, 2)
    answers = total + 30 + np.arange(8).reshape(4, 2)
    phrases = total + 38
    # A phrase's pieces name it: its number in two digits.
    phrase = np.zeros((phrases, 8), np.int32)
    phrase[:, 0], phrase[:, 1] = 7100 + np.arange(phrases) // 30, 7200 + np.arange(phrases) % 30
    pair = random_.permutation(TEXTS)[:50]
    heads = 20
    corpus = Corpus(
        text=text.astype(np.int32),
        vector=unit(random_, TEXTS),
        after=np.where(np.arange(TEXTS) % 2 == 0, np.arange(TEXTS) + 1, -1).astype(np.int32),
        pair=pair.astype(np.int32),
        near=((pair[:, None] + 1 + np.arange(8)) % TEXTS).astype(np.int32),
        phrase=phrase,
        phrase_vector=unit(random_, phrases),
        texts_of=random_.integers(0, TEXTS, (phrases, 192)).astype(np.int32),
        phrase_near=random_.integers(0, TOPICS, (phrases, 128)).astype(np.int32),
        topics=np.int32(TOPICS),
        members=members,
        start=start,
        count=count,
        names=names,
        values=np.array(VALUES, np.int32),
        chance=np.full(len(VALUES), 1 / len(VALUES), np.float32),
        head=np.pad(7400 + np.arange(heads)[:, None], ((0, 0), (0, 5))).astype(np.int32),
        head_genus=np.arange(heads, dtype=np.int32),
        pair_names=pair_names.astype(np.int32),
        answers=answers.astype(np.int32),
        piece_near=random_.integers(3, 7000, (CONFIG.vocab_size, 8)).astype(np.int32),
    )
    return jax.tree.map(jnp.asarray, corpus)


def phrase_of(target) -> int:
    """The number of the phrase that a target of the fake corpus spells."""
    first, second, end = target[:3]
    assert end == rows.EOS and not target[3:].any()
    return int((first - 7100) * 30 + second - 7200)


def random_bert(layers=teacher.LAYERS, width=teacher.WIDTH, words=1000, inner=64):
    random_ = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (words, width),
        "embeddings.position_embeddings.weight": (teacher.LENGTHS[-1], width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(layers):
        at = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{at}.attention.{name}.weight"] = (width, width)
        shapes[f"{at}.intermediate.dense.weight"] = (inner, width)
        shapes[f"{at}.output.dense.weight"] = (width, inner)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{at}.{name}.weight"] = (width,)
    for name, size in list(shapes.items()):
        if name.startswith("encoder"):
            shapes[name.replace(".weight", ".bias")] = size[:1]
    tensors = {
        name: random_.normal(size=size).astype(np.float32) / np.sqrt(size[-1])
        for name, size in shapes.items()
    }
    return {n: 1 + t if n.endswith("LayerNorm.weight") else t for n, t in tensors.items()}


def fake_tokenise(path, texts):
    """Word pieces by a hash of each word: the package `tokenizers` need not be installed."""
    return [[1 + zlib.crc32(w.encode()) % 999 for w in text.split()[:64]] or [1] for text in texts]


WORDS = [
    "river",
    "stone",
    "bridge",
    "market",
    "garden",
    "winter",
    "summer",
    "letter",
    "window",
    "mountain",
    "village",
    "station",
    "captain",
    "doctor",
    "teacher",
    "farmer",
    "soldier",
    "engine",
    "signal",
    "harbour",
    "island",
    "forest",
    "meadow",
    "valley",
    "castle",
    "tower",
    "kitchen",
    "dinner",
    "coffee",
    "orange",
    "copper",
    "silver",
    "golden",
    "narrow",
    "distant",
    "ancient",
    "modern",
    "quiet",
    "follows",
    "carries",
    "watches",
    "gathers",
    "answers",
    "measures",
    "repairs",
    "delivers",
    "remembers",
    "discovers",
]
LISTED = {
    "newsgroups20_raw": ("rec.autos", "sci.space"),
    "yahoo_answers": ("Health", "Sports"),
    "stackoverflow": ("visual-studio", "bash"),
    "trec": ("number", "location"),
    "sarcasm_headlines": ("sarcastic", "not sarcastic"),
    "rotten_tomatoes": ("positive", "negative"),
}
MOVIE = "this film is a stone cold wonder that carries its captain far beyond the harbour tonight"
HELD = "the committee of nine retired whales votes against painting the moon purple again"
BUNDLED = {
    "vader_movie": {
        "train": [{"text": MOVIE, "label": "positive"}],
        "validation": [{"text": "a dull film of a narrow valley and a tower", "label": "negative"}],
        "test": [],
    },
    "clinc150": {
        "train": [
            {"text": f"tell the station number {i} about my orange letter", "label": "zzlabel"}
            for i in range(30)
        ],
        "validation": [{"text": HELD, "label": "zzlabel"}],
        "test": [],
    },
    "wordnet_hypernym": {
        "train": [],
        "validation": [],
        "test": [{"text1": "This is about a kind of zogword.", "text2": "b", "label": "yes"}],
    },
}  # fmt: skip
VADER = """
class SentimentIntensityAnalyzer:
    def polarity_scores(self, text):
        words = text.lower().split()
        for word, value in (("wonderful", 0.8), ("awful", -0.8), ("nice", 0.3)):
            if word in words:
                return {"compound": value}
        return {"compound": 0.0}
"""


def sentence(random_: random.Random, number: int) -> str:
    """A sentence whose number decides what rules say of it."""
    first = ("What", "I", "You", "He", "Why")[number % 5]
    feeling = ("wonderful", "awful", "nice", "plain")[number % 4]
    digits = str(number) if number % 2 else "several"
    words = random_.choices(WORDS, k=(4, 8, 18)[number % 3])
    return f"{first} {feeling} {digits} {' '.join(words)}{'?' if number % 7 < 3 else '.'}"


def plain_line(name: str, random_: random.Random, number: int) -> str:
    kind = ("tool", "animal")[number % 2]
    words = " ".join(random_.choices(WORDS, k=6))
    if name == "gcide":
        part = "v. t" if number % 4 > 1 else "n"
        domain = ("(Zool.) ", "(Bot.) ", "")[number % 3]
        return f"Word{chr(97 + number % 26)}, {part}. {domain}A {kind} made of {words}."
    if name == "foldoc":
        return f"<{('language', 'hardware')[number % 2]}> A {kind} made of {words}."
    if name == "wordnet_glosses":
        return f"{WORDS[number % 24]}: a {kind} made of {words}"
    return sentence(random_, number)


def labelled_row(name: str, random_: random.Random, number: int) -> dict[str, str]:
    row = {"text": sentence(random_, number), "label": LISTED[name][number % 2]}
    return row | {"fine": ("NUM:weight", "LOC:city")[number % 2]} if name == "trec" else row


def write_set(path: Path, items) -> None:
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in items)


def write_sources(directory: Path, lines: int = 60) -> list[str]:
    """Write all sources, and return the arguments of `tools.mini.prepare` that name them."""
    random_ = random.Random(0)
    for name in ("texts", "sets", "teacher", "vader/vaderSentiment"):
        (directory / name).mkdir(parents=True)
    for name in sources.PLAIN:
        paragraphs = [plain_line(name, random_, i) for i in range(lines)]
        if name == "brown":
            paragraphs.append(f"He said that {HELD} and left.")
        if name == "wordnet_glosses":
            paragraphs.append("zogword: a tool made of old harbour stones")
        (directory / "texts" / f"{name}.txt").write_text("\n".join(paragraphs) + "\n")
    for name in sources.LABELLED:
        items = [labelled_row(name, random_, i) for i in range(lines)]
        if name == "rotten_tomatoes":
            items.append({"text": f"Well, {MOVIE}!", "label": "positive"})
        write_set(directory / "sets" / f"{name}.jsonl.xz", items)
    save_file(random_bert(), directory / "teacher" / "model.safetensors")
    (directory / "teacher" / "tokenizer.json").write_text("{}")
    (directory / "vader" / "vaderSentiment" / "vaderSentiment.py").write_text(VADER)
    flags = ("texts", "sets", "teacher", "vader")
    return [part for name in flags for part in (f"--{name}", str(directory / name))]


def use_small_sets(monkeypatch, labels: bool = True) -> None:
    """Let `tools.mini.prepare` see three small bundled sets; without `labels` they have none."""

    def rows_of(name, split):
        items = BUNDLED[name][split]
        return items if labels else [{k: v for k, v in r.items() if k != "label"} for r in items]

    small = {name: SETS[name] for name in BUNDLED}
    for module in (sources, prepare):
        monkeypatch.setattr(module, "rows", rows_of)
        monkeypatch.setattr(module, "SETS", small)


SIZES = batches.Sizes(*[4] * 10)
